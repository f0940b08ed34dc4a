"""What the schedulers share: beta schedules, their cumulative products, and timestep spacings.

Computed in float32 where the reference is, so that tables agree to the last digit that matters.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from runtime.errors import InputError

Floats = npt.NDArray[np.float32]


def make_betas(
    schedule: str, start: float, end: float, count: int, trained_betas: Sequence[float] | None = None
) -> Floats:
    """Betas of the forward process, float32, shape (count,): `linear`, `scaled_linear` or `squaredcos_cap_v2`."""
    if trained_betas is not None:
        return np.asarray(trained_betas, np.float32)
    if schedule == "linear":
        return _linspace(start, end, count)
    if schedule == "scaled_linear":
        return _linspace(start**0.5, end**0.5, count) ** 2
    if schedule == "squaredcos_cap_v2":
        return _betas_for_alpha_bar(lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2, count)
    raise InputError(f"unknown beta_schedule {schedule!r}: linear, scaled_linear or squaredcos_cap_v2")


def cumulative_alphas(betas: Floats) -> Floats:
    """Cumulative product of 1 - beta, float32."""
    return np.cumprod((np.float32(1) - betas).astype(np.float64)).astype(np.float32)


def rescale_zero_terminal_snr(betas: Floats) -> Floats:
    """Shift and scale the schedule so that the last step is pure noise (arXiv:2305.08891, algorithm 1)."""
    root = np.sqrt(cumulative_alphas(betas))
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    bar = root**2
    return np.float32(1) - np.concatenate([bar[:1], bar[1:] / bar[:-1]])


def spaced_timesteps(spacing: str, steps: int, train_steps: int, offset: int) -> list[int]:
    """Timesteps from high to low (arXiv:2305.08891, table 2): `leading`, `linspace` or `trailing`."""
    if spacing == "leading":
        values = np.arange(steps, dtype=np.float64)[::-1] * (train_steps // steps) + offset
    elif spacing == "linspace":
        values = np.linspace(0, train_steps - 1, steps).round()[::-1]
    elif spacing == "trailing":
        values = np.round(np.arange(train_steps, 0, -train_steps / steps)) - 1
    else:
        raise InputError(f"unknown timestep_spacing {spacing!r}: leading, linspace or trailing")
    if values[0] >= train_steps:
        raise InputError(
            f"{steps} steps with steps_offset {offset} reach timestep {int(values[0])}; the model knows 0 to "
            f"{train_steps - 1}: take fewer steps"
        )
    return [int(value) for value in values]


def _linspace(start: float, end: float, count: int) -> Floats:
    # torch.linspace counts from both ends in float32
    step = np.float32((np.float32(end) - np.float32(start)) / np.float32(max(count - 1, 1)))
    index = np.arange(count, dtype=np.float32)
    low, high = np.float32(start) + step * index, np.float32(end) - step * (np.float32(count - 1) - index)
    return np.where(np.arange(count) < count // 2, low, high).astype(np.float32)


def _betas_for_alpha_bar(alpha_bar: Callable[[float], float], count: int, max_beta: float = 0.999) -> Floats:
    ratios = [alpha_bar((i + 1) / count) / alpha_bar(i / count) for i in range(count)]
    return np.asarray([min(1 - ratio, max_beta) for ratio in ratios], np.float32)
