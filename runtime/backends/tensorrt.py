"""TensorRT in both flavours, `tensorrt` and `tensorrt_rtx`: one API, arrays bound by their addresses."""

import hashlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from runtime.backends.cache import keep_cached, read_cached
from runtime.backends.device import Array, Device, Gpu
from runtime.backends.specs import BuiltFor, ShapeProfile, TensorSpec, check_feeds
from runtime.backends.tensorrt_library import FLAVOURS, Logger, capabilities, library, refusal
from runtime.errors import CaptureError, EngineError, IncompatibleEngineError

CACHE = "tensorrt"
DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT64": "int64", "INT32": "int32", "BOOL": "bool"}


def load(
    path: Path,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    device: Device,
    built_for: BuiltFor | None,
    audible: bool = False,  # noqa: ARG001  its precision is not chosen here
) -> "TensorRTEngine":
    """Open an engine file on a GPU.

    Raises IncompatibleEngineError for an engine of another version, GPU or flavour or one that the library refuses,
    EngineError for one whose tensors are not those of the specs.
    """
    gpu = device.gpu
    if gpu is None:
        raise EngineError(f"{path.name}: TensorRT engines run on a GPU, not on device '{device.name}'")
    if built_for is None:
        raise IncompatibleEngineError(f"{path.name}: the manifest does not say what it was built for")
    trt, flavour = library(built_for.flavour, *FLAVOURS)  # another one is refused below, with the rebuild command
    capability = gpu.compute_capability
    problem = refusal(built_for, flavour, trt.__version__, capability, capabilities(trt))
    if problem:
        raise IncompatibleEngineError(f"{path.name} cannot run here: {problem}")
    messages = Logger(trt)
    runtime_ = trt.Runtime(messages)
    if built_for.version_compatible and flavour == "tensorrt":
        runtime_.engine_host_code_allowed = True  # such an engine carries its own runtime; its hash was checked
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:  # not read into memory
        engine = runtime_.deserialize_cuda_engine(plan)
        jits = flavour == "tensorrt_rtx"
        jit_key = f"{hashlib.sha256(plan).hexdigest()[:32]}-{capability}.jit" if jits else None
    if engine is None:
        raise IncompatibleEngineError(f"{path.name}: {flavour} {trt.__version__} refused it: {messages.last_error}")
    return TensorRTEngine(path.stem, trt, engine, inputs, outputs, gpu, messages, runtime_, jit_key)


@dataclass
class Bound:
    """An execution context, and what it was told last: what has not changed is not told again."""

    context: Any
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    memory_bytes: int = 0
    memory: Any = None


class TensorRTEngine:
    """A TensorRT engine behind the `Engine` contract.

    Outputs come from CuPy's pool at every run. Activations lie in memory that all engines of a device share, as much as
    the shapes need. What a CUDA graph runs has a context of its own for each of its shapes: a captured run is
    spoiled without a word if its context later sees another shape or another graph.
    """

    loading_s = 0.0
    label = "tensorrt"

    def __init__(
        self,
        name: str,
        trt: Any,
        engine: Any,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        gpu: Gpu,
        messages: Any,
        runtime: Any = None,
        jit_key: str | None = None,
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.xp: ModuleType = gpu.xp
        self._name, self._trt, self._engine, self._runtime = name, trt, engine, runtime  # an engine needs its runtime
        self._gpu = gpu
        self._messages = messages
        self._cache: Any = None
        self._jit_key = jit_key  # what RTX compiles of a plan for a GPU is kept under it
        self._contexts: dict[int, Bound] = {}  # one a profile, for all that is not captured
        self._empty: Any = None
        self._check_tensors()
        self.capturable = not engine.streamable_weights_size  # streamed weights are copied by the host
        if engine.streamable_weights_size > 0:
            engine.weight_streaming_budget_v2 = engine.get_weight_streaming_automatic_budget()
        self._profiles = [self._profile(i) for i in range(engine.num_optimization_profiles)]

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Queue the engine on the current stream. Raises EngineError with the tensor's name or TensorRT's own words."""
        if self._engine is None:
            raise EngineError(f"{self._name}: this engine is closed")
        check_feeds(self._name, self.inputs, feeds)
        bound = self._bound(self._fitting_profile(feeds), feeds)
        context = bound.context
        changed = [self._shape(bound, name, array.shape) for name, array in feeds.items()]
        if any(changed):
            missing = context.infer_shapes()
            if missing:
                raise EngineError(f"{self._name}: no shapes for {', '.join(missing)}: {self._messages.last_error}")
            bound.memory_bytes, bound.memory = context.update_device_memory_size_for_shapes(), None
        results = {
            name: self.xp.empty(tuple(context.get_tensor_shape(name)), spec.dtype)
            for name, spec in self.outputs.items()
        }
        for name, array in (*feeds.items(), *results.items()):
            self._address(bound, name, array)
        self._give_memory(bound)
        if not context.execute_async_v3(self._gpu.stream_pointer):
            raise EngineError(f"{self._name}: TensorRT could not run it: {self._messages.last_error}")
        return results

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """An engine is compiled when it is built."""

    def close(self) -> None:
        """Free the contexts, the engine and its weights. What RTX compiled for this GPU is kept for the next start."""
        if self._cache is not None and self._jit_key is not None and self._contexts:
            keep_cached(CACHE, self._jit_key, bytes(self._cache.serialize()))
        self._contexts.clear()
        self._engine = self._runtime = self._cache = None

    def _shape(self, bound: Bound, name: str, shape: tuple[int, ...]) -> bool:
        """Tell the context an input's shape. Returns whether it is another than in the last run."""
        if bound.shapes.get(name) == shape:
            return False
        context = bound.context
        if not context.set_input_shape(name, shape):
            raise EngineError(f"{self._name}: shape {shape} of '{name}': {self._messages.last_error}")
        bound.shapes[name] = shape
        return True

    def _address(self, bound: Bound, name: str, array: Array) -> None:
        """Tell the context where a tensor lies, if it was elsewhere in the last run."""
        pointer = int(array.data.ptr) if array.size else self._placeholder()
        if bound.addresses.get(name) != pointer:
            context = bound.context
            if not context.set_tensor_address(name, pointer):
                raise EngineError(f"{self._name}: address of '{name}': {self._messages.last_error}")
            bound.addresses[name] = pointer

    def _placeholder(self) -> int:
        """An address for a tensor of no elements: none is refused."""
        if self._empty is None:
            self._empty = self.xp.empty(512, "uint8")
        return int(self._empty.data.ptr)

    def _give_memory(self, bound: Bound) -> None:
        """A graph's context keeps the memory that it was captured with; others take what is there now."""
        if not bound.memory_bytes or (self._gpu.scope is not None and bound.memory is not None):
            return
        memory = self._gpu.scratch(bound.memory_bytes)
        if bound.memory is not memory:
            bound.memory, context = memory, bound.context
            context.set_device_memory(memory.ptr, bound.memory_bytes)

    def _bound(self, index: int, feeds: Mapping[str, Array]) -> Bound:
        """The context of a profile; in a graph that of its shapes too, which its first plain run makes."""
        scope = self._gpu.scope
        if scope is None:
            if index not in self._contexts:
                self._contexts[index] = self._new_context(index)
            return self._contexts[index]
        key = (id(self), *(array.shape for array in feeds.values()))
        bound: Bound | None = scope.kept.get(key)
        if not scope.capturing:
            scope.kept[key] = bound = bound or self._new_context(index)
            return bound
        if bound is None:
            raise CaptureError(f"{self._name} runs in a shape that it did not run in before")
        context = bound.context
        capturable = getattr(context, "is_stream_capturable", None)  # RTX alone knows
        if capturable is not None and not capturable(self._gpu.stream_pointer):
            raise CaptureError(f"TensorRT-RTX says that {self._name} cannot be captured now")
        return bound

    def _new_context(self, index: int) -> Bound:
        engine, trt = self._engine, self._trt
        runtime_config = engine.create_runtime_config()
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        runtime_config.set_execution_context_allocation_strategy(strategy)
        self._use_jit_cache(runtime_config)
        context = engine.create_execution_context(runtime_config)
        if context is None:
            raise EngineError(f"{self._name}: no execution context: {self._messages.last_error}")
        context.nvtx_verbosity = trt.ProfilingVerbosity.NONE  # names for a profiler cost time at every run
        if not context.set_optimization_profile_async(index, self._gpu.stream_pointer):
            raise EngineError(f"{self._name}: profile {index}: {self._messages.last_error}")
        return Bound(context)

    def _use_jit_cache(self, runtime_config: Any) -> None:
        """RTX compiles for the GPU when it first runs: what it compiled before is read back.

        It compiles for a shape at once, not beside the first runs: those could not be captured.
        """
        create = getattr(runtime_config, "create_runtime_cache", None)
        if create is None:
            return
        eager = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy").EAGER  # noqa: B009  RTX alone has it
        setattr(runtime_config, "dynamic_shapes_kernel_specialization_strategy", eager)  # noqa: B010
        if self._cache is None:
            self._cache = create()
            kept = read_cached(CACHE, self._jit_key) if self._jit_key is not None else None
            if kept is not None:
                self._cache.deserialize(kept)
        getattr(runtime_config, "set_runtime_cache")(self._cache)  # noqa: B009  RTX alone has it

    def _fitting_profile(self, feeds: Mapping[str, Array]) -> int:
        for i, profile in enumerate(self._profiles):
            if all(
                low <= size <= high
                for name, array in feeds.items()
                for low, size, high in zip(profile[name][0], array.shape, profile[name][2], strict=True)
            ):
                return i
        shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
        raise EngineError(f"{self._name}: no shape profile of this engine holds {shapes}")

    def _profile(self, index: int) -> ShapeProfile:
        shapes = {}
        for name in self.inputs:
            low, usual, high = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, index))
            shapes[name] = (low, usual, high)
        return shapes

    def _check_tensors(self) -> None:
        """Raise EngineError unless the engine has the tensors of the specs, each of its dtype."""
        engine = self._engine
        found = {}
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            kind = engine.get_tensor_dtype(name).name
            found[name, engine.get_tensor_mode(name).name] = DTYPES.get(kind, kind)
        wanted = {(name, "INPUT"): spec.dtype for name, spec in self.inputs.items()}
        wanted |= {(name, "OUTPUT"): spec.dtype for name, spec in self.outputs.items()}
        if found != wanted:
            raise EngineError(f"{self._name}: the engine has the tensors {found}, the manifest {wanted}")
