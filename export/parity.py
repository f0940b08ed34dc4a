"""Every engine against its torch module, with fresh random inputs."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from export.components import Component
from export.errors import BuildError
from runtime.backends.device import Device, HostDevice
from runtime.backends.engine import Engine
from runtime.bundle.manifest import ParityCheck

# An FP16 step rounds to 5e-4, one of BF16 to 4e-3; what a deep graph makes of that is measured, these are its bounds.
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 6e-2}


def check_parity(
    name: str,
    component: Component,
    engine: Engine,
    tolerance: float,
    report: Callable[[str], None] = print,
    device: Device | None = None,
) -> tuple[ParityCheck, ...]:
    """Compare at all of the component's sizes. Returns the errors; raises BuildError at one above tolerance."""
    checks = []
    for sizes in component.sizes:
        seed = torch.seed() % 2**31
        error = compare(component, engine, sizes, seed, device)
        shown = " ".join(f"{axis}={size}" for axis, size in sizes.items())
        report(f"  {name}: {shown}: relative error {error:.1e}")
        if not error <= tolerance:
            raise BuildError(
                f"{name}: relative error {error:.1e} at {shown} (seed {seed}) is above the tolerance {tolerance:.0e}"
            )
        checks.append(ParityCheck(sizes=sizes, relative_error=error))
    return tuple(checks)


def compare(
    component: Component, engine: Engine, sizes: dict[str, int], seed: int, device: Device | None = None
) -> float:
    """Worst relative L2 error over the outputs for one random input. The engine runs on `device`, the CPU if None."""
    inputs = component.draw(sizes, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = component.module(*(inputs[key] for key in component.inputs))
    expected = expected if isinstance(expected, tuple) else (expected,)
    device = device or HostDevice()
    with device.active():
        outputs = engine.run({key: device.xp.asarray(inputs[key].numpy(), order="C") for key in engine.inputs})
        found = {key: device.to_host(output) for key, output in outputs.items()}
    return max(
        relative_error(found[key], value.numpy()) for key, value in zip(component.outputs, expected, strict=True)
    )


def relative_error(actual: npt.NDArray[np.generic], expected: npt.NDArray[np.generic]) -> float:
    """||actual - expected|| / ||expected||, in float64.

    Infinite for shapes that differ, a reference of zeros, NaN and Inf: what is not a number would be lost in a maximum.
    """
    if actual.shape != expected.shape or not np.isfinite(actual.astype(np.float64)).all():
        return float("inf")
    scale = float(np.linalg.norm(expected.astype(np.float64)))
    difference = float(np.linalg.norm(actual.astype(np.float64) - expected.astype(np.float64)))
    return difference / scale if scale else (float("inf") if difference else 0.0)
