"""What the build knows of a backend, and what a backend gets to make one engine.

To add a backend, write a file engines_NAME.py that declares its `Maker`, and name that in `export.commands.BACKENDS`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto

from export.checkpoint import Checkpoint
from export.components import Component
from runtime.backends.device import Array
from runtime.backends.specs import BuiltFor, TensorSpec
from runtime.bundle.manifest import BuildRecord, EngineSpec, describe_file
from runtime.bundle.schema import Backend, Precision


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
class Job:
    """One engine to make: the typed graph in a temporary folder, and where the engine goes.

    `model` is the float32 graph with its weights, `islands` the patterns that apply; None and empty in float32. `feeds`
    are recorded inputs to quantize by, `max_error` is what that may cost (see Target).
    """

    name: str
    component: Component
    checkpoint: Checkpoint
    precision: Precision
    options: TensorRTOptions
    max_error: float
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


@dataclass(frozen=True)
class Extra:
    """An extra of this package (see pyproject.toml), and what has to be importable once it is installed."""

    name: str
    packages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Maker:
    """A backend of the builder: all that a build asks of it.

    Its file can be imported without the backend's own packages: only functions import them.

    - `name`: what --backend calls it.
    - `make_engine`: makes the engine of a job in the bundle's folder, and compares it with its module.
    - `precisions`: what it builds, the default first.
    - `refused_precisions`: for a precision that it does not build, the line that a user sees; where there is none, the
      line lists `precisions`.
    - `refused_options`: for a field of TensorRTOptions that has to stay at its default, the line that a user sees.
    - `fuses_attention`: the precisions in which its graph has attention as one operator, and not in its parts.
    - `halves_graph`: the precisions that are written into its graph (see `export.precision`).
    - `settle`: completes the options by what a precision brings; raises BuildError where the two do not go together.
    - `compiles`: whether it compiles the graph for a GPU, as TensorRTOptions say. Without it, they are refused.
    - `extras`: by precision, what has to be installed beside [cpu,export]. A build looks for it before it starts.
    - `versions`: gives the versions of what makes its engines, for the manifest and the build key. It raises
      MissingDependencyError.
    - `in_bundle_name`: whether a bundle that a user does not name is called by the backend too.
    """

    name: str
    make_engine: Callable[[Job], EngineSpec]
    precisions: tuple[Precision, ...]
    refused_precisions: Mapping[Precision, str] = field(default_factory=dict)
    refused_options: Mapping[str, str] = field(default_factory=dict)
    fuses_attention: tuple[Precision, ...] = ()
    halves_graph: tuple[Precision, ...] = ()
    settle: Callable[[Precision, TensorRTOptions], TensorRTOptions] = lambda _, options: options
    compiles: bool = False
    extras: Mapping[Precision, Extra] = field(default_factory=dict)
    versions: Callable[[], Mapping[str, str]] = dict
    in_bundle_name: bool = True
