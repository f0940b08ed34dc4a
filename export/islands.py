"""What each float32 island of a half-precision graph is worth: measured, not believed."""

import math
from collections.abc import Callable, Mapping

import torch
from onnx import ModelProto

from export.components import Component
from export.onnx import plain_session
from export.parity import compare
from export.precision import convert, matches
from runtime.backends.engine import Engine
from runtime.backends.onnxruntime import OrtEngine
from runtime.bundle.manifest import Island


def emulated(name: str, component: Component, model: ModelProto, precision: str, islands: Mapping[str, str]) -> Engine:
    """An engine that computes on the CPU what the typed graph computes on a GPU, every half tensor rounded."""
    return _trial(name, component, model, precision, islands)[0]


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
        engine, nodes, extra_bytes = _trial(name, component, model, precision, islands)
        error = compare(component, engine, component.sizes[0], seed)
        engine.close()
        return error, nodes, extra_bytes

    best, all_nodes, all_bytes = measure(found)
    half = "bf16" if precision == "bf16" else "fp16"
    table = []
    for key, pattern in found.items():
        error, nodes, extra = measure({other: found[other] for other in found if other != key})
        nodes, extra = all_nodes - nodes, all_bytes - extra
        report(
            f"  {name}: {key} in fp32: relative error {best:.1e}, {error:.1e} if it were {half}; "
            f"{nodes} nodes, {extra / 1e6:.1f} MB"
        )
        finite = error if math.isfinite(error) else None
        island = Island(
            name=key, pattern=pattern, nodes=nodes, extra_bytes=extra, error_with=best, error_without=finite
        )
        table.append(island)
    return tuple(table)


def _trial(
    name: str, component: Component, model: ModelProto, precision: str, islands: Mapping[str, str]
) -> tuple[Engine, int, int]:
    """The emulating engine, the number of nodes in float32 and the bytes that their weights take on top of half."""
    typed = convert(model, precision, islands, emulate=True)
    kept = {tensor.name for tensor in model.graph.input}
    inputs = {key: spec for key, spec in component.inputs.items() if key in kept}
    engine = OrtEngine(name, plain_session(typed.model), inputs, component.outputs)
    return engine, typed.float_nodes, typed.extra_bytes
