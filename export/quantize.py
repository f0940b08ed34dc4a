"""What all formats of eight bits share: recorded inputs to quantize by, and layers left in float for the error.

A format is one file with a `Scheme`: `export.int8` for CPUs, `export.fp8` for GPUs.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from export.calibration import Feeds
from export.parity import pooled_error
from runtime.backends.device import Array

HELD_OUT = 3  # every third recorded input
SMALL_BYTES = 4096  # float32 constants up to this size are frequencies, scales and biases: they stay as they are
WORST = 0.2  # share of the blocks of layers that go back to float for a second try


class Scheme(Protocol):
    """How one graph is quantized to one format. `label` names the format, `exact` is the graph in float."""

    label: str
    exact: Any

    def quantized(self, kept: Collection[str], feeds: Sequence[Feeds]) -> Any:
        """The graph calibrated with `feeds`, with all layers quantized that suit the format but those named `kept`."""

    def layers(self, graph: Any) -> Collection[str]:
        """Names of the layers that are quantized in a graph, such as /unet/up_blocks.2/resnets.1/conv1/Conv."""

    def without(self, graph: Any, layers: Collection[str]) -> Any:
        """A quantized graph with the inputs of the named layers left in float."""

    def outputs(self, graph: Any, feeds: Sequence[Feeds]) -> list[Array]:
        """The first output of a graph for each input, computed in float32 from what is rounded."""


@dataclass(frozen=True)
class Quantized:
    """A graph in a scheme's form, its relative error, and what that was measured on: inputs not calibrated with."""

    graph: Any
    error: float
    held_out: Sequence[Feeds]
    expected: Sequence[Array]


def quantize(
    name: str, scheme: Scheme, feeds: Sequence[Feeds], max_error: float, report: Callable[[str], None]
) -> Quantized | None:
    """The graph in the scheme's format; None where its relative error stays above `max_error`.

    Where it is above that at first, the fifth of the blocks that costs the most goes back to float for a second try.
    """
    held_out, calibration = feeds[1::HELD_OUT], [feed for i, feed in enumerate(feeds) if i % HELD_OUT != 1]
    expected = scheme.outputs(scheme.exact, held_out)
    kept: list[str] = []
    for _ in range(2):
        graph = scheme.quantized(kept, calibration)
        actual = scheme.outputs(graph, held_out)
        error = pooled_error(actual, expected)
        report(f"  {name}: {scheme.label}, {len(kept)} more layers kept in float: relative error {error:.1e}")
        if error <= max_error:
            return Quantized(graph, error, held_out, expected)
        hardest = max(range(len(held_out)), key=lambda i: pooled_error(actual[i : i + 1], expected[i : i + 1]))
        kept = _worst_layers(scheme, graph, held_out[hardest], expected[hardest])
    report(f"  {name}: not quantized: the error is above {max_error:g}")
    return None


def _worst_layers(scheme: Scheme, graph: Any, feed: Feeds, expected: Array) -> list[str]:
    """Names of the layers of the blocks whose inputs cost the most to round, each block measured alone on one input."""
    blocks: dict[str, list[str]] = {}
    for layer in scheme.layers(graph):
        blocks.setdefault(_block(layer), []).append(layer)
    errors: Mapping[str, float] = {
        block: pooled_error(scheme.outputs(scheme.without(graph, layers), [feed]), [expected])
        for block, layers in blocks.items()
    }
    worst = sorted(errors, key=lambda block: errors[block])[: max(1, round(WORST * len(errors)))]
    return [name for block in worst for name in blocks[block]]


def _block(layer: str) -> str:
    """What a layer belongs to, such as unet/up_blocks.2/resnets.1."""
    return "/".join(layer.strip("/").split("/")[:3])
