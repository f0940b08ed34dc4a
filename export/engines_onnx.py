"""Typed ONNX graph to an engine of ONNX Runtime: the graph itself."""

import shutil

from export.activation import activation_bytes
from export.maker import Job, Maker
from export.parity import TOLERANCE, check_parity
from runtime.backends.engine import load_engine
from runtime.bundle.manifest import BuildRecord, EngineSpec


def make_engine(job: Job) -> EngineSpec:
    """Move the graph into the bundle and compare it with its module. Raises BuildError above the tolerance."""
    files = sorted(job.graph.parent.glob(f"{job.graph.name}*"))  # the graph, then its weights
    for file in files:
        shutil.move(file, job.folder / file.name)
    component, tolerance = job.component, TOLERANCE[job.precision]
    path = job.folder / job.graph.name
    engine = load_engine(path, backend="onnxruntime", inputs=job.inputs, outputs=component.outputs)
    parity = check_parity(job.name, component, engine, tolerance, job.report, precision=job.precision)
    engine.close()
    return job.engine_spec(
        files,
        backend="onnxruntime",
        precision=job.precision,
        inputs=job.inputs,
        outputs=component.outputs,
        activation_bytes=activation_bytes(component),
        record=BuildRecord(build_key="", tolerance=tolerance, parity=parity, parity_of="engine"),
    )


ONNX = Maker(
    name="onnx",
    make_engine=make_engine,
    precisions=("fp32", "fp16"),
    refused_precisions={
        "bf16": "--precision bf16: ONNX Runtime runs no bfloat16 on a CPU; use fp32 or fp16",
        "int8": "--precision int8 is for --backend openvino",
        "fp8": "--precision fp8 is for --backend tensorrt and tensorrt-rtx",
    },
    fuses_attention=("fp32",),  # ONNX Runtime fuses it, and `export.precision` knows its parts alone
    halves_graph=("fp16",),
    in_bundle_name=False,
)
