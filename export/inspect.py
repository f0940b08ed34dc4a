"""A bundle in words."""

from runtime.bundle import Bundle
from runtime.engine import TensorSpec


def describe(bundle: Bundle) -> str:
    """What a bundle was made from, what it makes, and each engine: precision, size, worst parity error, tensors."""
    manifest = bundle.manifest
    audio, made_from = manifest.audio, manifest.checkpoint
    seconds = audio.default_latent_height * audio.vae_scale_factor * audio.hop_samples / audio.sample_rate_hz
    lines = [
        f"bundle      {bundle.folder} (schema {manifest.schema})",
        f"checkpoint  {made_from.id}" + (f" at {made_from.revision}" if made_from.revision else ""),
        f"weights     sha256 {made_from.weights_sha256}",
        f"audio       {audio.sample_rate_hz} Hz, {seconds:g} s by default",
        f"scheduler   {manifest.scheduler['_class_name']}, {manifest.scheduler.get('prediction_type', 'epsilon')}",
        "built with  " + ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
    ]
    for name, engine in manifest.engines.items():
        size = sum(file.size_bytes for file in engine.files) / 1e6
        worst = max((check.relative_error for check in engine.parity), default=float("nan"))
        lines.append(
            f"{name}: {engine.backend} {engine.precision}, {size:.1f} MB, "
            f"worst relative error {worst:.1e} of {len(engine.parity)} checks (tolerance {engine.tolerance:.0e})"
        )
        for direction, tensors in (("in ", engine.inputs), ("out", engine.outputs)):
            lines += [f"  {direction} {tensor}: {_tensor(spec)}" for tensor, spec in tensors.items()]
    return "\n".join(lines)


def _tensor(spec: TensorSpec) -> str:
    axes = [
        f"{axis} {low}" if low == high else f"{axis} {low}..{'' if high is None else high}"
        for axis, low, high in zip(spec.axes, spec.min_shape, spec.max_shape, strict=True)
    ]
    return f"{spec.dtype} ({', '.join(axes)})"
