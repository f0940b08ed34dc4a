"""Every engine against its torch module, with fresh random inputs."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from export.components import Component
from export.errors import BuildError
from runtime.backends.device import Array, Device, HostDevice
from runtime.backends.engine import Engine
from runtime.bundle.manifest import ParityCheck

# An FP16 step rounds to 5e-4, one of BF16 to 4e-3; what a deep graph makes of that is measured, these are its bounds.
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 6e-2}

# Some inputs amplify every rounding: a UNet of norms over one latent row is the commonest. No engine in half precision
# can be better there than half precision is, so it may err as torch does in it, or twice that: the roundings differ.
# Above the ceiling an engine is wrong whatever torch does: one that gives zeros has an error of 1.
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
HALF_FACTOR, HALF_CEILING = 2.0, 0.25


def check_parity(
    name: str,
    component: Component,
    engine: Engine,
    tolerance: float,
    report: Callable[[str], None] = print,
    device: Device | None = None,
    *,
    precision: str = "fp32",
) -> tuple[ParityCheck, ...]:
    """Compare at all of the component's sizes. Returns the relative errors; raises BuildError at one that is too large.

    Too large is above `tolerance`. Where `precision` is "fp16" or "bf16", an error above it is still admitted if torch
    makes one of that size on the same inputs, when the module itself is in that precision; the check then has both.
    """
    checks = []
    for sizes in component.sizes:
        seed = torch.seed() % 2**31
        error, half_error = compare(component, engine, sizes, seed, device), None
        shown = _in_words(sizes)
        report(f"  {name}: {shown}: relative error {error:.1e}")
        if not error <= tolerance:
            half_error = _half_error(component, sizes, seed, precision)
            if half_error is None or error > min(HALF_FACTOR * half_error, HALF_CEILING):
                also = "" if half_error is None else f"; torch's own in {precision} is {half_error:.1e} there"
                raise BuildError(
                    f"{name}: relative error {error:.1e} at {shown} (seed {seed}) is above the tolerance "
                    f"{tolerance:.0e}{also}"
                )
            report(f"  {name}: {shown}: admitted, for torch's own error in {precision} is {half_error:.1e} there")
        checks.append(ParityCheck(sizes=sizes, relative_error=error, half_error=half_error))
    return tuple(checks)


def check_recorded(
    name: str,
    engine: Engine,
    feeds: Sequence[Mapping[str, Array]],
    expected: Sequence[Array],
    tolerance: float,
    report: Callable[[str], None],
    device: Device | None = None,
) -> tuple[ParityCheck, ...]:
    """Compare an engine on recorded inputs with what its float graph gave for them; raises BuildError as above."""
    first = next(iter(engine.outputs))
    found = [_outputs(engine, feed, device or HostDevice())[first] for feed in feeds]
    error = pooled_error(found, expected)
    report(f"  {name}: {len(feeds)} recorded inputs: relative error {error:.1e}")
    if not error <= tolerance:
        raise BuildError(f"{name}: relative error {error:.1e} on recorded inputs is above the tolerance {tolerance:g}")
    return (ParityCheck(sizes={"recorded": len(feeds)}, relative_error=error),)


def compare(
    component: Component, engine: Engine, sizes: dict[str, int], seed: int, device: Device | None = None
) -> float:
    """Worst relative L2 error over the outputs for one random input. The engine runs on `device`, the CPU if None.

    Raises BuildError if the torch module itself gives NaN or Inf for that input: there is nothing to compare with.
    """
    inputs = component.draw(sizes, torch.Generator().manual_seed(seed))
    expected = _run(component.module, [inputs[key] for key in component.inputs])
    for key, value in zip(component.outputs, expected, strict=True):
        if not torch.isfinite(value).all():
            shown = _in_words(sizes)
            raise BuildError(
                f"the torch module {type(component.module).__name__} itself gives NaN or Inf in '{key}' at {shown} "
                f"(seed {seed}): the checkpoint is damaged, or overflows"
            )
    found = _outputs(engine, {key: inputs[key].numpy() for key in engine.inputs}, device or HostDevice())
    return max(
        relative_error(found[key], value.numpy()) for key, value in zip(component.outputs, expected, strict=True)
    )


def _outputs(engine: Engine, feeds: Mapping[str, Array], device: Device) -> dict[str, npt.NDArray[np.generic]]:
    with device.active():
        outputs = engine.run({key: device.xp.asarray(feeds[key], order="C") for key in engine.inputs})
        return {key: device.to_host(output) for key, output in outputs.items()}


def _half_error(component: Component, sizes: dict[str, int], seed: int, precision: str) -> float | None:
    """The error of the torch module in half precision, on the inputs that `compare` draws.

    None in FP32, where torch cannot run the module in half, and where that overflows.
    """
    dtype = HALVES.get(precision)
    if dtype is None:
        return None
    inputs = component.draw(sizes, torch.Generator().manual_seed(seed))
    feeds = [inputs[key] for key in component.inputs]
    halved = [feed.to(dtype) if feed.is_floating_point() else feed for feed in feeds]
    expected = _run(component.module, feeds)
    try:
        found = _run(copy.deepcopy(component.module).to(dtype), halved)
    except RuntimeError:  # a module that mixes types
        return None
    errors = [relative_error(a.float().numpy(), b.numpy()) for a, b in zip(found, expected, strict=True)]
    return max(errors) if all(map(math.isfinite, errors)) else None


def _in_words(sizes: dict[str, int]) -> str:
    return " ".join(f"{axis}={size}" for axis, size in sizes.items())


def _run(module: torch.nn.Module, feeds: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        outputs = module(*feeds)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def relative_error(actual: npt.NDArray[np.generic], expected: npt.NDArray[np.generic]) -> float:
    """||actual - expected|| / ||expected||, in float64.

    Infinite for shapes that differ, a reference of zeros, NaN and Inf: what is not a number would be lost in a maximum.
    """
    if actual.shape != expected.shape or not np.isfinite(actual.astype(np.float64)).all():
        return float("inf")
    scale = float(np.linalg.norm(expected.astype(np.float64)))
    difference = float(np.linalg.norm(actual.astype(np.float64) - expected.astype(np.float64)))
    return difference / scale if scale else (float("inf") if difference else 0.0)


def pooled_error(actual: Sequence[Array], expected: Sequence[Array]) -> float:
    """The same over several arrays, as if they were one."""
    return relative_error(*(np.concatenate([array.ravel() for array in arrays]) for arrays in (actual, expected)))
