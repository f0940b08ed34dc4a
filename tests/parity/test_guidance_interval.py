"""Guidance in a part of the steps: where it is applied, and what it leaves alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.parity import relative_error
from runtime import AudioLDM2Pipeline
from runtime.backends.onnxruntime import OrtEngine

CALL = {"prompt": "rain on a roof", "negative_prompt": "wind", "num_inference_steps": 8, "audio_length_in_s": 0.5}


@pytest.fixture
def pipe(bundle: Callable[[str], Path]) -> AudioLDM2Pipeline:
    return AudioLDM2Pipeline.from_pretrained(bundle("plain"), "cpu")


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler"])
def test_steps_outside_run_the_positive_rows_alone(
    scheduler: str, pipe: AudioLDM2Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    run = OrtEngine.run

    def spy(self: OrtEngine, feeds: Any) -> Any:
        if "sample" in feeds:
            rows.append(len(feeds["sample"]))
        return run(self, feeds)

    monkeypatch.setattr(OrtEngine, "run", spy)
    pipe(seed=1, scheduler=scheduler, guidance_interval=(0.25, 0.75), num_waveforms_per_prompt=2, **CALL)
    count = len(rows)
    expected = [4 if 0.25 <= i / count < 0.75 else 2 for i in range(count)]
    assert rows == expected
    assert {2, 4} == set(rows)


def test_the_ends_of_the_interval(pipe: AudioLDM2Pipeline) -> None:
    """The whole is what it was; a part lies between guidance and none, and its unguided steps see the prompt."""
    seed = int(np.random.default_rng().integers(1_000))
    whole, default, first = (
        pipe(seed=seed, **CALL, **part).audios
        for part in ({"guidance_interval": (0, 1)}, {}, {"guidance_interval": (0, 0.5)})
    )
    none = pipe(seed=seed, guidance_scale=1.0, **CALL).audios
    np.testing.assert_array_equal(whole, default)
    late = pipe(seed=seed, guidance_interval=(0.9999, 1), **CALL).audios  # no step begins there
    np.testing.assert_array_equal(late, none)
    assert relative_error(first, whole) > 1e-3
    assert relative_error(first, none) > 1e-3
