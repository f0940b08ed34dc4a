"""Torch module to ONNX graph: trace, then clean with ONNX Runtime's basic passes."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
import torch

from export.components import Component
from export.errors import BuildError
from runtime.checks import reason

OPSET = 18
EXTERNAL_DATA_BYTES = 100 << 20  # larger weights go into a file of their own, which the runtime maps instead of parsing
SMALL_BYTES = 1024  # smaller tensors stay in the graph: shapes and scales, which readers need to infer types


def export_onnx(component: Component, folder: Path, name: str) -> list[str]:
    """Trace `component` at its first size into `folder`. Returns the names of the files, the graph's first.

    The TorchScript tracer is used on purpose: torch.export cannot express the UNet's dynamic height. Raises BuildError.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".trace-") as work:
        traced = Path(work) / f"{name}.onnx"
        try:
            _trace(component, traced)
        except Exception as error:  # the tracer raises many classes
            raise BuildError(f"{name}: cannot be traced: {reason(error)}") from error
        size = sum(file.stat().st_size for file in Path(work).iterdir())
        return _clean(traced, folder, external=size > EXTERNAL_DATA_BYTES)


def save(model: onnx.ModelProto, folder: Path, name: str) -> list[str]:
    """Write a graph as `export_onnx` does. Returns the names of the files, the graph's first.

    Weights that go into a file of their own are taken out of `model`.
    """
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    graph, weights = f"{name}.onnx", f"{name}.onnx.data"
    for file in (graph, weights):
        (folder / file).unlink(missing_ok=True)  # weights are appended to a file that is there
    external = size > EXTERNAL_DATA_BYTES
    onnx.save_model(
        model, str(folder / graph), save_as_external_data=external, location=weights, size_threshold=SMALL_BYTES
    )
    return [graph, weights] if external else [graph]


def plain_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session on the CPU that runs a graph node by node: none of ONNX Runtime's passes may undo a rounding.

    Large weights are taken out of `model` (see `save`).
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as work:
        files = save(model, Path(work), "graph")
        return onnxruntime.InferenceSession(str(Path(work, files[0])), options, providers=["CPUExecutionProvider"])


def _trace(component: Component, path: Path) -> None:
    inputs = component.draw(component.sizes[0], torch.Generator().manual_seed(0))
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            component.module,
            tuple(inputs[key] for key in component.inputs),
            str(path),
            input_names=list(component.inputs),
            output_names=list(component.outputs),
            dynamic_axes=component.dynamic_axes(),
            opset_version=OPSET,
            dynamo=False,
        )


def _clean(traced: Path, folder: Path, *, external: bool) -> list[str]:
    """Fold constants and drop what does nothing. The basic passes keep to standard operators: any tool reads them."""
    path = folder / traced.name
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    names = [path.name]
    if external:
        names.append(f"{path.name}.data")
        prefix = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{prefix}_file_name", names[1])
        options.add_session_config_entry(f"{prefix}_min_size_in_bytes", str(SMALL_BYTES))
    onnxruntime.InferenceSession(str(traced), options, providers=["CPUExecutionProvider"])
    return names


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tracer's notes on Python values: every graph is compared with its module at other sizes instead."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
