"""TensorRT's Python names over ONNX Runtime, for the calls that the backend makes. A plan is a JSON text.

Inputs are read from, outputs written to, the addresses that were bound when a run was queued, as on a GPU, and every
run writes over the memory that its context was given. NVIDIA's rules for dynamic shapes in CUDA graphs are kept: a run
can be captured if its context ran in these shapes before and that was waited for. What was captured is spoiled, without
a word, when its context dies, gets another shape, runs plainly or is captured in another graph.
"""

import ctypes
import json
import weakref
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from tests.fake_cupy import FakeCupy

KINDS = {"tensor(float)": "FLOAT", "tensor(int64)": "INT64", "tensor(float16)": "HALF"}
DTYPES = {"FLOAT": np.float32, "INT64": np.int64, "HALF": np.float16}


class FakeTensorRT:
    """The module. `fails` names calls that fail: `deserialize`, `enqueue`, `context`, `shape`, `address`."""

    def __init__(self, cupy: FakeCupy, version: str = "10.13.3.9") -> None:
        self.cupy, self.__version__ = cupy, version
        self.fails: set[str] = set()
        self.spoils: dict[str, Any] = {}  # engine name: a function of its outputs
        self.runs: dict[str, int] = {}  # by engine: how often it ran, replays included
        self.enqueued: dict[str, int] = {}  # how often a run was queued or captured
        self.addresses_set = 0
        self.capturable: bool | None = None  # what contexts say of themselves, as RTX's do
        self.ExecutionContextAllocationStrategy = SimpleNamespace(STATIC=0, ON_PROFILE_CHANGE=1, USER_MANAGED=2)
        self.ProfilingVerbosity = SimpleNamespace(NONE="none", DETAILED="detailed")
        self.ILogger = _Logger
        self.Runtime = partial(_Runtime, self)


class _Logger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: int, message: str) -> None:
        raise NotImplementedError


class _Runtime:
    engine_host_code_allowed = False

    def __init__(self, trt: FakeTensorRT, logger: _Logger) -> None:
        self.trt, self.logger = trt, logger

    def deserialize_cuda_engine(self, plan: Any) -> "_Engine | None":
        if "deserialize" in self.trt.fails:
            self.logger.log(_Logger.ERROR, "Serialization assertion\n stdVersionRead failed")
            return None
        assert not isinstance(plan, bytes), "the whole file in memory, beside the engine"
        return _Engine(self.trt, self.logger, json.loads(bytes(plan)))


@cache  # tests open a pipeline each, over graphs that never change
def session_of(onnx: str) -> onnxruntime.InferenceSession:
    """What runs a graph in place of TensorRT."""
    return onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])


class _Engine:
    streamable_weights_size = 0

    def __init__(self, trt: FakeTensorRT, logger: _Logger, plan: dict[str, Any]) -> None:
        self.trt, self.logger, self.name = trt, logger, plan["name"]
        self.session = session_of(plan["onnx"])
        self.profiles = plan["profiles"]
        self.inputs = {tensor.name: KINDS[tensor.type] for tensor in self.session.get_inputs()}
        self.outputs = {tensor.name: KINDS[tensor.type] for tensor in self.session.get_outputs()}
        self.num_io_tensors = len(self.inputs) + len(self.outputs)
        self.num_optimization_profiles = len(self.profiles)
        self.shapes: dict[Any, Any] = {}
        self.device = trt.cupy.devices[-1]

    def get_tensor_name(self, i: int) -> str:
        return [*self.inputs, *self.outputs][i]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name={**self.inputs, **self.outputs}[name])

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="INPUT" if name in self.inputs else "OUTPUT")

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Any]:
        return self.profiles[profile][name]

    def create_runtime_config(self) -> Any:
        config = SimpleNamespace(strategy=None)
        config.set_execution_context_allocation_strategy = lambda strategy: setattr(config, "strategy", strategy)
        return config

    def create_execution_context(self, runtime_config: Any) -> "_Context | None":
        assert runtime_config.strategy == 2  # memory is ours
        if "context" in self.trt.fails:
            self.logger.log(_Logger.ERROR, "CUDA initialization failure")
            return None
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine, self.trt = engine, engine.trt
        if self.trt.capturable is not None:
            self.is_stream_capturable = lambda stream: self.trt.capturable
        self.nvtx_verbosity = "detailed"  # as the plan was built
        self.use = 0  # changes when what was captured of it before is spoiled
        self.graph: Any = None  # the last one that holds it
        self.ran: tuple[Any, int] | None = None  # shapes of the last plain run, and the waits before it
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory: tuple[int, int] | None = None

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile, self.ran = index, None
        self.use += 1
        if self.trt.cupy.capturing:
            raise self.trt.cupy.broken("a profile is set while the stream is capturing")
        return stream == self.trt.cupy.streams[-1].ptr

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.profiles[self.profile][name]
        self.use += self.shapes.get(name) != tuple(shape)
        self.shapes[name] = tuple(shape)
        fits = all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))
        if not fits or "shape" in self.trt.fails:
            self.engine.logger.log(_Logger.ERROR, f"shape of {name} is out of the profile")
            return False
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        if "address" in self.trt.fails or not address or address % 256:
            self.engine.logger.log(_Logger.ERROR, f"no address for {name}")
            return False
        self.trt.addresses_set += 1
        self.addresses[name] = address
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.inputs if name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        key = tuple(sorted(self.shapes.items()))
        if key not in self.engine.shapes:
            zeros = {name: np.ones(self.shapes[name], DTYPES[kind]) for name, kind in self.engine.inputs.items()}
            outputs = self.engine.session.run(list(self.engine.outputs), zeros)
            self.engine.shapes[key] = {n: o.shape for n, o in zip(self.engine.outputs, outputs, strict=True)}
        shape: tuple[int, ...] = self.engine.shapes[key][name]
        return shape

    def update_device_memory_size_for_shapes(self) -> int:
        return 1 << 16

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0
        self.memory = (memory, size)

    def execute_async_v3(self, stream: int) -> bool:
        cupy = self.trt.cupy
        assert self.memory is not None
        assert stream == cupy.streams[-1].ptr  # on the pipeline's stream, nowhere else
        assert self.engine.device == cupy.devices[-1]
        assert self.nvtx_verbosity == "none"
        if "enqueue" in self.trt.fails:
            self.engine.logger.log(_Logger.ERROR, "Error Code 1: Cask (launch failure)")
            return False
        name = self.engine.name
        if cupy.capturing:
            if self.ran is None or self.ran[0] != self.shapes or self.ran[1] == cupy.waits:
                cupy.broken("deferred work")
                self.engine.logger.log(_Logger.ERROR, "operation not permitted when stream is capturing")
                return False
            self.use += self.graph not in (None, cupy.graph)
            self.graph = cupy.graph
        else:
            self.ran, self.use = (dict(self.shapes), cupy.waits), self.use + 1
        self.trt.enqueued[name] = self.trt.enqueued.get(name, 0) + 1
        held = None if cupy.capturing else self  # a graph keeps no context alive
        bound = dict(self.shapes), dict(self.addresses), self.memory
        cupy.kernels.submit(partial(_run, self.engine, weakref.ref(self), held, self.use, *bound))
        return True


def _run(
    engine: _Engine,
    context: Any,
    _held: object,
    use: int,
    shapes: dict[str, tuple[int, ...]],
    addresses: dict[str, int],
    memory: tuple[int, int],
) -> None:
    """One run, now or at a replay."""
    engine.trt.runs[engine.name] = engine.trt.runs.get(engine.name, 0) + 1
    ctypes.memset(memory[0], 0xFF, memory[1])
    spoiled = context() is None or context().use != use or not engine.trt.cupy.holds(*memory)
    feeds = {name: _at(addresses[name], shapes[name], kind).copy() for name, kind in engine.inputs.items()}
    outputs = dict(zip(engine.outputs, engine.session.run(list(engine.outputs), feeds), strict=True))
    spoil = engine.trt.spoils.get(engine.name)
    for name, kind in engine.outputs.items():
        values = outputs[name] if spoil is None else spoil(outputs[name])
        _at(addresses[name], outputs[name].shape, kind)[...] = 0.5 * values if spoiled else values


def _at(address: int, shape: tuple[int, ...], kind: str) -> Any:
    size = int(np.prod(shape)) * np.dtype(DTYPES[kind]).itemsize
    if not size:
        return np.zeros(shape, DTYPES[kind])
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), DTYPES[kind]).reshape(shape)


class BoundSession:
    """An ONNX Runtime session whose binding reads raw addresses as the CUDA provider does."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs

    def io_binding(self) -> Any:
        bound: dict[str, Any] = {}
        wanted: list[str] = []
        outputs: list[Any] = []

        def bind_input(name: str, device: str, index: int, dtype: Any, shape: Any, pointer: int) -> None:
            assert (device, index) == ("cuda", 0)
            kind = {np.float32: "FLOAT", np.int64: "INT64"}[dtype]
            bound[name] = _at(pointer, tuple(shape), kind)

        return SimpleNamespace(
            bind_input=bind_input,
            bind_output=lambda name, device, index: wanted.append(name),
            run=lambda: outputs.extend(self.session.run(wanted, bound)),
            get_outputs=lambda: [_Value(output) for output in outputs],
        )

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        binding.run()


class _Value:
    def __init__(self, array: Any) -> None:
        self.array = np.ascontiguousarray(array)

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)

    def shape(self) -> list[int]:
        return list(self.array.shape)
