"""The narrow door between the pipeline and a backend: `Engine`, `TensorSpec`, `load_engine`."""

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import msgspec

from runtime import backends
from runtime.errors import EngineError

Array = Any  # numpy.ndarray or cupy.ndarray: whatever the engine's `xp` makes


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


class Engine(Protocol):
    """All that the pipeline knows of a backend. Outputs are views, valid until the engine's next `run`."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    xp: ModuleType

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


def load_engine(
    path: Path,
    *,
    backend: str,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    device: str = "cpu",
) -> Engine:
    """Open the engine file at `path` with the named backend. The only factory.

    A backend is a module of `runtime.backends` with a function `load(path, inputs, outputs, device)`.
    """
    known = sorted(module.name for module in pkgutil.iter_modules(backends.__path__))
    if backend not in known:
        raise EngineError(f"{path.name}: unknown backend '{backend}'; this version has {', '.join(known)}")
    engine: Engine = importlib.import_module(f"runtime.backends.{backend}").load(path, inputs, outputs, device)
    return engine
