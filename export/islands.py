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
from runtime.backends.onnxruntime import OrtEngine
from runtime.engine import Engine
from runtime.manifest import Island


@contextmanager
def emulated(
    name: str, component: Component, model: ModelProto, precision: str, islands: Mapping[str, str]
) -> Iterator[Engine]:
    """An engine that computes on the CPU what the typed graph computes on a GPU, every half tensor rounded."""
    typed = convert(model, precision, islands, emulate=True)
    kept = {tensor.name for tensor in model.graph.input}
    inputs = {key: spec for key, spec in component.inputs.items() if key in kept}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # none may undo a rounding
    with TemporaryDirectory() as work:
        files = save(typed.model, Path(work), name)
        session = onnxruntime.InferenceSession(str(Path(work, files[0])), options, providers=["CPUExecutionProvider"])
        engine = OrtEngine(name, session, inputs, component.outputs)
        yield engine
        engine.close()


def measure_islands(
    name: str, component: Component, model: ModelProto, precision: str, report: Callable[[str], None]
) -> tuple[Island, ...]:
    """Each island's price and worth, at the component's first size: the error with all, and with all but this one."""
    found = {key: pattern for key, pattern in component.islands_in(precision).items() if any(matches(model, pattern))}
    if not found:
        return ()
    seed = torch.seed() % 2**31
    everything = _error(name, component, model, precision, found, seed)
    full = convert(model, precision, found)
    table = []
    for key, pattern in found.items():
        others = {other: found[other] for other in found if other != key}
        error, without = _error(name, component, model, precision, others, seed), convert(model, precision, others)
        nodes, extra = full.float_nodes - without.float_nodes, full.extra_bytes - without.extra_bytes
        report(
            f"  {name}: {key} in fp32: relative error {everything:.1e}, {error:.1e} if it were {precision}; "
            f"{nodes} nodes, {extra / 1e6:.1f} MB"
        )
        finite = error if math.isfinite(error) else None
        table.append(
            Island(
                name=key, pattern=pattern, nodes=nodes, extra_bytes=extra, error_with=everything, error_without=finite
            )
        )
    return tuple(table)


def _error(
    name: str, component: Component, model: ModelProto, precision: str, islands: Mapping[str, str], seed: int
) -> float:
    with emulated(name, component, model, precision, islands) as engine:
        return compare(component, engine, component.sizes[0], seed)
