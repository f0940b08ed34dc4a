"""OpenVINO: the fastest on a CPU. Reads the graphs that ONNX Runtime reads; computes in BF16 where the CPU can."""

import contextlib
import ctypes
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from runtime.backends.cache import cache_folder
from runtime.backends.device import Array, Device
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
CACHE_BYTES = 1 << 30
# Left to choose, this engine computes in BF16 inside its residual blocks only: what is rounded away on the way to a
# waveform is heard as hiss. So the demo's sounds are recognised as in FP32, in BF16 throughout three quarters are.
HEARD = {"vocoder"}
MADV_DONTNEED = 4
PRECISIONS = {"fp32": "f32", "bf16": "bf16", "mixed": "f32"}


def load(
    path: Path,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    device: Device,
    built_for: BuiltFor | None,  # noqa: ARG001  a graph is built for nothing in particular
) -> "OpenVinoEngine":
    """Open an `.onnx` file, or an `.xml` in OpenVINO's format.

    Raises EngineError for a file that OpenVINO refuses, one whose tensors are not those of the specs, or a precision
    that this CPU lacks.
    """
    if device.name != "cpu":
        raise EngineError(f"{path.name}: OpenVINO runs on the CPU here, not on device '{device.name}'")
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError(f"openvino is not installed: {install_command('openvino')}") from error
    core = openvino.Core()
    precision = _precision(core, device.precision)
    if device.precision == "auto" and precision == "bf16" and path.stem in HEARD:
        precision = "mixed"
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": PRECISIONS[precision], "PERFORMANCE_HINT": "LATENCY"})
    if sum(file.stat().st_size for file in _files(path)) <= CACHED_GRAPH_BYTES:
        core.set_property({"CACHE_DIR": str(_cache_folder())})
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise EngineError(f"{path.name}: OpenVINO refused it: {_reason(error)}") from error
    if precision == "mixed":
        round_residual_blocks(model)
    return OpenVinoEngine(path, core, model, inputs, outputs, precision)


class OpenVinoEngine:
    """An OpenVINO model behind the `Engine` contract, compiled when a shape is first run. Arrays are NumPy."""

    xp: ModuleType = np
    capturable = False

    def __init__(
        self,
        path: Path,
        core: Any,
        model: Any,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        precision: str,
    ) -> None:
        name = path.stem
        self.inputs, self.outputs, self.label = inputs, outputs, f"openvino {precision}"
        self._grows = any(AUDIO_AXES & set(spec.axes) for spec in inputs.values())
        self._name, self._core, self._model, self._path = name, core, model, path
        self.loading_s = 0.0
        self._requests: OrderedDict[tuple[tuple[int, ...], ...], Any] = OrderedDict()
        check_names(name, {i.any_name for i in model.inputs}, {o.any_name for o in model.outputs}, inputs, outputs)

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the graph once. Raises EngineError with the wrong tensor's name, or OpenVINO's own words."""
        if self._model is None:
            raise EngineError(f"{self._name}: this engine is closed")
        check_feeds(self._name, self.inputs, feeds)
        key = self._shapes(feeds) if self._grows else ()
        request = self._requests.pop(key, None)
        is_new = request is None
        try:
            request = self._compiled(key) if is_new else request
            results = request.infer(dict(feeds), share_inputs=True)
        except RuntimeError as error:
            raise EngineError(f"{self._name}: {_reason(error)}") from error
        self._requests[key] = request
        if is_new:  # one for any shape packs its weights in its first run
            give_back(self._path)
        return {name: results[name] for name in self.outputs}

    def close(self) -> None:
        """Free the model, its programs and their weights."""
        self._requests.clear()
        self._model = None

    def _shapes(self, feeds: Mapping[str, Array]) -> tuple[tuple[int, ...], ...]:
        """The shape of each input, -1 where an axis stays open."""
        return tuple(
            tuple(-1 if axis in TEXT_AXES else size for axis, size in zip(spec.axes, feeds[name].shape, strict=True))
            for name, spec in self.inputs.items()
        )

    def _compiled(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        start = time.perf_counter()
        while len(self._requests) >= KEPT_SHAPES:  # first, so that no more are in memory at any time
            self._requests.popitem(last=False)
        if shapes:
            self._model.reshape(dict(zip(self.inputs, map(list, shapes), strict=True)))
        request = self._core.compile_model(self._model, "CPU").create_infer_request()
        _prune(_cache_folder())
        give_back(self._path)
        self.loading_s += time.perf_counter() - start
        return request


def round_residual_blocks(model: Any) -> None:
    """Let the convolutions of residual blocks take BF16; their sums and all else stay in FP32. Changes the model.

    They have as many channels out as in and are nearly all of a HiFi-GAN's arithmetic; those in INT8 stay as they are.
    OpenVINO has no mark for this; but a convolution whose operands are BF16 computes in it, whatever the rest does.
    """
    from openvino import opset13 as opset

    for layer in model.get_ordered_ops():
        if layer.get_type_name() != "Convolution" or len(set(layer.input(1).get_shape()[:2])) > 1:
            continue
        if layer.input_value(0).get_node().get_type_name() == "FakeQuantize":
            continue
        users = layer.output(0).get_target_inputs()
        for operand in layer.inputs():
            operand.replace_source_output(opset.convert(operand.get_source_output(), "bf16").output(0))
        for user in users:
            user.replace_source_output(opset.convert(layer, "f32").output(0))
    model.validate_nodes_and_infer_types()


def give_back(graph: Path) -> None:
    """Let the kernel drop what this process has mapped of a graph's files, for reading only; what is read comes back.

    A program has its weights packed for itself: the files' pages would count as this process's memory for nothing.
    """
    files = {str(file.absolute()) for file in _files(graph)}
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        libc = ctypes.CDLL(None)
        for line in Path("/proc/self/maps").read_text().splitlines():
            addresses, permissions, *rest = line.split(maxsplit=5)
            if permissions.startswith("r--") and rest[-1] in files:
                start, stop = (int(address, 16) for address in addresses.split("-"))
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), MADV_DONTNEED)


def _files(graph: Path) -> list[Path]:
    """A graph's file and the one with its weights."""
    return list(graph.parent.glob(f"{graph.stem}.*"))


def _precision(core: Any, asked: str) -> str:
    """The precision to compute in: what is asked for, or by itself BF16 where the CPU has instructions for it."""
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if asked == "bf16" and not has_bf16:
        raise EngineError("precision bf16: this CPU has no instructions for it; use fp32")
    return ("bf16" if has_bf16 else "fp32") if asked == "auto" else asked


def _cache_folder() -> Path:
    """Where compiled programs are kept: in the user's cache folder."""
    return cache_folder() / "openvino"


def _prune(folder: Path) -> None:
    """Remove the programs that were used longest ago, down to CACHE_BYTES."""
    with contextlib.suppress(OSError):  # somebody else prunes too: a cache is worth no error
        files = sorted(((file.stat(), file) for file in folder.glob("*.blob")), key=lambda pair: -pair[0].st_atime)
        total = 0
        for stat, file in files:
            total += stat.st_size
            if total > CACHE_BYTES:
                file.unlink()


def _reason(error: Exception) -> str:
    """The last line of OpenVINO's message: the ones before it name places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
