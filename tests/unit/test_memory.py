"""What a call is estimated to take, and the refusal of one that does not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runtime.arguments import Arguments, Options
from runtime.bundle import Bundle
from runtime.bundle.manifest import Manifest
from runtime.errors import InputError
from runtime.memory import check_memory, peak_bytes
from runtime.request import Request, check_request
from tests.unit.helpers import AUDIO, make_manifest, raises_line
from tests.unit.test_bundle import make_bundle

WEIGHTS = 1_000  # bytes of one of make_bundle's engines
ROW = 1e6  # activations a row and latent row, of every engine of make_bundle


def make_request(duration_s: float, waveforms: int = 1, guidance_scale: float = 3.5) -> Request:
    given = Arguments(
        prompt="rain",
        audio_length_in_s=duration_s,
        guidance_scale=guidance_scale,
        num_waveforms_per_prompt=waveforms,
    )
    return check_request(make_manifest(), given)


def bundle_of_one(folder: Path, **facts: Any) -> Manifest:
    """A manifest whose only engine has 1000 bytes of weights, takes ROW for each row, and is else as `facts` say."""
    manifest = make_bundle(folder)
    one = msgspec.structs.replace(manifest.engines["text_encoder"], **facts)
    manifest.engines.clear()
    manifest.engines["one"] = one
    return manifest


def peak(folder: Path, request: Request, *, low_memory: bool = False, vae_slicing: bool = False, **facts: Any) -> float:
    manifest = bundle_of_one(folder, **facts)
    return peak_bytes(manifest, request, request.latent_shape[2], low_memory=low_memory, vae_slicing=vae_slicing)


@pytest.mark.parametrize(
    ("rows", "guided", "sliced", "plain"), [("guided", 6, 6, 3), ("waveform", 3, 3, 3), ("sliceable", 3, 1, 3)]
)
def test_rows_that_an_engine_gets(rows: str, guided: int, sliced: int, plain: int, tmp_path: Path) -> None:
    request = make_request(10.0, 3)
    assert peak(tmp_path / "a", request, rows=rows) == guided * 250 * ROW
    assert peak(tmp_path / "b", request, rows=rows, vae_slicing=True) == sliced * 250 * ROW
    assert peak(tmp_path / "c", make_request(10.0, 3, guidance_scale=1.0), rows=rows) == plain * 250 * ROW


def test_in_windows_an_engine_takes_one_at_most(tmp_path: Path) -> None:
    window = -(-(AUDIO.vocoder_window_frames + 2 * AUDIO.vocoder_context_frames) // AUDIO.vae_scale_factor)
    facts = {"rows": "waveform", "in_windows": True}
    assert peak(tmp_path / "a", make_request(10.0), **facts) == 250 * ROW
    assert peak(tmp_path / "b", make_request(60.0), **facts) == window * ROW
    assert peak(tmp_path / "c", make_request(3600.0, 2), **facts) == 2 * window * ROW
    assert peak(tmp_path / "d", make_request(3600.0, 2), rows="waveform") == 2 * 90_000 * ROW


@pytest.mark.parametrize("rows", ["guided", "waveform", "sliceable"])
@pytest.mark.parametrize("activations", [(0.0, ROW), (), None])
def test_weights_count_where_they_are_still_to_be_loaded(
    rows: str, activations: tuple[float, ...] | None, tmp_path: Path
) -> None:
    request, facts = make_request(1.0), {"rows": rows, "activation_bytes": activations}
    plain = peak(tmp_path / "a", request, **facts)
    assert peak(tmp_path / "b", request, low_memory=True, **facts) - plain == WEIGHTS
    assert (plain > 0) == bool(activations)


def test_what_is_not_known_refuses_nothing_but_weights_do(tmp_path: Path) -> None:
    manifest = bundle_of_one(tmp_path / "a", activation_bytes=None)
    request = make_request(3600.0, 4)
    check_memory(manifest, request, 1)
    check_memory(manifest, request, WEIGHTS, Options(low_memory=True))
    with raises_line(InputError, "not even the shortest fits"):
        check_memory(manifest, request, WEIGHTS - 1, Options(low_memory=True))
    check_memory(bundle_of_one(tmp_path / "b"), request, None)


@pytest.mark.parametrize(
    ("options", "fits_s"), [({}, 0.2), ({"vae_slicing": True}, 0.6), ({"low_memory": True}, 0.2)], ids=str
)
def test_refusal_says_what_fits(options: dict[str, Any], fits_s: float, tmp_path: Path) -> None:
    manifest = bundle_of_one(tmp_path / "bundle", rows="sliceable")
    available = int(15 * ROW) + WEIGHTS
    check_memory(manifest, make_request(fits_s, 3), available, Options(**options))
    with raises_line(InputError, "3 waveforms of 1.0 s", f"about {fits_s} s fit"):
        check_memory(manifest, make_request(1.0, 3), available, Options(**options))


def test_windows_take_no_more_for_a_long_sound(bundle: Callable[[str], Path]) -> None:
    """What the UNet and the autoencoder see is a window, and the vocoder has its own."""
    manifest = Bundle.read(bundle("plain")).manifest

    def peak(**call: Any) -> float:
        request = check_request(manifest, Arguments(prompt="rain", **call))
        return peak_bytes(manifest, request, request.latent_shape[2], low_memory=False, vae_slicing=False)

    window, long, whole = (
        peak(audio_length_in_s=15),
        peak(audio_length_in_s=180, window_s=15),
        peak(audio_length_in_s=180),
    )
    assert window == long
    assert whole > 4 * long
