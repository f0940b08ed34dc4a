"""ONNX Runtime: the backend that runs everywhere, with no build step on the serving machine."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from runtime.engine import Array, TensorSpec, check_feeds
from runtime.errors import EngineError, MissingDependencyError


def load(path: Path, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec], device: str) -> "OrtEngine":
    """Open an `.onnx` file on the CPU.

    Raises EngineError for another device, a file ONNX Runtime refuses, or one whose tensors are not those of the specs.
    """
    if device != "cpu":
        raise EngineError(f"{path.name}: ONNX Runtime engines run on device 'cpu', not '{device}'")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("onnxruntime is not installed: pip install 'trt-audioldm2[cpu]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: warnings about folded constants help nobody who renders audio
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own, undocumented classes
        raise EngineError(f"{path.name}: ONNX Runtime refused it: {_first_line(error)}") from error
    return OrtEngine(path.stem, session, inputs, outputs)


class OrtEngine:
    """An ONNX Runtime session behind the `Engine` contract. Arrays are NumPy."""

    xp: ModuleType = np

    def __init__(
        self, name: str, session: Any, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._name, self._session = name, session
        has = ({i.name for i in session.get_inputs()}, {o.name for o in session.get_outputs()})
        if has != (set(inputs), set(outputs)):
            raise EngineError(f"{name}: the graph has inputs and outputs {has}, the manifest {inputs}, {outputs}")

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the graph once. Raises EngineError with the wrong tensor's name, or ONNX Runtime's own words."""
        if self._session is None:
            raise EngineError(f"{self._name}: this engine is closed")
        check_feeds(self._name, self.inputs, feeds)
        names = list(self.outputs)
        try:
            arrays = self._session.run(names, dict(feeds))
        except Exception as error:
            raise EngineError(f"{self._name}: {_first_line(error)}") from error
        return dict(zip(names, arrays, strict=True))

    def close(self) -> None:
        """Free the session and its weights."""
        self._session = None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
