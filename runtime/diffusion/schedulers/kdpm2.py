"""DPM-Solver-2 in sigma space, after k-diffusion's `sample_dpm_2` and `sample_dpm_2_ancestral` (arXiv:2206.00364)."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from runtime.diffusion.schedulers.euler import ancestral
from runtime.diffusion.schedulers.noise_schedule import Doubles, Floats
from runtime.diffusion.schedulers.plan import SAMPLE, SAVED, Plan, Step, Weights
from runtime.diffusion.schedulers.predictions import model_scale, sigma_prediction, slope
from runtime.diffusion.schedulers.sigmas import SigmaSpace, check_first, closed, to_timesteps, training_sigmas


@dataclass(frozen=True, kw_only=True)
class KDPM2DiscreteScheduler(SigmaSpace):
    """Fields and defaults of diffusers' KDPM2DiscreteScheduler."""

    beta_start: float = 0.00085
    beta_end: float = 0.012

    def plan(self, num_inference_steps: int) -> Plan:
        """Two model calls a step: the slope at the geometric mean of two sigmas carries the sample all the way."""
        table = training_sigmas(self.alphas())
        timesteps, levels = self.levels(self.spaced(num_inference_steps), table)
        if self.use_karras_sigmas:
            timesteps = np.round(timesteps)
        sigmas = closed(levels)
        turns = [self._turn(here, there) for here, there in pairwise(sigmas.tolist())]
        middles = np.array([middle for middle, _, _ in turns], np.float32)
        calls = np.empty(2 * len(timesteps) - 1)
        calls[::2] = timesteps
        calls[1::2] = to_timesteps(middles[:-1], table).astype(np.float32)
        check_first(calls)
        steps = []
        for i, t in enumerate(calls.tolist()):
            middle, end, noise = turns[i // 2]
            steps.append(self._step(i, t, float(sigmas[i // 2]), middle, end, noise))
        return self._whole(steps, timesteps, sigmas)

    def _turn(self, here: float, there: float) -> tuple[float, float, float | None]:
        """The sigma in the middle, geometrically, the one at the end, and how much noise follows."""
        return (here * there) ** 0.5, there, None

    def _step(self, i: int, timestep: float, start: float, middle: float, end: float, noise: float | None) -> Step:
        first = i % 2 == 0
        sigma = start if first else middle
        update = SAMPLE + slope(sigma) * (middle - start) if first else SAVED + slope(sigma) * (end - start)
        return Step(
            timestep=timestep,
            noise=sigma,
            input_scale=model_scale(sigma),
            prediction=sigma_prediction(self.prediction_type, sigma, has_sample=False),
            update=update if first else update + Weights(noise=noise),
            save=SAMPLE if first else None,
        )

    def _whole(self, steps: list[Step], timesteps: Doubles, sigmas: Floats) -> Plan:
        return Plan(
            steps=tuple(steps),
            init_noise_sigma=self.init_noise_sigma(sigmas),
            order=2,
            num_inference_steps=len(timesteps),
            sigmas=tuple(map(float, sigmas)),
        )


@dataclass(frozen=True, kw_only=True)
class KDPM2AncestralDiscreteScheduler(KDPM2DiscreteScheduler):
    """Fields and defaults of diffusers' KDPM2AncestralDiscreteScheduler. Noise is drawn at every second call."""

    def _turn(self, here: float, there: float) -> tuple[float, float, float | None]:
        up, down = ancestral(here, there)
        return (here * down) ** 0.5, down, up
