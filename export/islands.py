"""What each float32 island of a half-precision graph is worth: measured, not believed."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import torch
from onnx import ModelProto

from export.components import Component
from export.onnx import save
from export.parity import compare
from export.precision import convert, matches
from runtime.backends.engine import Engine
from runtime.backends.onnxruntime import OrtEngine
from runtime.bundle.manifest import Island


@contextmanager
def emulated(
    name: str, component: Component, model: ModelProto, precision: str, islands: Mapping[str, str]
) -> Iterator[Engine]:
    """An engine that computes on the CPU what the typed graph computes on a GPU, every half tensor rounded."""
    with _trial(name, component, model, precision, islands) as (engine, _, _):
        yield engine


def measure_islands(
    name: str, component: Component, model: ModelProto, precision: str, report: Callable[[str], None]
) -> tuple[Island, ...]:
    """Each island's price and worth, at the component's first size: the error with all, and with all but this one."""
    patterns = component.islands_in(precision)
    found = {key: pattern for key, pattern in patterns.items() if any(matches(model, pattern))}
    if not found:
        return ()
    seed = torch.seed() % 2**31

    def measure(islands: Mapping[str, str]) -> tuple[float, int, int]:
        with _trial(name, component, model, precision, islands) as (engine, nodes, extra_bytes):
            return compare(component, engine, component.sizes[0], seed), nodes, extra_bytes

    best, all_nodes, all_bytes = measure(found)
    table = []
    for key, pattern in found.items():
        error, nodes, extra = measure({other: found[other] for other in found if other != key})
        nodes, extra = all_nodes - nodes, all_bytes - extra
        report(
            f"  {name}: {key} in fp32: relative error {best:.1e}, {error:.1e} if it were {precision}; "
            f"{nodes} nodes, {extra / 1e6:.1f} MB"
        )
        finite = error if math.isfinite(error) else None
        island = Island(
            name=key, pattern=pattern, nodes=nodes, extra_bytes=extra, error_with=best, error_without=finite
        )
        table.append(island)
    return tuple(table)


@contextmanager
def _trial(
    name: str, component: Component, model: ModelProto, precision: str, islands: Mapping[str, str]
) -> Iterator[tuple[Engine, int, int]]:
    """The emulating engine, the number of nodes in float32 and the bytes that their weights take on top of half."""
    typed = convert(model, precision, islands, emulate=True)
    nodes, extra_bytes = typed.float_nodes, typed.extra_bytes
    kept = {tensor.name for tensor in model.graph.input}
    inputs = {key: spec for key, spec in component.inputs.items() if key in kept}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # none may undo a rounding
    with TemporaryDirectory() as work:
        files = save(typed.model, Path(work), name)
        del typed  # as large as the session's own weights
        session = onnxruntime.InferenceSession(str(Path(work, files[0])), options, providers=["CPUExecutionProvider"])
        engine = OrtEngine(name, session, inputs, component.outputs)
        yield engine, nodes, extra_bytes
        engine.close()
