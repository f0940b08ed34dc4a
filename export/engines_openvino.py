"""ONNX graph to an engine for CPUs in OpenVINO's own format: weights in half the space, or the whole in INT8."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from export.activation import activation_bytes
from export.maker import Extra, Job, Maker
from export.parity import TOLERANCE, check_parity
from export.quantize import SMALL_BYTES, Quantized, quantize
from runtime.backends.device import HostDevice
from runtime.backends.engine import load_engine
from runtime.bundle.manifest import BuildRecord, EngineSpec, ParityCheck
from runtime.bundle.schema import Precision
from runtime.install import installed_versions


def make_engine(job: Job) -> EngineSpec:
    """Write the graph with weights in FP16, in INT8 where the job has recorded inputs, and compare it with its module.

    Raises BuildError above the tolerance. An engine that INT8 does not suit is left in FP16: the manifest says which.
    """
    import openvino

    quantized = _quantized(job)
    model = quantized.graph if quantized is not None else exact_graph(job.graph, job.component.islands)
    path = job.folder / f"{job.name}.xml"
    openvino.save_model(model, path, compress_to_fp16=True)
    component = job.component
    precision: Precision
    if quantized is None:
        precision, tolerance = "fp16", TOLERANCE["fp16"]
        device = HostDevice("fp32")
        engine = load_engine(path, backend="openvino", inputs=job.inputs, outputs=component.outputs, device=device)
        parity = check_parity(job.name, component, engine, tolerance, job.report, precision=precision)
        engine.close()
    else:  # calibrated on what the engine sees in use, and compared on that: drawn inputs say nothing of it
        precision, tolerance = "int8", job.max_error
        parity = (ParityCheck(sizes={"recorded": len(job.feeds)}, relative_error=quantized.error),)
    return job.engine_spec(
        _files(path),
        backend="openvino",
        precision=precision,
        inputs=job.inputs,
        outputs=component.outputs,
        activation_bytes=activation_bytes(component),
        record=BuildRecord(build_key="", tolerance=tolerance, parity=parity, parity_of="engine"),
    )


def exact_graph(path: Path, islands: Mapping[str, str]) -> Any:
    """The graph, each small constant of an island in it the sum of two that FP16 holds: OpenVINO compresses them all.

    A UNet's timestep of up to 999 is multiplied by frequencies: rounded to FP16 they turn its sines by half a radian.
    """
    import openvino
    from openvino import opset13 as opset

    model = openvino.Core().read_model(path)
    for operation in model.get_ordered_ops():
        if not any(re.search(pattern, operation.get_friendly_name()) for pattern in islands.values()):
            continue
        for port in operation.inputs():
            constant = port.get_source_output().get_node()
            if constant.get_type_name() != "Constant" or constant.get_element_type() != openvino.Type.f32:
                continue
            values = constant.data
            if values.size > 1 and values.nbytes <= SMALL_BYTES:
                rounded = values.astype(np.float16).astype(np.float32)
                parts = (opset.constant(part) for part in (rounded, values - rounded))
                port.replace_source_output(opset.add(*parts).output(0))
    return model


def _quantized(job: Job) -> Quantized | None:
    if not job.feeds:
        return None
    from export.int8 import Int8

    return quantize(job.name, Int8(job.graph), job.feeds, job.max_error, job.report)


def _files(path: Path) -> tuple[Path, Path]:
    """The graph, then its weights."""
    return path, path.with_suffix(".bin")


OPENVINO = Maker(
    name="openvino",
    make_engine=make_engine,
    precisions=("fp16", "int8"),
    refused_precisions=dict.fromkeys(
        ("fp32", "bf16", "fp8"),
        "--backend openvino: --precision fp16 or int8; it runs the fp32 graphs of --backend onnx too",
    ),
    fuses_attention=("fp16", "int8"),
    extras={"fp16": Extra("openvino", ("openvino",)), "int8": Extra("int8", ("openvino", "nncf"))},
    versions=partial(installed_versions, "openvino", "nncf"),
)
