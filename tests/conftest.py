"""Checkpoints and bundles that many tests share, made once in a run, also where several processes share its tests."""

import gc
import logging
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.checkpoints import SMALL, SPEECH

Shared = Callable[[str, Callable[[Path], object]], Path]

os.environ["TRT_AUDIOLDM2_BACKEND"] = "onnxruntime"  # of commands; OpenVINO's own tests ask for it
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    # Before torch and NumPy are imported: threads of more processes than there are cores wait for each other.
    share = str(max(1, (os.cpu_count() or 1) // workers))
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), share))

settings.register_profile("side by side", deadline=None)  # an example may wait while other processes have the cores
settings.load_profile("side by side")


@pytest.fixture(scope="session", autouse=True)
def graphs_run_in_onnxruntime() -> Iterator[None]:
    """Left to choose, pipelines take ONNX Runtime, as where OpenVINO is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runtime.bundle.choice.find_spec", lambda _: None)
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Shared:
    """The folder of a name, which a function fills when the first process of this run asks for it; others wait."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if hasattr(request.config, "workerinput") else base) / "shared"
    root.mkdir(exist_ok=True)

    def folder(name: str, fill: Callable[[Path], object]) -> Path:
        with FileLock(root / f"{name}.lock"):
            if not (root / name).exists():
                unfinished = Path(tempfile.mkdtemp(dir=root))
                fill(unfinished)
                unfinished.rename(root / name)
        return root / name

    return folder


@pytest.fixture(scope="session")
def checkpoint(shared: Shared) -> Callable[[str], Path]:
    """Folder of the small checkpoint of a name in SMALL or SPEECH, or of a family's in FAMILIES."""
    from export.demo import write_checkpoint
    from tests.families import FAMILIES, write_family

    @cache
    def make(name: str) -> Path:
        seed = zlib.crc32(name.encode()) % 1000
        if name in FAMILIES:
            return shared(f"checkpoint-{name}", lambda folder: write_family(folder, name, seed))
        overrides = {**SMALL, **SPEECH}[name]
        return shared(f"checkpoint-{name}", lambda folder: write_checkpoint(folder, seed=seed, overrides=overrides))

    return make


@pytest.fixture(scope="session")
def bundle(shared: Shared, checkpoint: Callable[[str], Path]) -> Callable[[str], Path]:
    """Folder of the bundle built from a small checkpoint. Shared: tests that change one copy it first.

    Its graphs stay loaded until the end: pipelines of one process share them, so that no test loads them again.
    """
    from export.build import build
    from export.checkpoint import Checkpoint

    gc.freeze()  # what was imported stays: each collection of a build would walk it
    from runtime.bundle import Bundle, OpenEngines

    loaded: list[OpenEngines] = []

    @cache
    def make(name: str) -> Path:
        source, report = Checkpoint(checkpoint(name), name), logging.getLogger("tests").info
        folder = shared(f"engines-{name}", lambda folder: build(source, folder / name, report=report)) / name
        loaded.append(OpenEngines(Bundle.read(folder), backend="onnxruntime"))
        loaded[-1].open(*loaded[-1])
        return folder

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
    from bench.rivals import load_reference as load

    return load(folder, "float32", "cpu")
