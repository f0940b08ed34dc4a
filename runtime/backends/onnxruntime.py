"""ONNX Runtime: the backend that runs everywhere, with no build step on the serving machine. CPU and CUDA."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from runtime.backends.device import Array, Device, Gpu
from runtime.backends.quiet_import import import_quietly
from runtime.backends.shared import Shared, file_key
from runtime.backends.specs import BuiltFor, TensorSpec, check_feeds, check_names
from runtime.checks import reason
from runtime.errors import EngineError, MissingDependencyError
from runtime.install import install_command

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_sessions: Shared[Any] = Shared()  # a session may be run by several threads at once


def load(
    path: Path,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    device: Device,
    built_for: BuiltFor | None,  # noqa: ARG001  a graph is built for nothing in particular
    audible: bool = False,  # noqa: ARG001  its precision is not chosen here
) -> "OrtEngine":
    """Open an `.onnx` file.

    Raises EngineError for a file ONNX Runtime refuses, one whose tensors are not those of the specs, or a session that
    fell back to the CPU.
    """
    onnxruntime = _library(device)
    if device.gpu is not None and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA's libraries, from the packages that came with it
    if device.precision == "bf16":
        raise EngineError("precision bf16: ONNX Runtime computes in fp32 on a CPU; use the backend openvino")
    if device.gpu is not None and CUDA not in onnxruntime.get_available_providers():
        raise EngineError(f"{path.name}: this onnxruntime has no CUDA provider: {_cuda_install()}")
    if device.gpu is None:
        key = (file_key(path), device.cpu_threads)
        session = _sessions.get(key, lambda: open_session(onnxruntime, path, device))
        return OrtEngine(path.stem, session, inputs, outputs)
    session = open_session(onnxruntime, path, device)  # it belongs to the device's stream
    if session.get_providers()[0] != CUDA:
        raise EngineError(
            f"{path.name}: ONNX Runtime fell back to {session.get_providers()[0]}: {_cuda_install()}, and the CUDA "
            "libraries that it was built for"
        )
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")  # else the host waits for every run
    return OrtCudaEngine(path.stem, session, inputs, outputs, device.gpu, options)


def open_session(onnxruntime: Any, path: Path, device: Device) -> Any:
    """A session for the device. Raises EngineError with ONNX Runtime's own words."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: warnings about folded constants help nobody who renders audio
    if device.cpu_threads is not None:
        options.intra_op_num_threads = device.cpu_threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=_providers(device))
    except Exception as error:  # onnxruntime raises its own, undocumented classes
        raise EngineError(f"{path.name}: ONNX Runtime refused it: {reason(error)}") from error


class OrtEngine:
    """An ONNX Runtime session behind the `Engine` contract. Arrays are NumPy."""

    xp: ModuleType = np
    capturable = False
    loading_s = 0.0
    label = "onnxruntime"

    def __init__(
        self, name: str, session: Any, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._name, self._session = name, session
        has = ({i.name for i in session.get_inputs()}, {o.name for o in session.get_outputs()})
        check_names(name, *has, inputs, outputs)

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the graph once. Raises EngineError with the wrong tensor's name, or ONNX Runtime's own words."""
        if self._session is None:
            raise EngineError(f"{self._name}: this engine is closed")
        check_feeds(self._name, self.inputs, feeds)
        names = list(self.outputs)
        try:
            arrays = self._run(names, feeds)
        except Exception as error:
            raise EngineError(f"{self._name}: {reason(error)}") from error
        return dict(zip(names, arrays, strict=True))

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """A session runs every size."""

    def close(self) -> None:
        """Let go of the session: its weights are freed with the last engine that shares it."""
        self._session = None

    def _run(self, names: list[str], feeds: Mapping[str, Array]) -> list[Array]:
        arrays: list[Array] = self._session.run(names, dict(feeds))
        return arrays


class OrtCudaEngine(OrtEngine):
    """The same on a GPU: CuPy arrays are bound by their addresses, and the session runs on the pipeline's stream.

    With `options` nobody waits for a run: outputs go back to the session's memory when nobody refers to them, and what
    is given there next is written by the same stream, later.
    """

    def __init__(
        self,
        name: str,
        session: Any,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        gpu: Gpu,
        options: Any = None,
    ) -> None:
        super().__init__(name, session, inputs, outputs)
        self.xp, self._gpu, self._options = gpu.xp, gpu, options

    def _run(self, names: list[str], feeds: Mapping[str, Array]) -> list[Array]:
        gpu, binding = self._gpu, self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_input(name, "cuda", gpu.index, array.dtype.type, array.shape, int(array.data.ptr))
        for name in names:
            binding.bind_output(name, "cuda", gpu.index)
        self._session.run_with_iobinding(binding, self._options)
        values = binding.get_outputs()
        return [
            gpu.array_over(value.data_ptr(), tuple(value.shape()), self.outputs[name].dtype, owner=value)
            for name, value in zip(names, values, strict=True)
        ]


def _library(device: Device) -> Any:
    try:
        return import_quietly("onnxruntime")
    except ImportError as error:
        extra = "cpu" if device.gpu is None else "cuda"
        raise MissingDependencyError(f"onnxruntime is not installed: {install_command(extra)}") from error


def _providers(device: Device) -> list[Any]:
    gpu = device.gpu
    if gpu is None:
        return [CPU]
    own = {"device_id": str(gpu.index), "user_compute_stream": str(gpu.stream_pointer)}
    return [(CUDA, {**own, "use_tf32": "0"}), CPU]  # TF32 is as coarse as FP16: what is FP32 is to be exact


def _cuda_install() -> str:
    """What makes ONNX Runtime run on a GPU: its two packages own one import name, so the other has to go."""
    return f"pip uninstall onnxruntime, then {install_command('cuda')}"
