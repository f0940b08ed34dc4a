"""The command that makes a bundle anew, for error messages: to be pasted as it is."""

from pathlib import Path

from runtime.bundle.manifest import Manifest, build_command
from runtime.bundle.schema import EIGHT_BITS


def rebuild_command(manifest: Manifest, folder: Path) -> str:
    """The command that makes the bundle in `folder` anew, but for options of the builder."""
    return build_command(manifest.checkpoint.id, folder, *_target_flags(manifest))


def _target_flags(manifest: Manifest) -> list[str]:
    spec = next(iter(manifest.engines.values()), None)
    flags = []
    if manifest.checkpoint.variant is not None:
        flags += ["--variant", manifest.checkpoint.variant]
    for lora in manifest.checkpoint.loras:
        flags += ["--lora", lora.path + ("" if lora.scale == 1 else f":{lora.scale:g}")]
    if spec is not None and spec.built_for is not None:
        flags += ["--backend", spec.built_for.flavour.replace("_", "-")]
    elif spec is not None and spec.backend == "openvino":
        flags += ["--backend", "openvino"]
    asked = [engine.precision for engine in manifest.engines.values() if engine.precision != "fp32"]
    eight_bits = [precision for precision in asked if precision in EIGHT_BITS]
    if asked:
        flags += ["--precision", (eight_bits or asked)[0]]
    return flags
