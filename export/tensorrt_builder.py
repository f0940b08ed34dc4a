"""ONNX graph to a TensorRT engine file, with either flavour of the library: `tensorrt` or `tensorrt_rtx`.

Only what both have is used, in versions 10.13 to 11, except where a name is asked for with `getattr`.
"""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from export.errors import BuildError
from export.maker import TensorRTOptions
from runtime.backends.specs import BuiltFor, Flavour, ShapeProfile
from runtime.backends.tensorrt_library import Logger, gpu_capability, library

log = logging.getLogger(__name__)

TIMING_CACHES = ".timing"  # a folder beside the bundles


def build_engine(
    graph: Path, out: Path, profiles: tuple[ShapeProfile, ...], flavour: Flavour, options: TensorRTOptions, shelf: Path
) -> BuiltFor:
    """Build `graph` into the engine file `out`, and list the network's layers beside it (see `layers_file`).

    `shelf` is the folder of timing caches. Returns what the engine runs on. Raises BuildError with the parser's or the
    builder's own words, KeyboardInterrupt at Ctrl-C.
    """
    trt, _ = library(flavour)
    capability = gpu_capability() if flavour == "tensorrt" else None  # RTX compiles for the GPU at its first run
    messages = Logger(trt)
    builder = trt.Builder(messages)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, messages, graph)
    found = {network.get_input(i).name for i in range(network.num_inputs)}
    if found != profiles[0].keys():
        raise BuildError(f"{out.stem}: the network has the inputs {sorted(found)}, the specs {sorted(profiles[0])}")
    config = builder.create_builder_config()
    _configure(trt, config, flavour, options)
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, (low, usual, high) in shapes.items():
            profile.set_shape(name, low, usual, high)
        config.add_optimization_profile(profile)
    timing = shelf / f"{flavour}-{trt.__version__}-{capability}.timing"
    timed = _timing_cache(config, timing) if flavour == "tensorrt" else contextlib.nullcontext()  # RTX times nothing
    with timed, _progress(trt, config, out.stem) as monitor:
        plan = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise BuildError(f"{out.stem}: {flavour} could not build it: {messages.last_error}")
    out.write_bytes(plan)
    layers_file(out).write_text(json.dumps(_layers(network), indent=0) + "\n")
    return BuiltFor(
        flavour=flavour,
        version=trt.__version__,
        compute_capability=capability,
        accepted_capabilities=options.compute_capabilities,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
    )


def _parse(trt: Any, network: Any, messages: Any, graph: Path) -> None:
    """Read the graph into the network. Raises BuildError with a line for each operator that is not supported."""
    parser = trt.OnnxParser(network, messages)
    if parser.parse_from_file(str(graph)):
        return
    lines = []
    for i in range(parser.num_errors):
        parser_error = parser.get_error(i)
        where = f"{parser_error.node_operator()} '{parser_error.node_name()}'"
        lines.append(f"{where}: {parser_error.desc().strip()}")
    raise BuildError(f"{graph.stem}: not supported: " + ("; ".join(lines) or messages.last_error))


def _configure(trt: Any, config: Any, flavour: Flavour, options: TensorRTOptions) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the inspector tells precisions
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and as coarse as FP16: what is FP32 was to be exact
    config.set_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)  # memory by shape
    flags = []
    user_allocation = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)  # RTX alone has it: for CUDA graphs
    if user_allocation is not None and not options.weight_streaming:  # which allocates, and is not captured
        flags += [user_allocation]
    if options.version_compatible:
        flags += [trt.BuilderFlag.VERSION_COMPATIBLE]
        if flavour == "tensorrt_rtx":
            flags += [trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME]  # RTX has none to put in, and refuses without
    if options.refittable:
        flags += [trt.BuilderFlag.REFIT]
    if options.weight_streaming:
        flags += [trt.BuilderFlag.WEIGHT_STREAMING]
    for flag in flags:
        config.set_flag(flag)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    known = getattr(trt, "ComputeCapability", None)
    if options.compute_capabilities and known is not None:
        set_capability = getattr(config, "set_compute_capability")  # noqa: B009  RTX alone has it
        setattr(config, "num_compute_capabilities", len(options.compute_capabilities))  # noqa: B010
        for i, capability in enumerate(options.compute_capabilities):
            member = getattr(known, f"SM{capability.replace('.', '')}", None)
            if member is None:
                names = ", ".join(sorted(name for name in known.__members__ if name.startswith("SM")))
                raise BuildError(f"{flavour} {trt.__version__} does not know {capability} (it has {names})")
            set_capability(member, i)


@contextlib.contextmanager
def _timing_cache(config: Any, path: Path) -> Iterator[None]:
    """Tactics that were timed by earlier builds of the same version on the same GPU."""
    saved = path.read_bytes() if path.is_file() else b""
    timing = config.create_timing_cache(saved)
    if not config.set_timing_cache(timing, ignore_mismatch=False):
        log.warning("%s was made elsewhere and is not used", path)
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    yield
    serialized = config.get_timing_cache()
    data = None if serialized is None else serialized.serialize()
    if data is not None and data.nbytes:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(data)
        fresh.replace(path)  # a build beside this one never sees half a cache


@contextlib.contextmanager
def _progress(trt: Any, config: Any, name: str) -> Iterator[Any]:
    """A bar with the builder's phases; Ctrl-C ends the build at its next step."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self, bar: "tqdm[Any]") -> None:
            super().__init__()
            self.bar, self.interrupted = bar, False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.bar.reset(num_steps)
            self.bar.set_postfix_str(phase_name.lower(), refresh=False)

        def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002  the library's signature
            try:
                self.bar.update()
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            """The next phase's start says enough."""

    with tqdm(desc=name, disable=None, leave=False, unit="step") as bar:
        monitor = Monitor(bar)
        config.progress_monitor = monitor
        yield monitor


def _layers(network: Any) -> list[dict[str, Any]]:
    """Name, kind and the output types of every layer, as parsed."""
    found = []
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        types = [layer.get_output(k).dtype.name for k in range(layer.num_outputs)]
        found.append({"name": layer.name, "type": layer.type.name, "outputs": types})
    return found


def engine_layers(path: Path, flavour: str) -> str | None:
    """What the engine inspector says of a built engine, JSON; None where no GPU can open it."""
    trt, _ = library(flavour)
    messages = Logger(trt)
    runtime_ = trt.Runtime(messages)
    engine = runtime_.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def layers_file(plan: Path) -> Path:
    """Where the layers of the network that an engine was built from are listed."""
    return plan.with_suffix(".layers.json")
