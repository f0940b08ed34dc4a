"""The narrow door between the pipeline and a backend: `Engine` and `load_engine`."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Protocol

from runtime.backends.device import Array, Device, HostDevice
from runtime.backends.specs import BuiltFor, TensorSpec
from runtime.errors import EngineError

# A backend's name in a manifest, and the module whose function `load` opens its files, with the arguments of
# `load_engine` in their order. A module is imported when one of its engines is opened, so that no backend needs
# another's packages.
BACKENDS = {
    "onnxruntime": "runtime.backends.onnxruntime",
    "openvino": "runtime.backends.openvino",
    "tensorrt": "runtime.backends.tensorrt",
}


class Engine(Protocol):
    """All that the pipeline knows of a backend.

    What `run` returns belongs to the caller: no later run writes into it, unless the run was captured in a CUDA graph,
    whose replays write into the same memory again. One engine serves one thread at a time; engines of one file share
    its weights where the backend can.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    xp: ModuleType
    capturable: bool  # whether a run may be captured in a CUDA graph
    label: str  # the library, and the precision if that was open

    @property
    def loading_s(self) -> float:
        """Seconds spent so far on compiling, after it was opened."""

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once over arrays named and shaped as `inputs` says. Raises EngineError."""

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """Get ready for runs of these sizes, by axis of the inputs. Nothing else may use the engine meanwhile."""

    def close(self) -> None:
        """Free all that the engine holds."""


def load_engine(
    path: Path,
    *,
    backend: str,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    device: Device | None = None,
    built_for: BuiltFor | None = None,
    audible: bool = False,
) -> Engine:
    """Open the engine file at `path` with the named backend, for a device (the CPU if None). The only factory.

    `audible` says that its output is heard as it is (see EngineSpec): a backend that chooses its own precision then
    rounds less.

    Raises EngineError for an unknown backend, a file that it refuses, or a device that it does not run on.
    """
    if backend not in BACKENDS:
        raise EngineError(f"{path.name}: unknown backend '{backend}'; this version has {', '.join(sorted(BACKENDS))}")
    module = importlib.import_module(BACKENDS[backend])
    engine: Engine = module.load(path, inputs, outputs, device or HostDevice(), built_for, audible)
    return engine
