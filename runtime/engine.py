"""The narrow door between the pipeline and a backend: `Engine`, `TensorSpec`, `load_engine`."""

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Protocol

import msgspec

from runtime import backends
from runtime.device import Array, Device, HostDevice
from runtime.errors import EngineError


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One input or output: NumPy dtype name, the name of each axis, and the sizes it may have.

    Axes of one name have one size in one call. `max_shape` holds None where there is no bound.
    """

    dtype: str
    axes: tuple[str, ...]
    min_shape: tuple[int, ...]
    max_shape: tuple[int | None, ...]

    def __post_init__(self) -> None:
        if not len(self.axes) == len(self.min_shape) == len(self.max_shape):
            raise ValueError(f"axes {self.axes}, min_shape and max_shape need one entry an axis")

    def mismatch(self, array: Array) -> str | None:
        """Say what is wrong with `array`, or None if it fits."""
        if str(array.dtype) != self.dtype:
            return f"dtype is {array.dtype}, expected {self.dtype}"
        if array.ndim != len(self.axes):
            return f"shape is {array.shape}, expected {len(self.axes)} axes: ({', '.join(self.axes)})"
        for axis, size, low, high in zip(self.axes, array.shape, self.min_shape, self.max_shape, strict=True):
            if size < low or (high is not None and size > high):
                accepted = f"exactly {low}" if low == high else f"{low} to {'any' if high is None else high}"
                return f"axis '{axis}' of shape {array.shape} is {size}, this engine takes {accepted}"
        if not array.flags.c_contiguous:
            return "array is not C-contiguous"
        return None


# Each input's smallest, commonest and largest shape.
ShapeProfile = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


class BuiltFor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an engine that was compiled for a GPU runs on."""

    flavour: str  # the library: tensorrt or tensorrt_rtx
    version: str  # the library's, in full
    compute_capability: str | None  # of the GPU it was built on, such as "9.0"; None: built without one
    accepted_capabilities: tuple[str, ...] = ()  # the only ones it runs on; empty: as the library decides
    version_compatible: bool = False  # runs on later versions too
    hardware_compatible: bool = False  # runs on every GPU from compute capability 8.0 on


class Engine(Protocol):
    """All that the pipeline knows of a backend. Outputs are views, valid until the engine's next `run`."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    xp: ModuleType
    capturable: bool  # whether a run may be captured in a CUDA graph
    loading_s: float  # spent so far on compiling, after it was opened
    label: str  # the library, and the precision if that was open

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once over arrays named and shaped as `inputs` says. Raises EngineError."""

    def close(self) -> None:
        """Free all that the engine holds."""


def check_feeds(name: str, inputs: Mapping[str, TensorSpec], feeds: Mapping[str, Array]) -> None:
    """Raise EngineError unless `feeds` has exactly the named inputs, each as its spec says."""
    if feeds.keys() != inputs.keys():
        missing, extra = sorted(inputs.keys() - feeds.keys()), sorted(feeds.keys() - inputs.keys())
        raise EngineError(f"{name}: missing inputs {missing}, unknown inputs {extra}")
    sizes: dict[str, tuple[str, int]] = {}
    for key, array in feeds.items():
        problem = inputs[key].mismatch(array)
        if problem:
            raise EngineError(f"{name}: input '{key}': {problem}")
        for axis, size in zip(inputs[key].axes, array.shape, strict=True):
            first, known = sizes.setdefault(axis, (key, size))
            if known != size:
                raise EngineError(f"{name}: axis '{axis}' is {known} in '{first}' but {size} in '{key}'")


def check_names(
    name: str,
    has_inputs: set[str],
    has_outputs: set[str],
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
) -> None:
    """Raise EngineError unless a graph has exactly the named inputs and outputs."""
    has = (has_inputs, has_outputs)
    if has != (set(inputs), set(outputs)):
        raise EngineError(f"{name}: the graph has inputs and outputs {has}, the manifest {inputs}, {outputs}")


def load_engine(
    path: Path,
    *,
    backend: str,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    device: Device | None = None,
    built_for: BuiltFor | None = None,
) -> Engine:
    """Open the engine file at `path` with the named backend, for a device (the CPU if None). The only factory.

    A backend is a module of `runtime.backends` with a function `load(path, inputs, outputs, device, built_for)`.
    """
    known = sorted(m.name for m in pkgutil.iter_modules(backends.__path__) if not m.name.startswith("_"))
    if backend not in known:
        raise EngineError(f"{path.name}: unknown backend '{backend}'; this version has {', '.join(known)}")
    module = importlib.import_module(f"runtime.backends.{backend}")
    engine: Engine = module.load(path, inputs, outputs, device or HostDevice(), built_for)
    return engine
