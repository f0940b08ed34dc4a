"""The published base size on random weights: minutes and gigabytes, so not in CI. `pytest -m slow`."""

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.configs import BASE
from export.demo import write_checkpoint
from export.parity import relative_error
from runtime import AudioLDM2Pipeline
from tests.conftest import load_reference

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "checkpoint"
    write_checkpoint(folder, overrides=BASE)
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    out = checkpoint.parent / "bundle"
    command = [sys.executable, "-m", "export", "build", "--checkpoint", str(checkpoint), "--out", str(out)]
    subprocess.run(command, check=True)
    return out


def test_the_build_keeps_within_8_gib(bundle: Path) -> None:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"peak memory of the build {peak:.1f} GiB")
    assert bundle.is_dir()
    assert peak < 8


def test_same_waveform_at_base_size(bundle: Path, checkpoint: Path) -> None:
    pipe, reference = AudioLDM2Pipeline.from_pretrained(bundle), load_reference(checkpoint)
    for duration in (1.0, 2.5, 10.0):
        seed = int(np.random.default_rng().integers(2**31))
        common: dict[str, Any] = {
            "prompt": "The sound of a hammer hitting a wooden surface.",
            "negative_prompt": "Low quality.",
            "audio_length_in_s": duration,
            "num_inference_steps": 3,
        }
        expected = np.asarray(reference(generator=torch.Generator("cpu").manual_seed(seed), **common).audios)
        actual = pipe(seed=seed, **common).audios
        error = relative_error(actual, expected)
        print(f"base, {duration} s: relative error {error:.1e}, reference RMS {np.sqrt((expected**2).mean()):.2f}")
        assert np.sqrt((expected**2).mean()) > 1e-2
        assert error <= 1e-3
