"""Heun's method in sigma space: algorithm 1 of Karras et al. (arXiv:2206.00364)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.diffusion.schedulers.bounds import Clipping
from runtime.diffusion.schedulers.plan import SAMPLE, SAVED, Plan, Step, past
from runtime.diffusion.schedulers.predictions import model_scale, sigma_prediction, slope
from runtime.diffusion.schedulers.sigmas import SigmaSpace, check_first, closed, training_sigmas


@dataclass(frozen=True, kw_only=True)
class HeunDiscreteScheduler(Clipping, SigmaSpace):
    """Fields and defaults of diffusers' HeunDiscreteScheduler."""

    more_beta_schedules = ("exp",)

    beta_start: float = 0.00085
    beta_end: float = 0.012

    def plan(self, num_inference_steps: int | None, *, timesteps: Sequence[float] | None = None) -> Plan:
        """Two model calls a step, but one for the last: an Euler step, then its slope averaged with the one there."""
        self.refuse_own(timesteps)
        table = training_sigmas(self.alphas())
        own = None if timesteps is None else np.asarray(timesteps, np.float32).astype(np.float64)
        told, levels = self.levels(self.spaced(num_inference_steps or 1) if own is None else own, table)
        sigmas = closed(levels)
        told = told.astype(np.float32).astype(np.float64)
        calls = [told[0], *np.repeat(told[1:], 2)]
        check_first(np.asarray(calls))
        steps = []
        for i, t in enumerate(calls):
            sigma, start, end = (float(sigmas[k]) for k in ((i + 1) // 2, i // 2, i // 2 + 1))
            first = i % 2 == 0
            average = (past(0) + past(1)) * 0.5
            steps.append(
                Step(
                    timestep=float(t),
                    noise=sigma,
                    input_scale=model_scale(sigma),
                    prediction=sigma_prediction(self.prediction_type, sigma),
                    entry=slope(sigma),
                    update=SAMPLE + past(0) * (end - start) if first else SAVED + average * (end - start),
                    save=SAMPLE if first else None,
                )
            )
        return Plan(
            steps=tuple(steps),
            init_noise_sigma=self.init_noise_sigma(sigmas),
            bound=self.bound(),
            order=2,
            num_inference_steps=len(told),
            sigmas=tuple(map(float, sigmas)),
        )
