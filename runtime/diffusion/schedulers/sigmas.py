"""Noise levels: the training sigmas, and the ways to lay out a few of them.

sigma = sqrt((1 - alpha) / alpha) with alpha the cumulative product, as in Karras et al. (arXiv:2206.00364). Sigmas are
float32 where the reference stores them so, float64 in between.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.checks import shown
from runtime.diffusion.schedulers.beta import symmetric_beta_ppf
from runtime.diffusion.schedulers.noise_schedule import Doubles, Floats, NoiseSchedule, spaced_timesteps
from runtime.errors import InputError


def training_sigmas(alphas: Floats) -> Floats:
    """The sigma of each training step, rising, (num_train_timesteps,)."""
    sigmas: Floats = np.sqrt((np.float32(1) - alphas) / alphas)
    return sigmas


def at_timesteps(timesteps: Doubles, sigmas: Floats) -> Doubles:
    """The training sigmas at timesteps, which may be fractional. Beyond either end it is the sigma of that end."""
    return np.interp(timesteps, np.arange(len(sigmas)), sigmas)


def to_timesteps(sigmas: Doubles | Floats, table: Floats | Doubles) -> Doubles:
    """The inverse of `at_timesteps`, linear in log sigma; `table` holds sigmas of the training steps."""
    logs = np.log(table)
    return np.array([_to_timestep(sigma, logs) for sigma in sigmas], np.float64)


def _to_timestep(sigma: np.float64 | np.float32, logs: Floats | Doubles) -> float:
    log_sigma = np.log(np.maximum(sigma, 1e-10))
    below = np.flatnonzero(log_sigma >= logs)
    low = min(int(below[-1]) if below.size else 0, len(logs) - 2)
    weight = np.clip((logs[low] - log_sigma) / (logs[low] - logs[low + 1]), 0, 1)
    return float((1 - weight) * np.int64(low) + weight * np.int64(low + 1))


def karras(high: float, low: float, count: int, rho: float = 7.0) -> Doubles:
    """`count` sigmas from high to low by equation 5 of arXiv:2206.00364."""
    ramp = np.linspace(0, 1, count)
    ends = high ** (1 / rho), low ** (1 / rho)
    return np.asarray((ends[0] + ramp * (ends[1] - ends[0])) ** rho)


def exponential(high: float, low: float, count: int) -> Doubles:
    """`count` sigmas from high to low, evenly spaced in log sigma."""
    return np.exp(np.linspace(math.log(high), math.log(low), count))


def beta(high: float, low: float, count: int) -> Doubles:
    """`count` sigmas from high to low, quantiles of Beta(0.6, 0.6): dense at both ends (arXiv:2407.12173)."""
    return np.array([low + symmetric_beta_ppf(p, 0.6) * (high - low) for p in 1 - np.linspace(0, 1, count)])


def lu(high: float, low: float, count: int) -> Doubles:
    """`count` sigmas, evenly spaced in -log sigma (arXiv:2206.00927). As in the reference, its ends are float32."""
    ends = float(np.log(np.float32(high))), float(np.log(np.float32(low)))
    return np.exp(ends[0] + np.linspace(0, 1, count) * (ends[1] - ends[0]))


def flow(count: int, train_steps: int, shift: float) -> Doubles:
    """`count` times of a rectified flow, shifted towards noise (arXiv:2403.03206), from high to low and without 0."""
    sigmas = 1.0 - np.linspace(1, 1 / train_steps, count + 1)
    return (shift * sigmas / (1 + (shift - 1) * sigmas))[::-1][:-1].copy()


@dataclass(frozen=True, kw_only=True)
class SigmaSpacing(NoiseSchedule):
    """Config fields of schedulers that can lay out their own sigmas, by default over the model's whole range.

    The reference reads sigma_min and sigma_max from the config of every such class, also where its signature has none.
    """

    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    sigma_min: float | None = None
    sigma_max: float | None = None

    def spacing(self) -> str | None:
        """`karras`, `exponential`, `beta`, or None for the timesteps' own sigmas."""
        chosen = [name for name in ("karras", "exponential", "beta") if getattr(self, f"use_{name}_sigmas")]
        if len(chosen) > 1:
            raise InputError(f"only one of {', '.join(f'use_{name}_sigmas' for name in chosen)} can be set")
        return chosen[0] if chosen else None

    def laid_out(self, spacing: str, high: float, low: float, count: int) -> Doubles:
        """Sigmas of that spacing from high to low, which the config's own sigma_max and sigma_min override."""
        high = high if self.sigma_max is None else self.sigma_max
        low = low if self.sigma_min is None else self.sigma_min
        return {"karras": karras, "exponential": exponential, "beta": beta}[spacing](high, low, count)

    def refuse_own(self, timesteps: Sequence[float] | None) -> None:
        """Raise InputError if a user's timesteps meet a spacing that makes its own."""
        if timesteps is not None and self.spacing():
            raise InputError(f"timesteps cannot be given with use_{self.spacing()}_sigmas")


@dataclass(frozen=True, kw_only=True)
class SigmaSpace(SigmaSpacing):
    """Config fields of the schedulers that live in sigma space, after k-diffusion."""

    prediction_type: str = "epsilon"
    timestep_spacing: str = "linspace"
    steps_offset: int = 0

    def spaced(self, count: int) -> Doubles:
        """Timesteps by the config's spacing, rounded to float32."""
        values = spaced_timesteps(self.timestep_spacing, count, self.num_train_timesteps, self.steps_offset)
        return values.astype(np.float32).astype(np.float64)

    def levels(self, timesteps: Doubles, table: Floats) -> tuple[Doubles, Doubles]:
        """Timesteps and sigmas of the user's steps, by the config's spacing."""
        sigmas, spacing = at_timesteps(timesteps, table), self.spacing()
        if spacing is None:
            return timesteps, sigmas
        sigmas = self.laid_out(spacing, float(sigmas[0]), float(sigmas[-1]), len(timesteps))
        return to_timesteps(sigmas, table), sigmas

    def init_noise_sigma(self, sigmas: Floats) -> float:
        """What the first noise, standard normals, is multiplied by."""
        top = sigmas.max()
        return float(top if self.timestep_spacing in ("linspace", "trailing") else np.sqrt(top**2 + np.float32(1)))


def closed(sigmas: Doubles, last: float = 0.0) -> Floats:
    """The sigmas of the steps, and after them the one that the last step arrives at; float32."""
    return np.append(sigmas, last).astype(np.float32)


def final_sigma(kind: str, lowest: float) -> float:
    """The sigma that the last step arrives at."""
    if kind not in ("zero", "sigma_min"):
        raise InputError(f"unknown final_sigmas_type {shown(kind)}: zero or sigma_min")
    return lowest if kind == "sigma_min" else 0.0


def check_first(timesteps: Doubles | Floats) -> None:
    """Raise InputError where the first timestep comes again: the reference then starts at its second occurrence."""
    if len(timesteps) and np.count_nonzero(timesteps == timesteps[0]) > 1:
        raise InputError(f"the first timestep, {timesteps[0]:g}, comes twice in this schedule: take fewer steps")
