"""What a call is estimated to take, and the refusal of one that does not fit."""

from pathlib import Path
from typing import Any

import pytest

from runtime.arguments import Arguments
from runtime.errors import InputError
from runtime.memory import check_memory, peak_bytes
from runtime.request import Request, check_request
from tests.unit.helpers import AUDIO, raises_line
from tests.unit.test_bundle import make_bundle

WEIGHTS = {"unet": 2_000, "vocoder": 1_000}  # bytes of make_bundle's files
ROW = 1e6  # activations a row and latent row, of every engine of make_bundle


def make_request(duration_s: float, waveforms: int = 1, guidance_scale: float = 3.5) -> Request:
    given = Arguments(
        prompt="rain",
        audio_length_in_s=duration_s,
        guidance_scale=guidance_scale,
        num_waveforms_per_prompt=waveforms,
    )
    return check_request(AUDIO, given)


def peak(folder: Path, engine: str, request: Request, low_memory: bool = False, vae_slicing: bool = False) -> float:
    """Of a bundle whose only engine is the vocoder of `make_bundle`, under another name."""
    manifest = make_bundle(folder)
    manifest.engines[engine] = manifest.engines["vocoder"]
    for name in set(manifest.engines) - {engine}:
        del manifest.engines[name]
    return peak_bytes(manifest, request, request.latent_shape[2], low_memory=low_memory, vae_slicing=vae_slicing)


def test_guidance_doubles_the_unet(tmp_path: Path) -> None:
    assert peak(tmp_path / "a", "unet", make_request(10.0, 3)) == 6 * 250 * ROW
    assert peak(tmp_path / "b", "unet", make_request(10.0, 3, guidance_scale=1.0)) == 3 * 250 * ROW
    assert peak(tmp_path / "c", "unet_shallow", make_request(10.0, 3)) == 6 * 250 * ROW


def test_slicing_decodes_one_row(tmp_path: Path) -> None:
    assert peak(tmp_path / "a", "vae_decoder", make_request(10.0, 3)) == 3 * 250 * ROW
    assert peak(tmp_path / "b", "vae_decoder", make_request(10.0, 3), vae_slicing=True) == 250 * ROW
    assert peak(tmp_path / "c", "vocoder", make_request(10.0, 3), vae_slicing=True) == 3 * 250 * ROW


def test_the_vocoder_takes_a_window_at_most(tmp_path: Path) -> None:
    window = -(-(AUDIO.vocoder_window_frames + 2 * AUDIO.vocoder_context_frames) // AUDIO.vae_scale_factor)
    assert peak(tmp_path / "a", "vocoder", make_request(10.0)) == 250 * ROW
    assert peak(tmp_path / "b", "vocoder", make_request(60.0)) == window * ROW
    assert peak(tmp_path / "c", "vocoder", make_request(3600.0, 2)) == 2 * window * ROW


@pytest.mark.parametrize("engine", ["unet", "vae_decoder", "vocoder"])
def test_weights_count_where_they_are_still_to_be_loaded(engine: str, tmp_path: Path) -> None:
    request = make_request(1.0)
    plain, low = peak(tmp_path / "a", engine, request), peak(tmp_path / "b", engine, request, low_memory=True)
    assert low - plain == WEIGHTS["vocoder"]


@pytest.mark.parametrize(
    ("options", "fits_s"), [({}, 0.2), ({"vae_slicing": True}, 0.6), ({"low_memory": True}, 0.2)], ids=str
)
def test_refusal_says_what_fits(options: dict[str, Any], fits_s: float, tmp_path: Path) -> None:
    manifest = make_bundle(tmp_path / "bundle")
    manifest.engines["vae_decoder"] = manifest.engines.pop("vocoder")
    del manifest.engines["unet"]
    available = int(15 * ROW) + 1_000
    check_memory(manifest, make_request(fits_s, 3), available, **options)
    with raises_line(InputError, "3 waveforms of 1.0 s", f"about {fits_s} s fit"):
        check_memory(manifest, make_request(1.0, 3), available, **options)
