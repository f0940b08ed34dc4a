"""What the schedulers share: beta schedules, their cumulative products, and timestep spacings.

Computed in float32 where the reference is, so that tables agree to the last digit that matters.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from runtime.checks import shown
from runtime.errors import InputError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

ZERO_SNR_ALPHA = 2.0**-24  # what sigma-space references put in place of 0, so that sigma stays finite


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """The config fields of every scheduler: the forward process that the model was trained on."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: Sequence[float] | None = None
    more_beta_schedules: ClassVar[tuple[str, ...]] = ()  # beyond the three that all schedulers know

    def alphas(self, *, rescale: bool = False, floor: float | None = None) -> Floats:
        """Cumulative products of 1 - beta, (num_train_timesteps,), float32, from clean to noisy.

        `rescale` makes the last one 0 (zero terminal SNR); `floor` then takes its place.
        """
        known = ("linear", "scaled_linear", "squaredcos_cap_v2", *self.more_beta_schedules)
        if self.trained_betas is None and self.beta_schedule not in known:
            raise InputError(f"unknown beta_schedule {shown(self.beta_schedule)}: {', '.join(known)}")
        if self.trained_betas is not None and not len(self.trained_betas):
            raise InputError("trained_betas is an empty list")
        betas = make_betas(
            self.beta_schedule, self.beta_start, self.beta_end, self.num_train_timesteps, self.trained_betas
        )
        alphas = cumulative_alphas(rescale_zero_terminal_snr(betas) if rescale else betas)
        if rescale and floor is not None:
            alphas[-1] = floor
        return alphas

    def known(self, alphas: Sequence[float]) -> int:
        """How many timesteps can be looked up: `trained_betas` may be fewer than the training's timesteps."""
        return min(len(alphas), self.num_train_timesteps)


@dataclass(frozen=True, kw_only=True)
class SpacedSchedule(NoiseSchedule):
    """Config fields of the schedulers that look up the noise of spaced timesteps."""

    timestep_spacing: str = "leading"
    steps_offset: int = 0

    def spaced(self, count: int, alphas: Sequence[float]) -> list[int]:
        """Whole timesteps by the config's spacing, from high to low, each known to the model.

        Raises InputError where one is not, with the next lower number of steps that works.
        """
        values = self._timesteps(count)
        known = self.known(alphas)
        if values[-1] >= 0 and values[0] < known:
            return values
        fewer = (n for n in range(count - 1, 0, -1) if self._timesteps(n)[-1] >= 0 and self._timesteps(n)[0] < known)
        works = next(fewer, 0)
        raise InputError(
            f"{count} steps with timestep_spacing {self.timestep_spacing} and steps_offset {self.steps_offset} reach "
            f"timestep {values[0] if values[0] >= known else values[-1]}; the model knows 0 to {known - 1}: "
            f"{'set another steps_offset' if not works else 'take 1 step' if works == 1 else f'take {works} steps'}"
        )

    def _timesteps(self, count: int) -> list[int]:
        laid_out = spaced_timesteps(self.timestep_spacing, count, self.num_train_timesteps, self.steps_offset)
        return [round(value) for value in laid_out.tolist()]


def make_betas(
    schedule: str, start: float, end: float, count: int, trained_betas: Sequence[float] | None = None
) -> Floats:
    """Betas of the forward process, float32, shape (count,)."""
    if trained_betas is not None:
        return np.asarray(trained_betas, np.float32)
    if schedule == "linear":
        return linspace(start, end, count)
    if schedule == "scaled_linear":
        return linspace(start**0.5, end**0.5, count) ** 2
    if schedule == "sigmoid":
        gate = 1 / (1 + np.exp(-linspace(-6, 6, count).astype(np.float64)))
        return gate.astype(np.float32) * np.float32(end - start) + np.float32(start)
    return _betas_for_alpha_bar(_ALPHA_BARS[schedule], count)


def cumulative_alphas(betas: Floats) -> Floats:
    """Cumulative product of 1 - beta, float32."""
    return np.cumprod((np.float32(1) - betas).astype(np.float64)).astype(np.float32)


def rescale_zero_terminal_snr(betas: Floats) -> Floats:
    """Shift and scale the schedule so that the last step is pure noise (arXiv:2305.08891, algorithm 1)."""
    root = np.sqrt(cumulative_alphas(betas))
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    bar = root**2
    return np.float32(1) - np.concatenate([bar[:1], bar[1:] / bar[:-1]])


def spaced_timesteps(
    spacing: str, steps: int, train_steps: int, offset: int, *, last: int | None = None, spare: int = 0
) -> Doubles:
    """Timesteps from high to low (arXiv:2305.08891, table 2): `leading`, `linspace` or `trailing`; not yet rounded.

    They come from the first `last` training steps. With `spare` 1, one more step is laid out and the lowest dropped:
    log-SNR solvers leave the end to their last sigma.
    """
    last = train_steps if last is None else last
    count = steps + spare
    if spacing == "leading":
        return (np.arange(count, dtype=np.float64) * (last // count))[::-1][:steps] + offset
    if spacing == "linspace":
        return np.linspace(0, last - 1, count)[::-1][:steps]
    if spacing == "trailing":
        return np.round(np.arange(last, 0, -train_steps / steps)) - 1
    raise InputError(f"unknown timestep_spacing {shown(spacing)}: leading, linspace or trailing")


def check_descending(timesteps: Sequence[float], train_steps: int) -> list[int]:
    """A user's own timesteps, whole and from high to low, each known to the model."""
    whole = [int(t) for t in timesteps]
    if not whole or any(b >= a for a, b in pairwise(whole)):
        raise InputError(f"timesteps must descend, got {list(timesteps)}")
    if whole[0] >= train_steps or whole[-1] < 0:
        raise InputError(f"timesteps must lie in 0 to {train_steps - 1}, got {whole[0]} to {whole[-1]}")
    return whole


def linspace(start: float, end: float, count: int) -> Floats:
    """torch.linspace in float32: it counts from both ends, and rounds each product and sum once, together."""
    low, high = np.float32(start), np.float32(end)
    step = np.float64((high - low) / np.float32(max(count - 1, 1)))
    index = np.arange(count)
    values = np.where(index < count // 2, low + step * index, high - step * (count - 1 - index))
    return values.astype(np.float32)


def _cosine(t: float) -> float:
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace(t: float) -> float:
    snr = math.exp(-0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6))
    return math.sqrt(snr / (1 + snr))


def _exponential(t: float) -> float:
    return math.exp(-12.0 * t)


_ALPHA_BARS = {"squaredcos_cap_v2": _cosine, "laplace": _laplace, "exp": _exponential}


def _betas_for_alpha_bar(alpha_bar: Callable[[float], float], count: int, max_beta: float = 0.999) -> Floats:
    ratios = [alpha_bar((i + 1) / count) / alpha_bar(i / count) for i in range(count)]
    return np.asarray([min(1 - ratio, max_beta) for ratio in ratios], np.float32)
