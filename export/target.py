"""What a bundle is built for, and what a backend's file gets to make one engine."""

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

import msgspec
from onnx import ModelProto

from export.checkpoint import Checkpoint
from export.components import COMPONENTS, Component
from export.components.component import TYPICAL_TOKENS
from export.errors import BuildError
from export.precision import PRECISIONS
from runtime.backends.device import Array
from runtime.backends.specs import BuiltFor, TensorSpec
from runtime.bundle.manifest import BuildRecord, EngineSpec, describe_file
from runtime.bundle.schema import Backend, Precision
from runtime.errors import MissingDependencyError
from runtime.install import install_command

PACKAGES = ("trt-audioldm2", "torch", "diffusers", "transformers", "onnxruntime", "onnxruntime-gpu")
CPU_PACKAGES = ("openvino", "nncf")
LONGEST_S = 3600
QUANTIZED = tuple(name for name, part in COMPONENTS.items() if part.facts.quantized)
GROWING = tuple(name for name, part in COMPONENTS.items() if part.facts.spans_audio)  # the longest duration bounds them


@dataclass(frozen=True, kw_only=True)
class TensorRTOptions:
    """What a user may ask of the builder. Sizes that a checkpoint leaves open are bound here: an engine has to be."""

    max_waveforms: int = 4  # rows of one call; the UNet sees twice as many
    max_duration_s: float = 30.0
    workspace_bytes: int | None = None  # None: what the GPU has
    optimization_level: int | None = None  # 0 to 5; None: the library's own
    version_compatible: bool = False
    hardware_compatible: bool = False
    refittable: bool = False
    weight_streaming: bool = False
    compute_capabilities: tuple[str, ...] = ()  # RTX only, such as "8.9"; empty: all that it knows


@dataclass(frozen=True, kw_only=True)
class Target:
    """Backend, precision, and options of the backend. Raises BuildError for what does not go together."""

    backend: str = "onnx"
    precision: Precision = "fp32"
    options: TensorRTOptions = field(default_factory=TensorRTOptions)
    max_error: float = 0.02  # of an engine in INT8, relative; one above it stays in FP16

    def __post_init__(self) -> None:
        bounds = self.options
        if bounds.max_waveforms < 1 or not 0 < bounds.max_duration_s <= LONGEST_S:
            raise BuildError(f"--max-waveforms has to be at least 1, --max-duration above 0 and at most {LONGEST_S}")
        if self.precision not in (*PRECISIONS, "int8"):
            raise BuildError(f"unknown precision '{self.precision}': {', '.join(PRECISIONS)}, int8")
        if self.backend == "openvino" and self.precision not in ("fp16", "int8"):
            raise BuildError(
                "--backend openvino: --precision fp16 or int8; it runs the fp32 graphs of --backend onnx too"
            )
        if self.precision == "int8" and self.backend != "openvino":
            raise BuildError("--precision int8 is for --backend openvino")
        if not 0 < self.max_error < 1:
            raise BuildError(f"--max-error has to be between 0 and 1, got {self.max_error:g}")
        if not self.compiles and self.options != TensorRTOptions():
            raise BuildError("shape bounds and builder options are for --backend tensorrt and tensorrt-rtx")
        if self.backend == "onnx" and self.precision == "bf16":
            raise BuildError("--precision bf16: ONNX Runtime runs no bfloat16 on a CPU; use fp32 or fp16")
        if self.options.compute_capabilities and self.flavour != "tensorrt_rtx":
            raise BuildError("--compute-capability is for tensorrt-rtx: tensorrt builds for the GPU that it runs on")
        if self.options.hardware_compatible and self.flavour == "tensorrt_rtx":
            raise BuildError("--hardware-compatible is for tensorrt: an RTX engine is compiled again on each GPU")

    @property
    def compiles(self) -> bool:
        """Whether the graph is compiled for a GPU rather than shipped."""
        return self.backend not in ("onnx", "openvino")

    @property
    def fuses_attention(self) -> bool:
        """Whether attention is one operator of the graph: OpenVINO and ONNX Runtime know it, halving does not."""
        return self.backend == "openvino" or (self.backend == "onnx" and self.precision == "fp32")

    @property
    def halves_graph(self) -> bool:
        """Whether precision is written into the graph (see `export.precision`) before the engine is made of it."""
        return self.backend != "openvino" and self.precision != "fp32"

    @property
    def flavour(self) -> str:
        """The import name of the TensorRT library."""
        return self.backend.replace("-", "_")

    @property
    def suffix(self) -> str:
        """What this target adds to a bundle's name; nothing for the default one."""
        parts = [self.backend] * (self.backend != "onnx") + [self.precision] * (self.precision != "fp32")
        return "".join(f"-{part}" for part in parts)

    def check_installed(self) -> None:
        """Raise MissingDependencyError now, and not minutes into a build, where what makes the engines is missing."""
        needed = {"openvino": ("openvino", *(("nncf",) if self.precision == "int8" else ()))}.get(self.backend, ())
        for package in (package for package in needed if find_spec(package) is None):
            extra = "int8" if self.precision == "int8" else "openvino"
            raise MissingDependencyError(f"{package} is not installed: {install_command('cpu', 'export', extra)}")

    def versions(self) -> dict[str, str]:
        """Versions of all that makes the engines."""
        versions = {}
        for name in (*PACKAGES, *(CPU_PACKAGES if self.backend == "openvino" else ())):  # one of the two onnxruntimes
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[name] = importlib.metadata.version(name)
        if self.compiles:
            from runtime.backends.tensorrt import gpu_capability, library

            versions[self.backend] = library(self.flavour)[0].__version__
            if self.backend == "tensorrt":
                versions["compute capability"] = gpu_capability() or "none"
        return versions


@dataclass(frozen=True, kw_only=True)
class Job:
    """One engine to make: the typed graph in a temporary folder, and where the engine goes.

    `model` is the float32 graph with its weights, `islands` the patterns that apply; None and empty in float32. `feeds`
    are recorded inputs to quantize by.
    """

    name: str
    component: Component
    checkpoint: Checkpoint
    target: Target
    graph: Path
    inputs: dict[str, TensorSpec]
    folder: Path
    report: Callable[[str], None]
    model: ModelProto | None = None
    islands: Mapping[str, str] = field(default_factory=dict)
    feeds: Sequence[Mapping[str, Array]] = ()

    def engine_spec(
        self,
        files: Iterable[Path],
        *,
        backend: Backend,
        precision: Precision,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        activation_bytes: tuple[float, ...] | None,
        record: BuildRecord,
        built_for: BuiltFor | None = None,
    ) -> EngineSpec:
        """What the manifest says of the engine that consists of `files` in the bundle's folder."""
        facts = self.component.facts
        return EngineSpec(
            files=tuple(describe_file(self.folder, file.name) for file in files),
            backend=backend,
            precision=precision,
            inputs=dict(inputs),
            outputs=dict(outputs),
            rows=facts.rows,
            in_windows=facts.in_windows,
            audible=facts.audible,
            activation_bytes=activation_bytes,
            record=record,
            built_for=built_for,
        )


def build_keys(checkpoint: Checkpoint, target: Target, versions: Mapping[str, str]) -> dict[str, str]:
    """For each engine a hash of all that it is made from: weights, configs, our code, versions, options."""
    common = {
        "weights": checkpoint.weights_sha256,
        "configs": {str(p.relative_to(checkpoint.folder)): _sha256(p) for p in checkpoint.folder.glob("*/config.json")},
        "code": {str(path.relative_to(_ROOT)): _sha256(path) for path in _sources()},
        "audio": msgspec.to_builtins(checkpoint.audio()),
        "token_multiple": TYPICAL_TOKENS,
        "versions": dict(versions),
        "backend": target.backend,
        "precision": target.precision,
        "max_error": target.max_error if target.precision == "int8" else None,
    }
    keys = {}
    for name in COMPONENTS:
        options = asdict(target.options) if target.compiles else {}
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
