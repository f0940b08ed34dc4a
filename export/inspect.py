"""A bundle in words."""

import json
from collections import Counter
from pathlib import Path

from export.errors import BuildError
from runtime.backends.specs import BuiltFor, TensorSpec
from runtime.bundle import Bundle
from runtime.bundle.manifest import Island, ParityCheck


def describe(bundle: Bundle) -> str:
    """What a bundle was made from, what it makes, and each engine: precision, size, worst parity error, tensors."""
    manifest = bundle.manifest
    audio, made_from = manifest.audio, manifest.checkpoint
    seconds = audio.default_duration_s
    lines = [
        f"bundle      {bundle.folder} (schema {manifest.schema})",
        f"checkpoint  {made_from.id}" + (f" at {made_from.revision}" if made_from.revision else ""),
        *(f"LoRA        {lora.path}, scale {lora.scale:g}" for lora in made_from.loras),
        f"model       {manifest.kind.pipeline}'s",
        f"weights     sha256 {made_from.weights_sha256}",
        f"audio       {audio.sample_rate_hz} Hz, {seconds:g} s by default",
        f"scheduler   {manifest.scheduler['_class_name']}, {manifest.scheduler.get('prediction_type', 'epsilon')}",
        "built with  " + ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
    ]
    for name, engine in manifest.engines.items():
        record = engine.record
        size = sum(file.size_bytes for file in engine.files) / 1e6
        worst = max((check.relative_error for check in record.parity), default=float("nan"))
        lines.append(
            f"{name}: {engine.backend} {engine.precision}, {size:.1f} MB, "
            f"worst relative error {worst:.1e} of {len(record.parity)} checks (tolerance {record.tolerance:.0e})"
            + (", of its graph: never run" if record.parity_of == "graph" else "")
        )
        lines += [f"  {_admitted(check, engine.precision)}" for check in record.parity if check.half_error is not None]
        lines += [f"  {island}" for island in map(_island, record.islands)]
        if engine.built_for is not None:
            lines.append(f"  for {_built_for(engine.built_for)}")
        for direction, tensors in (("in ", engine.inputs), ("out", engine.outputs)):
            lines += [f"  {direction} {tensor}: {_tensor(spec)}" for tensor, spec in tensors.items()]
    return "\n".join(lines)


def _admitted(check: ParityCheck, precision: str) -> str:
    sizes = " ".join(f"{axis}={size}" for axis, size in check.sizes.items())
    return f"{check.relative_error:.1e} at {sizes}, where torch's own error in {precision} is {check.half_error:.1e}"


def _island(island: Island) -> str:
    without = "overflow" if island.error_without is None else f"{island.error_without:.1e}"
    return (
        f"{island.name} in fp32: {island.nodes} nodes, {island.extra_bytes / 1e6:.1f} MB, "
        f"relative error {island.error_with:.1e} with, {without} without"
    )


def _built_for(built_for: BuiltFor) -> str:
    parts = [f"{built_for.flavour} {built_for.version}" + (" or later" if built_for.version_compatible else "")]
    if built_for.compute_capability:
        later = " and other GPUs from 8.0 on" if built_for.hardware_compatible else ""
        parts.append(f"compute capability {built_for.compute_capability}{later}")
    if built_for.accepted_capabilities:
        parts.append(f"compute capability {', '.join(built_for.accepted_capabilities)}")
    return ", ".join(parts)


def _tensor(spec: TensorSpec) -> str:
    axes = [
        f"{axis} {low}" if low == high else f"{axis} {low}..{'' if high is None else high}"
        for axis, low, high in zip(spec.axes, spec.min_shape, spec.max_shape, strict=True)
    ]
    return f"{spec.dtype} ({', '.join(axes)})"


def describe_layers(bundle: Bundle) -> str:
    """Each engine's layers: what the engine inspector says where the engine can be opened, else the network's layers.

    Raises BuildError for a bundle of graphs: those are their own list.
    """
    from export.tensorrt_builder import engine_layers  # a bundle can be described without the torch side

    lines = []
    for name, engine in bundle.manifest.engines.items():
        if engine.built_for is None:
            raise BuildError(f"{name} is an ONNX graph: look at it with any viewer; layers are for compiled engines")
        plan, network = (bundle.path(file) for file in engine.files)
        inspected = engine_layers(plan, engine.built_for.flavour)
        lines.append(f"{name}: " + ("as parsed, for no GPU here can open it" if inspected is None else "as compiled"))
        lines += _network_layers(network) if inspected is None else _engine_layers(inspected)
    return "\n".join(lines)


def _network_layers(path: Path) -> list[str]:
    layers = json.loads(path.read_text())
    counts = Counter(kind for layer in layers for kind in layer["outputs"])
    total = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    return [f"  {len(layers)} layers; outputs: {total}"] + [
        f"  {layer['type']:24} {','.join(layer['outputs']):8} {layer['name']}" for layer in layers
    ]


def _engine_layers(information: str) -> list[str]:
    layers = json.loads(information)["Layers"]
    lines = [f"  {len(layers)} layers"]
    for layer in layers:
        if isinstance(layer, str):  # an engine without detailed profiling has names only
            lines.append(f"  {layer}")
            continue
        kinds = ",".join(tensor.get("Format/Datatype", "?") for tensor in layer.get("Outputs", []))
        lines.append(f"  {layer.get('LayerType', '?'):24} {kinds} {layer.get('Name', '?')}")
    return lines
