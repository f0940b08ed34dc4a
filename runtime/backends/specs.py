"""What an engine takes, gives and was built for, and the checks of what it is fed. Knows no backend."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from runtime.backends.device import Array
from runtime.errors import EngineError, InputError

Flavour = Literal["tensorrt", "tensorrt_rtx"]
Dtype = Literal["float32", "float16", "int64", "int32", "bool"]
Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]  # of one axis: 0 for a cache that is still empty
# A name that is shown to users, such as a tensor's or a version: on one line, whatever it holds.
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z")]
Capability = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,3}\.[0-9]\Z")]  # of an NVIDIA GPU, such as "9.0"


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One input or output of an engine: its NumPy dtype, the name of each axis, and the sizes that each may have.

    Axes of one name have one size in one call. `max_shape` holds None where there is no bound. Raises InputError if the
    three do not go together.
    """

    dtype: Dtype
    axes: tuple[Word, ...]
    min_shape: tuple[Size, ...]
    max_shape: tuple[Size | None, ...]

    def __post_init__(self) -> None:
        if not len(self.axes) == len(self.min_shape) == len(self.max_shape):
            raise InputError("axes, min_shape and max_shape need one entry an axis each")
        for axis, low, high in zip(self.axes, self.min_shape, self.max_shape, strict=True):
            if high is not None and low > high:
                raise InputError(f"axis '{axis}' has a smallest size of {low} and a largest one of {high}")

    def holds(self, shape: tuple[int | None, ...]) -> bool:
        """Whether an array of `shape` fits; None stands for any size."""
        return len(shape) == len(self.axes) and all(
            size is None or (low <= size and (high is None or size <= high))
            for size, low, high in zip(shape, self.min_shape, self.max_shape, strict=True)
        )

    def mismatch(self, array: Array) -> str | None:
        """What is wrong with `array`, in words for an error message; None if it fits."""
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


# The smallest, the commonest and the largest shape of each input.
ShapeProfile = dict[Word, tuple[tuple[Size, ...], tuple[Size, ...], tuple[Size, ...]]]


class BuiltFor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an engine that was compiled for a GPU runs on."""

    flavour: Flavour  # the library
    version: Word  # of the library, in full
    compute_capability: Capability | None  # of the GPU that it was built on; None: built without one
    accepted_capabilities: tuple[Capability, ...] = ()  # the only ones that it runs on; empty: as the library decides
    version_compatible: bool = False  # runs on later versions of the library too
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
    for kind, has, wanted in (("inputs", has_inputs, set(inputs)), ("outputs", has_outputs, set(outputs))):
        if has != wanted:
            only_graph, only_manifest = sorted(has - wanted), sorted(wanted - has)
            raise EngineError(
                f"{name}: its {kind} are not those of the manifest: only the graph has {only_graph}, only the manifest "
                f"{only_manifest}"
            )
