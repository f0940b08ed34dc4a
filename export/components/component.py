"""What the export stage knows of a submodule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from export.checkpoint import Checkpoint
from runtime.backends.specs import Dtype, TensorSpec

Sizes = dict[str, int]
Tensors = dict[str, torch.Tensor]

# Sums over thousands of elements, of squares in part: FP16 overflows there.
NORMS = {
    "norm statistics": r"^(InstanceNormalization|LayerNormalization|BatchNormalization|ReduceL2) |layer_norm/",
}
TYPICAL_TOKENS = 16  # of most prompts; the manifest tells the runtime to pad to a multiple of it on a GPU


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a submodule before any of it is loaded. The manifest has what a run needs of it (EngineSpec).

    `spans_audio`: it takes the whole audio at once, so that the longest duration of a build bounds its shapes.
    `quantized`: it has so much of the arithmetic that INT8 pays. For the rest see EngineSpec.
    """

    rows: Literal["waveform", "guided", "sliceable"] = "guided"
    spans_audio: bool = False
    in_windows: bool = False
    audible: bool = False
    quantized: bool = False


@dataclass(frozen=True, kw_only=True)
class Component:
    """A torch module that is ready to be traced. Its inputs are positional, in the order of `inputs`.

    - `outputs`: what it gives, in this order.
    - `draw(sizes, generator)`: makes random inputs whose named axes have the given sizes.
    - `sizes`: all are compared with the torch module. The first is traced, so it has to be the most general case. Sizes
      beyond what the inputs of a small model allow are brought within their bounds.
    - `grows_with`: the axis that grows with the latent height, and by which factor; None if none does.
    - `islands`: the parts of a half-precision graph that stay in float32, as a name and a pattern that is searched in
      "OpType node name" (see `export.precision`). `bf16_islands` join them in BF16.
    - `typical`: the sizes of the commonest call.
    - `limits`: bounds of axes, for engines whose shapes have to be bound.
    - `ranges`: typical sizes and further bounds of each profile of such an engine; none: one, of the typical sizes.
      Axes whose sizes depend on each other need them: the bounds of a profile have to agree too.
    - `fuse_attention`: called before the graph is traced for engines that know fused attention as one operator; for
      others attention is traced in its parts.
    - `facts`: what was known before it was loaded.
    """

    module: torch.nn.Module
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    draw: Callable[[Sizes, torch.Generator], Tensors]
    sizes: tuple[Sizes, ...]
    grows_with: tuple[str, int] | None = None
    islands: Mapping[str, str] = field(default_factory=lambda: NORMS)
    bf16_islands: Mapping[str, str] = field(default_factory=dict)
    typical: Sizes = field(default_factory=dict)
    limits: Sizes = field(default_factory=dict)
    ranges: tuple[tuple[Sizes, Sizes], ...] = ()
    fuse_attention: Callable[[], None] | None = None
    facts: Facts = Facts()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self._bounded(sizes) for sizes in self.sizes))
        object.__setattr__(self, "typical", self._bounded(self.typical))
        object.__setattr__(self, "ranges", tuple((self._bounded(usual), bounds) for usual, bounds in self.ranges))

    def _bounded(self, sizes: Sizes) -> Sizes:
        bounds = {
            axis: (low, high)
            for spec in self.inputs.values()
            for axis, low, high in zip(spec.axes, spec.min_shape, spec.max_shape, strict=True)
        }
        unbounded = 1, None
        within = {}
        for axis, size in sizes.items():
            low, high = bounds.get(axis, unbounded)
            within[axis] = max(low, size if high is None else min(size, high))
        return within

    def islands_in(self, precision: str) -> dict[str, str]:
        """The islands of a graph in `precision`."""
        return {**self.islands, **(self.bf16_islands if precision == "bf16" else {})}

    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """Axes whose size may vary, in the form that torch.onnx wants."""
        tensors = {**self.inputs, **self.outputs}
        return {
            name: {i: axis for i, axis in enumerate(spec.axes) if spec.min_shape[i] != spec.max_shape[i]}
            for name, spec in tensors.items()
        }


@dataclass(frozen=True)
class Submodule:
    """One engine of a bundle, to be made from a checkpoint: call it to load its module."""

    make: Callable[[Checkpoint], Component]
    facts: Facts = Facts()

    def __call__(self, checkpoint: Checkpoint) -> Component:
        """The component with its module in memory. Raises CheckpointError."""
        return replace(self.make(checkpoint), facts=self.facts)


def tensor(dtype: Dtype, **axes: int | tuple[int, int | None]) -> TensorSpec:
    """A TensorSpec from its axes in order: a number is a fixed size, (low, high) a range, high None is no bound."""
    ranges = [(size, size) if isinstance(size, int) else size for size in axes.values()]
    return TensorSpec(
        dtype=dtype,
        axes=tuple(axes),
        min_shape=tuple(low for low, _ in ranges),
        max_shape=tuple(high for _, high in ranges),
    )


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Standard normals."""
    return torch.randn(*shape, generator=generator)


def padding_mask(generator: torch.Generator, rows: int, length: int) -> torch.Tensor:
    """Right-padded masks of random lengths, int64, (rows, length): at least one token a row, one row in full."""
    lengths = torch.randint(1, length + 1, (rows, 1), generator=generator)
    lengths[torch.randint(rows, (1,), generator=generator)] = length
    return (torch.arange(length) < lengths).long()
