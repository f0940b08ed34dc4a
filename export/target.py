"""What a bundle is built for, and the keys that tell whether an engine of it has to be built again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import msgspec

from export.checkpoint import Checkpoint
from export.components import COMPONENTS, names
from export.components.component import TYPICAL_TOKENS
from export.errors import BuildError
from export.maker import Maker, TensorRTOptions
from runtime.bundle.schema import EIGHT_BITS, Precision
from runtime.errors import MissingDependencyError
from runtime.install import install_command, installed_versions

PACKAGES = ("trt-audioldm2", "torch", "diffusers", "transformers", "onnxruntime", "onnxruntime-gpu")
LONGEST_S = 3600
QUANTIZED = tuple(name for name, part in COMPONENTS.items() if part.facts.quantized)
GROWING = tuple(name for name, part in COMPONENTS.items() if part.facts.spans_audio)  # the longest duration bounds them


@dataclass(frozen=True, kw_only=True)
class Target:
    """Backend, precision, and options of the backend. Raises BuildError for what does not go together."""

    maker: Maker
    precision: Precision = "fp32"
    options: TensorRTOptions = field(default_factory=TensorRTOptions)
    max_error: float = 0.02  # of an engine in INT8 or FP8, relative; one above it stays in FP16

    def __post_init__(self) -> None:
        maker, options, precision = self.maker, self.options, self.precision
        if options.max_waveforms < 1 or not 0 < options.max_duration_s <= LONGEST_S:
            raise BuildError(f"--max-waveforms has to be at least 1, --max-duration above 0 and at most {LONGEST_S}")
        if precision not in get_args(Precision):
            raise BuildError(f"unknown precision '{precision}': {', '.join(get_args(Precision))}")
        if precision not in maker.precisions:
            choice = f"--backend {maker.name}: --precision {' or '.join(maker.precisions)}"
            raise BuildError(maker.refused_precisions.get(precision, choice))
        if not 0 < self.max_error < 1:
            raise BuildError(f"--max-error has to be between 0 and 1, got {self.max_error:g}")
        if not maker.compiles and options != TensorRTOptions():
            raise BuildError("shape bounds and builder options are for --backend tensorrt and tensorrt-rtx")
        for name, why in maker.refused_options.items():
            if getattr(options, name) != getattr(TensorRTOptions(), name):
                raise BuildError(why)
        object.__setattr__(self, "options", maker.settle(precision, options))

    @property
    def quantizes(self) -> bool:
        """Whether some engines are calibrated on recorded inputs."""
        return self.precision in EIGHT_BITS

    @property
    def suffix(self) -> str:
        """What this target adds to a bundle's name; nothing for the default one."""
        parts = [self.maker.name] * self.maker.in_bundle_name + [self.precision] * (self.precision != "fp32")
        return "".join(f"-{part}" for part in parts)

    def check_installed(self) -> None:
        """Raise MissingDependencyError now, and not minutes into a build, where what makes the engines is missing."""
        if (extra := self.maker.extras.get(self.precision)) is None:
            return
        for package in (package for package in extra.packages if find_spec(package) is None):
            raise MissingDependencyError(f"{package} is not installed: {install_command('cpu', 'export', extra.name)}")

    def versions(self) -> dict[str, str]:
        """Versions of all that makes the engines."""
        return {**installed_versions(*PACKAGES), **self.maker.versions()}  # one of the two onnxruntimes


def build_keys(checkpoint: Checkpoint, target: Target, versions: Mapping[str, str]) -> dict[str, str]:
    """For each engine a hash of all that it is made from: weights, configs, our code, versions, options."""
    common = {
        "weights": checkpoint.weights_sha256,
        "configs": {str(p.relative_to(checkpoint.folder)): _sha256(p) for p in checkpoint.folder.glob("*/config.json")},
        "code": {str(path.relative_to(_ROOT)): _sha256(path) for path in _sources()},
        "audio": msgspec.to_builtins(checkpoint.audio()),
        "token_multiple": TYPICAL_TOKENS,
        "versions": dict(versions),
        "backend": target.maker.name,
        "precision": target.precision,
        "max_error": target.max_error if target.quantizes else None,
    }
    keys = {}
    for name in names(checkpoint):
        options = asdict(target.options) if target.maker.compiles else {}
        if name not in GROWING:
            options.pop("max_duration_s", None)
        record = json.dumps({"name": name, **common, "options": options}, sort_keys=True)
        keys[name] = hashlib.sha256(record.encode()).hexdigest()
    return keys


def _sources() -> list[Path]:
    """The export stage's own files, but for the maker of demo checkpoints: its weights count, not how they came."""
    return sorted(path for path in _ROOT.glob("export/**/*.py") if not path.is_relative_to(_ROOT / "export/demo"))


_ROOT = Path(__file__).resolve().parent.parent


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
