"""What the export stage knows of a submodule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from runtime.backends.specs import TensorSpec

Sizes = dict[str, int]
Tensors = dict[str, torch.Tensor]

# Sums over thousands of elements, of squares in part: FP16 overflows there.
NORMS = {
    "norm statistics": r"^(InstanceNormalization|LayerNormalization|BatchNormalization|ReduceL2) |layer_norm/",
}
TYPICAL_TOKENS = 16  # of most prompts: on a GPU the runtime pads to a multiple of it


@dataclass(frozen=True, kw_only=True)
class Component:
    """A torch module ready to be traced: positional inputs in the order of `inputs`, outputs in the order of `outputs`.

    `draw(sizes, generator)` makes random inputs whose named axes have the given sizes. The first of `sizes` is the one
    that is traced, so it holds the most general case; all are compared with the torch module. Sizes beyond what the
    inputs of a small model allow are brought within their bounds. `grows_with` names the axis that grows with the
    latent height, and by which factor.

    `islands` are the parts of a half-precision graph that stay in float32: name to a pattern that is searched in
    "OpType node name" (see `export.precision`); `bf16_islands` join them in BF16. `typical` has the sizes of the
    commonest call, `limits` bounds of axes for engines whose shapes have to be bound. `fuse_attention` is called before
    a graph is traced for engines that know fused attention as an operator; others compile it from its parts.
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
    fuse_attention: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self._bounded(sizes) for sizes in self.sizes))
        object.__setattr__(self, "typical", self._bounded(self.typical))

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


def tensor(dtype: str, **axes: int | tuple[int, int | None]) -> TensorSpec:
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
