"""Checkpoints and bundles that many tests share, made once a session."""

import logging
import os
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import SMALL, SPEECH

os.environ["TRT_AUDIOLDM2_BACKEND"] = "onnxruntime"  # of commands; OpenVINO's own tests ask for it


@pytest.fixture(scope="session", autouse=True)
def graphs_run_in_onnxruntime() -> Iterator[None]:
    """Left to choose, pipelines take ONNX Runtime, as where OpenVINO is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runtime.bundle.choice.find_spec", lambda _: None)
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the small checkpoint of a name in SMALL or SPEECH."""
    from export.demo import write_checkpoint

    @cache
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(f"checkpoint-{name}")
        write_checkpoint(folder, seed=zlib.crc32(name.encode()) % 1000, overrides={**SMALL, **SPEECH}[name])
        return folder

    return make


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]) -> Callable[[str], Path]:
    """Folder of the bundle built from a small checkpoint. Shared: tests that change one copy it first."""
    from export.build import build
    from export.checkpoint import Checkpoint

    @cache
    def make(name: str) -> Path:
        out = tmp_path_factory.mktemp("engines") / name
        build(Checkpoint(checkpoint(name), name), out, report=logging.getLogger("tests").info)
        return out

    return make


@pytest.fixture(scope="session")
def reference(checkpoint: Callable[[str], Path]) -> Callable[[str], Any]:
    """The reference pipeline over a small checkpoint."""

    @cache
    def load(name: str) -> Any:
        return load_reference(checkpoint(name))

    return load


def load_reference(folder: Path) -> Any:
    """diffusers' AudioLDM2Pipeline with GPT2LMHeadModel, silent, on the CPU in FP32."""
    import torch
    from diffusers import AudioLDM2Pipeline
    from transformers import GPT2LMHeadModel

    language_model = GPT2LMHeadModel.from_pretrained(folder / "language_model", dtype=torch.float32)
    pipeline = AudioLDM2Pipeline.from_pretrained(folder, language_model=language_model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
