"""What the solvers in log-SNR time share: DPM-Solver, DEIS and UniPC.

They write x = a x0 + b epsilon and step along lambda = log(a / b), the half log-SNR (arXiv:2206.00927, section 2).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from runtime.diffusion.schedulers import sigmas as spacings
from runtime.diffusion.schedulers.bounds import Thresholding
from runtime.diffusion.schedulers.noise_schedule import Doubles, Floats, spaced_timesteps
from runtime.diffusion.schedulers.plan import OUTPUT, PREDICTION, SAMPLE, Plan, Step, Weights
from runtime.diffusion.schedulers.predictions import predictions
from runtime.errors import InputError


class Level(NamedTuple):
    """One noise level: x = a x0 + b epsilon; float64."""

    sigma: float
    a: float
    b: float
    log_snr: float  # lambda; infinite at sigma 0


@dataclass(frozen=True, kw_only=True)
class LogSNRSpace(Thresholding, spacings.SigmaSpacing):
    """The config fields that DPM-Solver, DEIS and UniPC share, and how they lay out timesteps and noise levels."""

    solver_order: int = 2
    prediction_type: str = "epsilon"
    use_flow_sigmas: bool = False
    flow_shift: float = 1.0
    timestep_spacing: str = "linspace"
    steps_offset: int = 0

    def spaced(self, count: int, last: int | None = None) -> Doubles:
        """Whole timesteps by the config's spacing, from the first `last` training steps."""
        spare = 0 if self.timestep_spacing == "trailing" else 1
        return np.round(
            spaced_timesteps(
                self.timestep_spacing, count, self.num_train_timesteps, self.steps_offset, last=last, spare=spare
            )
        )

    def respaced(self, spacing: str, count: int, table: Floats, *, whole: bool = True) -> tuple[Doubles, Doubles]:
        """Timesteps, rounded where `whole`, and sigmas of a spacing over all training sigmas."""
        high, low = float(table[-1]), float(table[0])
        if spacing == "flow":
            sigmas = spacings.flow(count, self.num_train_timesteps, self.flow_shift)
            return sigmas * self.num_train_timesteps, sigmas
        sigmas = spacings.lu(high, low, count) if spacing == "lu" else self.laid_out(spacing, high, low, count)
        timesteps = spacings.to_timesteps(sigmas, table)
        return np.round(timesteps) if spacing in ("karras", "lu") and whole else timesteps, sigmas

    def level(self, sigma: float) -> Level:
        """The level at sigma = b / a, or of flow models sigma = b = 1 - a."""
        raw = np.float64(sigma)
        if self.use_flow_sigmas and raw >= 1:
            raise InputError(f"use_flow_sigmas needs sigmas below 1, but the spacing reaches {raw:g}")
        a = 1 - raw if self.use_flow_sigmas else (raw**2 + 1) ** -0.5
        b = raw if self.use_flow_sigmas else raw * a
        return Level(raw, a, b, np.log(a) - np.log(b))

    def conversions(self, level: Level, *, flow: bool = True) -> tuple[Weights, Weights]:
        """The clean sample and the noise at a level. `flow` False refuses flow prediction."""
        if self.prediction_type != "flow_prediction":
            return predictions(self.prediction_type, level.a, level.b)
        if not flow:
            raise InputError("flow_prediction needs a solver that works on the clean sample")
        clean = SAMPLE - OUTPUT * level.sigma
        return clean, self.remainder(clean, level)

    def remainder(self, clean: Weights, level: Level) -> Weights:
        """The noise that a clean sample leaves. With flow prediction the reference divides by sigma, not b."""
        scale = level.sigma if self.prediction_type == "flow_prediction" else level.b
        return (SAMPLE - clean * level.a) * (1 / scale)

    def row(
        self,
        timestep: float,
        level: Level,
        update: Weights,
        *,
        clean: bool,
        flow: bool = True,
        save: Weights | None = None,
    ) -> Step:
        """A step whose history holds clean samples, or else noises."""
        predicted, noise = self.conversions(level, flow=flow)
        if clean:
            entry = PREDICTION
        elif self.bound():
            if self.prediction_type != "flow_prediction":
                predicted = (SAMPLE - noise * level.b) * (1 / level.a)
            entry = self.remainder(PREDICTION, level)
        else:
            entry = noise
        return Step(
            timestep=timestep,
            signal=level.a,
            noise=level.b,
            prediction=predicted,
            entry=entry,
            update=update,
            save=save,
        )

    def whole(self, steps: list[Step], sigmas: Floats) -> Plan:
        """The plan of those steps, with the noise levels of each and of where the last one arrives."""
        return Plan(steps=tuple(steps), bound=self.bound(), sigmas=tuple(map(float, sigmas)))


def told(timesteps: Doubles) -> list[int]:
    """Timesteps as these references tell them to the model: cut to whole numbers."""
    whole = np.trunc(timesteps)
    if not np.isfinite(whole).all():
        raise InputError("this schedule has timesteps that are not finite: take other options or more steps")
    spacings.check_first(whole)
    return [int(t) for t in whole]
