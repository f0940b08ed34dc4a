"""OpenVINO: the fastest on a CPU. Reads the graphs that ONNX Runtime reads; computes in BF16 where the CPU can."""

import contextlib
import ctypes
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from runtime.backends import openvino_graph
from runtime.backends.cache import keep_cached, read_cached
from runtime.backends.device import Array, Device
from runtime.backends.kept import Kept
from runtime.backends.quiet_import import import_quietly
from runtime.backends.shared import Shared, file_key, graph_files
from runtime.backends.specs import BuiltFor, TensorSpec, check_feeds, check_names
from runtime.errors import EngineError, MissingDependencyError
from runtime.install import install_command

# Engines that grow with the audio are compiled for each size in use: they are faster so. Lengths of texts stay open,
# which costs nothing, and text engines have one program for all shapes.
AUDIO_AXES, TEXT_AXES = {"height", "frames"}, {"tokens", "new_tokens"}
KEPT_SHAPES = 2  # programs of one engine in memory: each packs the weights anew
# On disk there are programs of small graphs only. One of a base-size UNet is 1.4 GB for every shape, saves 2.5 of 4.5 s
# and takes 1.3 GB more memory while it is loaded (bench/LOG.md).
CACHED_GRAPH_BYTES = 64 << 20
CACHE = "openvino"
MADV_DONTNEED = 4
PRECISIONS = {"fp32": "f32", "bf16": "bf16", "mixed": "f32"}

_programs: "Shared[Program]" = Shared()


def load(
    path: Path,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    device: Device,
    built_for: BuiltFor | None,  # noqa: ARG001  a graph is built for nothing in particular
    audible: bool = False,
) -> "OpenVinoEngine":
    """Open an `.onnx` file, or an `.xml` in OpenVINO's format.

    Raises EngineError for a file that OpenVINO refuses, one whose tensors are not those of the specs, or a precision
    that this CPU lacks.
    """
    if device.gpu is not None:
        raise EngineError(f"{path.name}: OpenVINO runs on the CPU here, not on device '{device.name}'")
    key = (file_key(path), device.precision, device.cpu_threads, audible)
    program = _programs.get(key, lambda: Program(path, device, audible=audible))
    return OpenVinoEngine(path.stem, program, inputs, outputs)


class Program:
    """A graph, and what was compiled of it. Engines of one process share it; threads may use it at once."""

    def __init__(self, path: Path, device: Device, *, audible: bool = False) -> None:
        try:
            self._openvino = import_quietly("openvino")
        except ImportError as error:
            raise MissingDependencyError(f"openvino is not installed: {install_command('openvino')}") from error
        self._path, self._core = path, self._openvino.Core()
        self.precision = _precision(self._core, device.precision)
        if device.precision == "auto" and self.precision == "bf16" and audible:
            # What is rounded away on the way to a waveform is heard as hiss. With BF16 in the residual blocks alone the
            # demo's sounds are recognised as in FP32, with BF16 throughout three quarters of them are.
            self.precision = "mixed"
        options = {"INFERENCE_PRECISION_HINT": PRECISIONS[self.precision], "PERFORMANCE_HINT": "LATENCY"}
        if device.cpu_threads is not None:
            options["INFERENCE_NUM_THREADS"] = str(device.cpu_threads)
        self._core.set_property("CPU", options)
        self._cache_key = self._describe(options)
        try:
            self.model = self._core.read_model(path)
        except RuntimeError as error:
            raise EngineError(f"{path.name}: OpenVINO refused it: {_reason(error)}") from error
        self.tensors = _names(self.model.inputs), _names(self.model.outputs)
        if self.precision == "mixed":
            openvino_graph.round_residual_blocks(self.model)
        openvino_graph.upsample_by_convolution(self.model)
        angles = openvino_graph.split_angles(self.model) if self.precision == "bf16" else None
        self._angles = angles and self._core.compile_model(angles, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self._compiled: Shared[Any] = Shared()
        self._compiling = threading.Lock()  # compiling changes the shapes of the one model

    def compiled(self, shapes: Mapping[str, list[int]]) -> Any:
        """What runs inputs of these shapes, an axis of -1 open; of no shapes, what runs any. Compiled once."""
        return self._compiled.get(str(shapes), lambda: self._compile(shapes))

    def ahead(self) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        """What makes the feeds of the graph from those of the engine. For one thread at a time."""
        return dict if self._angles is None else openvino_graph.Ahead(self._angles, self.model)

    def give_back(self) -> None:
        """Let the kernel drop the pages of the graph's files: see `give_back`."""
        give_back(self._path)

    def _compile(self, shapes: Mapping[str, list[int]]) -> Any:
        key = self._cache_key and hashlib.sha256(f"{self._cache_key} {shapes}".encode()).hexdigest()
        kept, compiled = key and read_cached(CACHE, key), None
        if kept:
            with contextlib.suppress(RuntimeError):  # of another build of the library: compile anew
                compiled = self._core.import_model(kept, "CPU")
        if compiled is None:
            with self._compiling:
                if shapes:
                    self.model.reshape(dict(shapes))
                misread = self.precision == "bf16" and openvino_graph.misread_in_bf16(self.model)
                kernels = {"SNIPPETS_MODE": "DISABLE"} if misread else {}
                compiled = self._core.compile_model(self.model, "CPU", kernels)
            if key:
                keep_cached(CACHE, key, compiled.export_model().getvalue())
        self.give_back()
        return compiled

    def _describe(self, options: Mapping[str, str]) -> str | None:
        """All that a compiled graph depends on but the shapes; None for a graph that is too large to be kept."""
        files = graph_files(self._path)
        if sum(file.stat().st_size for file in files) > CACHED_GRAPH_BYTES:
            return None
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (*files, Path(openvino_graph.__file__))]
        cpu = [str(self._core.get_property("CPU", name)) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
        return " ".join([*digests, *cpu, self._openvino.get_version(), self.precision, str(sorted(options.items()))])


class OpenVinoEngine:
    """An OpenVINO model behind the `Engine` contract, compiled when a shape is first run. Arrays are NumPy."""

    xp: ModuleType = np
    capturable = False

    def __init__(
        self, name: str, program: Program, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
    ) -> None:
        self.inputs, self.outputs, self.label = inputs, outputs, f"openvino {program.precision}"
        self._grows = any(AUDIO_AXES & set(spec.axes) for spec in inputs.values())
        self._name, self._program = name, program
        self.loading_s, self._fresh = 0.0, False  # whether a program has never run
        # by shapes what was compiled, which is shared, and this engine's own request to it
        self._requests: Kept[tuple[Any, Any]] = Kept(KEPT_SHAPES)
        self._ahead = program.ahead()
        check_names(name, *program.tensors, inputs, outputs)

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the graph once. Raises EngineError with the wrong tensor's name, or OpenVINO's own words."""
        if self._program is None:
            raise EngineError(f"{self._name}: this engine is closed")
        check_feeds(self._name, self.inputs, feeds)
        with self._in_one_line():
            fed, start = self._ahead(feeds), time.perf_counter()
            with self._request(fed) as (_, request):
                self.loading_s += time.perf_counter() - start
                results = request.infer(fed, share_inputs=True)  # outputs are copies: the caller's own
        if self._fresh:  # a program for any shape packs its weights in its first run
            self._program.give_back()
            self._fresh = False
        return {name: results[name] for name in self.outputs}

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """Compile for inputs of these sizes by axis; those of texts may be any. Raises EngineError."""
        feeds = {}
        for name, spec in self.inputs.items():
            shape = [sizes.get(axis, least) for axis, least in zip(spec.axes, spec.min_shape, strict=True)]
            feeds[name] = np.zeros(shape, spec.dtype)
        with self._in_one_line(), self._request(self._ahead(feeds)):
            pass  # nobody waits: it does not count as loading

    def close(self) -> None:
        """Let go of the graph and its programs: they are freed with the last engine that shares them."""
        self._requests.clear()
        self._program = None  # type: ignore[assignment]  # a closed engine runs nothing

    def _shapes(self, feeds: Mapping[str, Array]) -> dict[str, list[int]]:
        """The shape of each input, -1 where an axis stays open."""
        shapes = {name: list(array.shape) for name, array in feeds.items()}
        for name, spec in self.inputs.items():
            if name in shapes:
                sized = zip(spec.axes, shapes[name], strict=True)
                shapes[name] = [-1 if axis in TEXT_AXES else size for axis, size in sized]
        return shapes

    def _request(self, fed: Mapping[str, Array]) -> AbstractContextManager[tuple[Any, Any]]:
        """What runs these feeds of the graph, and what it was compiled to."""
        shapes = self._shapes(fed) if self._grows else {}
        return self._requests.borrowed(str(shapes), partial(self._new_request, shapes))

    def _new_request(self, shapes: Mapping[str, list[int]]) -> tuple[Any, Any]:
        compiled, self._fresh = self._program.compiled(shapes), True
        return compiled, compiled.create_infer_request()

    @contextlib.contextmanager
    def _in_one_line(self) -> Iterator[None]:
        """Have OpenVINO's errors as EngineError."""
        try:
            yield
        except RuntimeError as error:
            raise EngineError(f"{self._name}: {_reason(error)}") from error


def give_back(graph: Path) -> None:
    """Let the kernel drop what this process has mapped of a graph's files, for reading only; what is read comes back.

    A program has its weights packed for itself: the files' pages would count as this process's memory for nothing.
    """
    files = {str(file.resolve()) for file in graph_files(graph)}  # the kernel names what a link points to
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        libc = ctypes.CDLL(None)
        for line in Path("/proc/self/maps").read_text().splitlines():
            addresses, permissions, *rest = line.split(maxsplit=5)
            if permissions.startswith("r--") and rest[-1] in files:
                start, stop = (int(address, 16) for address in addresses.split("-"))
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), MADV_DONTNEED)


def _precision(core: Any, asked: str) -> str:
    """The precision to compute in: what is asked for, or by itself BF16 where the CPU has instructions for it."""
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if asked == "bf16" and not has_bf16:
        raise EngineError("precision bf16: this CPU has no instructions for it; use fp32")
    return ("bf16" if has_bf16 else "fp32") if asked == "auto" else asked


def _names(tensors: list[Any]) -> set[str]:
    return {tensor.any_name for tensor in tensors}


def _reason(error: Exception) -> str:
    """The last line of OpenVINO's message: the ones before it name places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
