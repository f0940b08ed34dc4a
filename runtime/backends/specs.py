"""What an engine takes, gives and was built for, and the checks of what it is fed. Knows no backend."""

from collections.abc import Mapping

import msgspec

from runtime.backends.device import Array
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
