"""ONNX graph to an engine for CPUs in OpenVINO's own format: weights in half the space, or the whole in INT8."""

from pathlib import Path

import openvino

from export.activation import activation_bytes
from export.parity import TOLERANCE, check_parity
from export.target import Job
from runtime.device import HostDevice
from runtime.engine import load_engine
from runtime.manifest import EngineSpec, describe_file


def make_engine(job: Job) -> EngineSpec:
    """Write the graph with weights in FP16, in INT8 where the job has recorded inputs, and compare it with its module.

    Raises BuildError above the tolerance. An engine that INT8 does not suit is left in FP16: the manifest says which.
    """
    precision, model = "fp16", None
    if job.feeds:
        from export.quantize import quantize

        model = quantize(job.name, job.graph, job.feeds, job.target.max_error, job.report)
        precision = "fp16" if model is None else "int8"
    path = job.folder / f"{job.name}.xml"
    openvino.save_model(model or openvino.Core().read_model(job.graph), path, compress_to_fp16=True)
    # INT8 was calibrated on what the engine sees in use: the random inputs that it is compared on here are not that
    tolerance = 4 * job.target.max_error if precision == "int8" else TOLERANCE[precision]
    component = job.component
    engine = load_engine(
        path, backend="openvino", inputs=job.inputs, outputs=component.outputs, device=HostDevice("fp32")
    )
    parity = check_parity(job.name, component, engine, tolerance, job.report, inner=precision != "int8")
    engine.close()
    return EngineSpec(
        files=tuple(describe_file(job.folder, file.name) for file in _files(path)),
        backend="openvino",
        precision=precision,
        inputs=job.inputs,
        outputs=component.outputs,
        activation_bytes=activation_bytes(component),
        tolerance=tolerance,
        parity=parity,
        parity_of="engine",
        build_key="",
    )


def _files(path: Path) -> tuple[Path, Path]:
    """The graph, then its weights."""
    return path, path.with_suffix(".bin")
