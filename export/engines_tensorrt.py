"""The makers of TensorRT engines, in either flavour of the library: what they build, for which shapes, and how right.

The building itself is in `export.tensorrt_builder`.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from export.components.component import Sizes
from export.errors import BuildError
from export.fp8 import Fp8
from export.islands import emulated
from export.maker import Job, Maker, TensorRTOptions
from export.onnx import save
from export.parity import TOLERANCE, check_parity, check_recorded
from export.precision import convert
from export.quantize import Quantized, quantize
from export.tensorrt_builder import TIMING_CACHES, build_engine, layers_file
from runtime.backends.engine import Engine, load_engine
from runtime.backends.open_device import usable_gpu
from runtime.backends.specs import Flavour, ShapeProfile, TensorSpec
from runtime.backends.tensorrt_library import capabilities, gpu_capability, library
from runtime.bundle.manifest import BuildRecord, EngineSpec
from runtime.bundle.schema import Precision

FP8_FROM = 8.9  # the first compute capability that computes in it


def make_engine(job: Job, flavour: Flavour) -> EngineSpec:
    """Compile the graph and compare it with its module: the engine where a GPU is at hand, else the rounded graph.

    An engine that FP8 does not suit is left in FP16: the manifest says which. Raises BuildError above the tolerance,
    and for what the library cannot build.
    """
    component = job.component
    fp8 = _to_fp8(job)
    precision: Precision = "fp16" if job.precision == "fp8" and fp8 is None else job.precision
    tolerance = TOLERANCE[precision] if fp8 is None else job.max_error
    limits = _limits(job)
    profiles = shape_profiles(job.inputs, component.typical, limits, component.ranges)
    inputs, outputs = bounded(job.inputs, limits), bounded(component.outputs, limits)
    path = job.folder / f"{job.name}.engine"
    start = time.perf_counter()
    built_for = build_engine(job.graph, path, profiles, flavour, job.options, job.folder.parent / TIMING_CACHES)
    job.report(f"{job.name}: built in {time.perf_counter() - start:.1f} s, {path.stat().st_size / 1e6:.1f} MB")
    device = usable_gpu()
    if device is None:
        job.report(f"  {job.name}: no GPU here: the graph is compared, with all that is not float32 rounded")
        engine = _rounded_graph(job, precision, fp8)
    else:
        with device.active():
            engine = load_engine(
                path, backend="tensorrt", inputs=inputs, outputs=outputs, device=device, built_for=built_for
            )
    if fp8 is None:
        parity = check_parity(job.name, component, engine, tolerance, job.report, device, precision=precision)
    else:
        parity = check_recorded(job.name, engine, fp8.held_out, fp8.expected, tolerance, job.report, device)
    engine.close()
    return job.engine_spec(
        (path, layers_file(path)),
        backend="tensorrt",
        precision=precision,
        inputs=inputs,
        outputs=outputs,
        activation_bytes=None,  # it tells only what its largest shape takes
        record=BuildRecord(
            build_key="",
            tolerance=tolerance,
            parity=parity,
            parity_of="graph" if device is None else "engine",
            profiles=profiles,
        ),
        built_for=built_for,
    )


def shape_profiles(
    inputs: Mapping[str, TensorSpec],
    typical: Sizes,
    limits: Mapping[str, int],
    ranges: Sequence[tuple[Sizes, Sizes]] = (),
) -> tuple[ShapeProfile, ...]:
    """The commonest shapes alone, then those of each range, or all: (smallest, typical, largest) of each input.

    A call takes the first that fits. `limits` bounds the axes that the specs leave open; see `Component.ranges`.
    """
    common = {name: (usual,) * 3 for name, (_, usual, _) in _profile(inputs, typical, limits).items()}
    wholes = [_profile(inputs, usual, {**limits, **bounds}) for usual, bounds in ranges or ((typical, {}),)]
    return tuple(wholes) if common in wholes else (common, *wholes)


def _profile(inputs: Mapping[str, TensorSpec], typical: Sizes, limits: Mapping[str, int]) -> ShapeProfile:
    profile: ShapeProfile = {}
    for name, spec in bounded(inputs, limits).items():
        largest = tuple(size for size in spec.max_shape if size is not None)
        if len(largest) < len(spec.axes):
            raise BuildError(f"'{name}' has an axis without a bound: {spec.axes}, {spec.max_shape}")
        usual = tuple(
            min(max(typical.get(axis, low), low), high)
            for axis, low, high in zip(spec.axes, spec.min_shape, largest, strict=True)
        )
        profile[name] = (spec.min_shape, usual, largest)
    return profile


def bounded(specs: Mapping[str, TensorSpec], limits: Mapping[str, int]) -> dict[str, TensorSpec]:
    """The specs with the axes' bounds of the profile, so that what does not fit is refused with the axis's name."""
    return {
        name: TensorSpec(
            dtype=spec.dtype,
            axes=spec.axes,
            min_shape=spec.min_shape,
            max_shape=tuple(
                limits.get(axis, high) if high is None else min(high, limits.get(axis, high))
                for axis, high in zip(spec.axes, spec.max_shape, strict=True)
            ),
        )
        for name, spec in specs.items()
    }


def _limits(job: Job) -> dict[str, int]:
    """Upper bounds of the axes that a component leaves open."""
    audio, options = job.checkpoint.audio(), job.options
    row_s = audio.row_samples / audio.sample_rate_hz
    axis, factor = job.component.grows_with or ("height", 1)
    longest_check = max(math.ceil(sizes.get(axis, 1) / factor) for sizes in job.component.sizes)
    height = max(math.ceil(options.max_duration_s / row_s), longest_check)
    rows = options.max_waveforms * (2 if job.component.facts.rows == "guided" else 1)
    checked_rows = max(sizes["batch"] for sizes in job.component.sizes)
    return {
        "batch": max(rows, checked_rows),
        "height": height,
        axis: height * factor,
        **job.component.limits,
    }


def _to_fp8(job: Job) -> Quantized | None:
    """Quantize the job's graph in place by what it was fed; None where FP8 was not asked for or does not suit it."""
    if job.model is None or not job.feeds:
        return None
    found = quantize(job.name, Fp8(job.model, job.islands), job.feeds, job.max_error, job.report)
    if found is not None:
        save(convert(found.graph, job.precision, job.islands).model, job.graph.parent, job.graph.stem)
    return found


def _rounded_graph(job: Job, precision: Precision, fp8: Quantized | None) -> Engine:
    """What computes on the CPU what the engine computes on a GPU."""
    if job.model is None:
        return load_engine(job.graph, backend="onnxruntime", inputs=job.inputs, outputs=job.component.outputs)
    model = job.model if fp8 is None else fp8.graph
    return emulated(job.name, job.component, model, precision, job.islands)


def _settle(flavour: Flavour, precision: Precision, options: TensorRTOptions) -> TensorRTOptions:
    """The options with what a precision brings: FP8 is for GPUs that have it. Raises BuildError for others."""
    if precision != "fp8":
        return options
    here = gpu_capability() if flavour == "tensorrt" else None
    without = [name for name in (here, *options.compute_capabilities) if name is not None and float(name) < FP8_FROM]
    if without or options.hardware_compatible:
        named = f"compute capability {without[0]}" if without else "--hardware-compatible"
        raise BuildError(f"--precision fp8 needs compute capability {FP8_FROM} or later: not {named}")
    if flavour == "tensorrt" or options.compute_capabilities:
        return options
    known = capabilities(library(flavour)[0])
    return replace(options, compute_capabilities=tuple(name for name in known if float(name) >= FP8_FROM))


def _versions(flavour: Flavour) -> dict[str, str]:
    versions = {flavour.replace("_", "-"): library(flavour)[0].__version__}
    return versions if flavour == "tensorrt_rtx" else {**versions, "compute capability": gpu_capability() or "none"}


TENSORRT = Maker(
    name="tensorrt",
    make_engine=partial(make_engine, flavour="tensorrt"),
    precisions=("fp32", "fp16", "bf16", "fp8"),
    refused_precisions={"int8": "--precision int8 is for --backend openvino"},
    refused_options={
        "compute_capabilities": "--compute-capability is for tensorrt-rtx: tensorrt builds for the GPU that it runs on",
    },
    halves_graph=("fp16", "bf16", "fp8"),
    settle=partial(_settle, "tensorrt"),
    compiles=True,
    versions=partial(_versions, "tensorrt"),
)
TENSORRT_RTX = replace(
    TENSORRT,
    name="tensorrt-rtx",
    make_engine=partial(make_engine, flavour="tensorrt_rtx"),
    refused_options={
        "hardware_compatible": "--hardware-compatible is for tensorrt: an RTX engine is compiled again on each GPU",
    },
    settle=partial(_settle, "tensorrt_rtx"),
    versions=partial(_versions, "tensorrt_rtx"),
)
