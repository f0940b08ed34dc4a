"""Typed ONNX graph to an engine of ONNX Runtime: the graph itself."""

import shutil

from export.activation import activation_bytes
from export.parity import TOLERANCE, check_parity
from export.target import Job
from runtime.backends.engine import load_engine
from runtime.bundle.manifest import BuildRecord, EngineSpec


def make_engine(job: Job) -> EngineSpec:
    """Move the graph into the bundle and compare it with its module. Raises BuildError above the tolerance."""
    files = sorted(job.graph.parent.glob(f"{job.graph.name}*"))  # the graph, then its weights
    for file in files:
        shutil.move(file, job.folder / file.name)
    component, tolerance = job.component, TOLERANCE[job.target.precision]
    path = job.folder / job.graph.name
    engine = load_engine(path, backend="onnxruntime", inputs=job.inputs, outputs=component.outputs)
    parity = check_parity(job.name, component, engine, tolerance, job.report, precision=job.target.precision)
    engine.close()
    return job.engine_spec(
        files,
        backend="onnxruntime",
        precision=job.target.precision,
        inputs=job.inputs,
        outputs=component.outputs,
        activation_bytes=activation_bytes(component),
        record=BuildRecord(build_key="", tolerance=tolerance, parity=parity, parity_of="engine"),
    )
