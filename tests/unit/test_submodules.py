"""Facts of submodules: one table in the export stage, and what the manifest and the build key have of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.checkpoint import Checkpoint
from export.components import COMPONENTS
from export.engines_onnx import ONNX
from export.target import GROWING, QUANTIZED, Target, build_keys
from runtime.backends.device import HostDevice
from runtime.bundle import Bundle
from runtime.bundle.families import FAMILIES
from runtime.bundle.manifest import SCHEMA
from runtime.bundle.schema import LATER_ENGINES
from tests.unit.test_bundle import make_bundle

ENGINES = FAMILIES["audioldm2"].engines


def test_the_builder_makes_what_the_runtime_asks_for() -> None:
    assert sorted(COMPONENTS) == sorted((*ENGINES, *LATER_ENGINES))


def test_facts() -> None:
    """As measured: see bench/LOG.md for INT8 and for what is heard."""
    assert QUANTIZED == ("unet", "vae_decoder", "vocoder")
    assert GROWING == ("unet", "unet_shallow", "vae_encoder", "vae_decoder")
    assert [name for name, part in COMPONENTS.items() if part.facts.audible] == ["vocoder"]
    assert [name for name, part in COMPONENTS.items() if part.facts.in_windows] == ["vocoder"]
    assert {name: part.facts.rows for name, part in COMPONENTS.items() if part.facts.rows != "guided"} == {
        "audio_encoder": "waveform",
        "vae_encoder": "sliceable",
        "vae_decoder": "sliceable",
        "vocoder": "waveform",
    }


def test_facts_of_a_built_bundle(bundle: Callable[[str], Path]) -> None:
    manifest = Bundle.read(bundle("plain")).manifest
    assert (manifest.schema, manifest.family, manifest.token_multiple) == (SCHEMA, "audioldm2", 16)
    assert manifest.audio.vocoder_window_frames == 1024
    for name, spec in manifest.engines.items():
        facts = COMPONENTS[name].facts
        assert (spec.rows, spec.in_windows, spec.audible) == (facts.rows, facts.in_windows, facts.audible)
        grows = facts.spans_audio or facts.in_windows
        assert spec.activation_bytes is not None
        assert bool(spec.activation_bytes) == grows
        assert len(spec.record.build_key) == 64


@pytest.mark.parametrize(
    ("place", "value"),
    [("export.checkpoint.WINDOW_FRAMES", 1025), ("export.target.TYPICAL_TOKENS", 17)],
)
def test_what_the_runtime_goes_by_is_in_the_build_key(
    place: str, value: int, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Checkpoint(checkpoint("plain"), "plain")
    before = build_keys(source, Target(maker=ONNX), {})
    assert build_keys(source, Target(maker=ONNX), {}) == before
    monkeypatch.setattr(place, value)
    after = build_keys(source, Target(maker=ONNX), {})
    assert all(after[name] != before[name] for name in COMPONENTS)


def test_the_vocoders_bound_is_the_manifests_window(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Checkpoint(checkpoint("plain"), "plain")
    monkeypatch.setattr("export.checkpoint.WINDOW_FRAMES", 777)
    audio = source.audio()
    assert audio.vocoder_window_frames == 777
    assert COMPONENTS["vocoder"](source).limits == {"frames": 777 + 2 * audio.vocoder_context_frames}


def test_an_engine_is_opened_with_what_the_manifest_says_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is heard comes from the manifest, whatever the file is called."""
    make_bundle(tmp_path / "bundle")
    heard: dict[str, bool] = {}

    def load(path: Path, *, audible: bool, **_: Any) -> None:
        heard[path.stem] = audible

    monkeypatch.setattr("runtime.bundle.bundle.load_engine", load)
    opened = Bundle.read(tmp_path / "bundle")
    for name in ENGINES:
        opened.open(name, HostDevice())
    assert heard == {name: name == "vocoder" for name in ENGINES}
