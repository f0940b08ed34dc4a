"""Keeping features between steps: the outermost level alone gives what the whole gives, and runs where it should."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.checkpoint import Checkpoint
from export.components import COMPONENTS
from export.demo import write_checkpoint
from export.parity import relative_error
from runtime import AudioLDM2Pipeline, BundleError, InputError
from runtime.backends.onnxruntime import OrtEngine
from runtime.bundle import Bundle
from runtime.cli import main
from runtime.diffusion.schedulers import scheduler_names
from tests.checkpoints import SMALL, SPEECH
from tests.unit.helpers import raises_line

EXACT = 1e-5
CALL: dict[str, Any] = {"prompt": "rain on a roof", "num_inference_steps": 8, "audio_length_in_s": 0.5}


@pytest.fixture
def pipe(bundle: Callable[[str], Path]) -> AudioLDM2Pipeline:
    return AudioLDM2Pipeline.from_pretrained(bundle("plain"), "cpu")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Each run of the UNet or its outermost level, with its rows."""
    seen: list[tuple[str, int]] = []
    run = OrtEngine.run

    def spy(self: OrtEngine, feeds: Any) -> Any:
        if "sample" in feeds:
            seen.append((self._name, len(feeds["sample"])))
        return run(self, feeds)

    monkeypatch.setattr(OrtEngine, "run", spy)
    return seen


@pytest.mark.parametrize("name", [*SMALL, *SPEECH])
def test_on_features_of_the_same_step_it_is_the_whole(
    name: str, bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    opened, height = Bundle.read(bundle(name)), int(np.random.default_rng().integers(1, 40))
    whole, shallow = opened.open("unet"), opened.open("unet_shallow")
    component = COMPONENTS["unet"](Checkpoint(checkpoint(name), name))
    drawn = component.draw({**component.sizes[0], "height": height}, torch.Generator())
    feeds = {key: value.numpy() for key, value in drawn.items() if key in whole.inputs}
    expected = whole.run(feeds)
    known = {**feeds, "deep_features": expected["deep_features"]}
    given = {key: known[key] for key in shallow.inputs}
    actual = shallow.run(given)["noise_pred"]
    print(f"{name}, height {height}: relative error {relative_error(actual, expected['noise_pred']):.1e}")
    assert relative_error(actual, expected["noise_pred"]) <= EXACT
    other = shallow.run({**given, "deep_features": -given["deep_features"]})["noise_pred"]
    assert relative_error(other, expected["noise_pred"]) > 1e-2  # they matter


def test_a_unet_of_one_level_has_its_middle_below(tmp_path: Path) -> None:
    level = {
        "block_out_channels": [32],
        "cross_attention_dim": [[None, 48, 64]],
        "down_block_types": ["CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D"],
    }
    write_checkpoint(tmp_path, overrides={"unet": level})
    whole, shallow = (COMPONENTS[name](Checkpoint(tmp_path, "one")) for name in ("unet", "unet_shallow"))
    inputs = whole.draw(whole.sizes[0], torch.Generator())
    with torch.no_grad():
        expected, deep = whole.module(*inputs.values())
        actual = shallow.module(*inputs.values(), deep)
    assert deep.shape[1] == whole.outputs["deep_features"].min_shape[1]
    assert relative_error(actual.numpy(), expected.numpy()) <= EXACT


def test_without_it_nothing_changes(pipe: AudioLDM2Pipeline, runs: list[tuple[str, int]]) -> None:
    default = pipe(seed=1, **CALL).audios
    np.testing.assert_array_equal(pipe(seed=1, feature_cache_interval=1, **CALL).audios, default)
    assert runs == [("unet", 2)] * 16


@pytest.mark.parametrize("scheduler", scheduler_names())
def test_the_whole_runs_at_every_so_many_steps(
    scheduler: str, pipe: AudioLDM2Pipeline, runs: list[tuple[str, int]]
) -> None:
    rng = np.random.default_rng()
    arguments = {**CALL, "seed": int(rng.integers(1_000)), "scheduler": scheduler, "num_waveforms_per_prompt": 2}
    expected = pipe(**arguments).audios
    runs.clear()
    interval = int(rng.integers(2, 4))
    found = pipe(feature_cache_interval=interval, **arguments).audios
    assert runs == [("unet_shallow" if i % interval else "unet", 4) for i in range(len(runs))]
    assert 1e-4 < relative_error(found, expected) < 2


def test_beside_guidance_in_an_interval(pipe: AudioLDM2Pipeline, runs: list[tuple[str, int]]) -> None:
    """Each step has the rows that it has without, and guidance that begins finds features of all its rows."""
    for interval in ((0.0, 0.5), (0.375, 1.0)):
        rows = []
        for cache in (1, 4):
            runs.clear()
            pipe(seed=1, scheduler="DDIMScheduler", guidance_interval=interval, feature_cache_interval=cache, **CALL)
            rows.append([count for _, count in runs])
        assert rows[0] == rows[1]
    assert [i for i, (name, _) in enumerate(runs) if name == "unet"] == [0, 3, 4]


def test_openvino_gives_the_same(bundle: Callable[[str], Path], pipe: AudioLDM2Pipeline) -> None:
    """Its outputs may be views of the engine's memory: features have to outlive other engines' runs."""
    arguments = {**CALL, "seed": 3, "feature_cache_interval": 3}
    other = AudioLDM2Pipeline.from_pretrained(bundle("plain"), "cpu", backend="openvino", precision="fp32")
    assert relative_error(other(**arguments).audios, pipe(**arguments).audios) <= 1e-3


def test_low_memory_refuses_it(bundle: Callable[[str], Path]) -> None:
    low = AudioLDM2Pipeline.from_pretrained(bundle("plain"), "cpu", low_memory=True)
    with raises_line(InputError, "feature_cache_interval", "low_memory"):
        low(feature_cache_interval=2, **CALL)
    assert np.isfinite(low(**{**CALL, "num_inference_steps": 2}).audios).all()


def test_a_bundle_without_it_says_how_to_get_it(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    """One of an earlier version is of an earlier schema too: this one is damaged."""
    folder = Path(shutil.copytree(bundle("plain"), tmp_path / "old"))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["engines"]["unet_shallow"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with raises_line(BundleError, "unet_shallow", "python -m export build"):
        AudioLDM2Pipeline.from_pretrained(folder, "cpu")


def test_the_flag_reaches_the_call(bundle: Callable[[str], Path], tmp_path: Path, runs: list[tuple[str, int]]) -> None:
    flags = ["--steps", "4", "--duration", "0.5", "--scheduler", "DDIMScheduler", "--feature-cache", "3", "--quiet"]
    assert main(["rain", "--engines", str(bundle("plain")), "-o", str(tmp_path / "x.wav"), *flags]) == 0
    assert [name for name, _ in runs] == ["unet", "unet_shallow", "unet_shallow", "unet"]
