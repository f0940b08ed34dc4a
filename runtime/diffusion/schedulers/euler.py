"""Euler steps in sigma space: algorithm 2 of Karras et al. (arXiv:2206.00364), and k-diffusion's ancestral ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.checks import shown
from runtime.diffusion.schedulers.noise_schedule import ZERO_SNR_ALPHA, Doubles, Floats, linspace
from runtime.diffusion.schedulers.plan import SAMPLE, Plan, Step, Weights
from runtime.diffusion.schedulers.predictions import model_scale, sigma_prediction, slope
from runtime.diffusion.schedulers.sigmas import (
    SigmaSpace,
    at_timesteps,
    check_first,
    closed,
    final_sigma,
    to_timesteps,
    training_sigmas,
)
from runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class EulerDiscreteScheduler(SigmaSpace):
    """Fields and defaults of diffusers' EulerDiscreteScheduler. No churn: its pipelines leave it at 0."""

    interpolation_type: str = "linear"
    timestep_type: str = "discrete"
    rescale_betas_zero_snr: bool = False
    final_sigmas_type: str = "zero"

    def plan(
        self,
        num_inference_steps: int | None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> Plan:
        """One slope a step. `sigmas` of one's own include the last, at which the sample arrives."""
        self.refuse_own(timesteps)
        continuous = self.timestep_type == "continuous" and self.prediction_type == "v_prediction"
        if continuous and timesteps is not None:
            raise InputError("timesteps cannot be given with timestep_type continuous and v_prediction")
        table = training_sigmas(self.alphas(rescale=self.rescale_betas_zero_snr, floor=ZERO_SNR_ALPHA))
        self.spacing()
        if sigmas is not None:
            levels = np.asarray(sigmas, np.float32)
            told = to_timesteps(levels[:-1], table)
        else:
            own = None if timesteps is None else np.asarray(timesteps, np.float32).astype(np.float64)
            told, spread = self._levels(self.spaced(num_inference_steps or 1) if own is None else own, table)
            levels = closed(spread, final_sigma(self.final_sigmas_type, float(table[0])))
        if continuous:
            told = np.float32(0.25) * np.log(levels[:-1])
        told = told.astype(np.float32).astype(np.float64)
        check_first(told)
        prediction_type = "sample" if self.prediction_type == "original_sample" else self.prediction_type
        steps = []
        for t, sigma, following in zip(told.tolist(), levels.tolist(), levels[1:].tolist(), strict=False):
            steps.append(
                Step(
                    timestep=t,
                    noise=sigma,
                    input_scale=model_scale(sigma),
                    prediction=sigma_prediction(prediction_type, sigma),
                    update=SAMPLE + slope(sigma) * (following - sigma),
                )
            )
        return Plan(
            steps=tuple(steps), init_noise_sigma=self.init_noise_sigma(levels), sigmas=tuple(map(float, levels))
        )

    def _levels(self, timesteps: Doubles, table: Floats) -> tuple[Doubles, Doubles]:
        if self.interpolation_type == "linear":
            return self.levels(timesteps, table)
        if self.interpolation_type != "log_linear":
            raise InputError(f"unknown interpolation_type {shown(self.interpolation_type)}: linear or log_linear")
        ends = np.log(table[-1]), np.log(table[0])
        sigmas = np.exp(linspace(float(ends[0]), float(ends[1]), len(timesteps) + 1)).astype(np.float64)
        spacing = self.spacing()
        if spacing is None:
            return timesteps, sigmas  # one more sigma than timesteps: the last step arrives at the lowest one
        sigmas = self.laid_out(spacing, float(sigmas[0]), float(sigmas[-1]), len(timesteps))
        return to_timesteps(sigmas, table), sigmas


@dataclass(frozen=True, kw_only=True)
class EulerAncestralDiscreteScheduler(SigmaSpace):
    """Fields and defaults of diffusers' EulerAncestralDiscreteScheduler, which has no sigma spacings of its own."""

    rescale_betas_zero_snr: bool = False

    def plan(self, num_inference_steps: int) -> Plan:
        """Each step goes lower than its sigma and comes back up with fresh noise; noise is drawn at every step."""
        table = training_sigmas(self.alphas(rescale=self.rescale_betas_zero_snr, floor=ZERO_SNR_ALPHA))
        timesteps = self.spaced(num_inference_steps)
        sigmas = closed(at_timesteps(timesteps, table))
        check_first(timesteps)
        steps = []
        for t, sigma, following in zip(timesteps.tolist(), sigmas.tolist(), sigmas[1:].tolist(), strict=False):
            up, down = ancestral(sigma, following)
            steps.append(
                Step(
                    timestep=t,
                    noise=sigma,
                    input_scale=model_scale(sigma),
                    prediction=sigma_prediction(self.prediction_type, sigma, has_sample=False),
                    update=SAMPLE + slope(sigma) * (down - sigma) + Weights(noise=up),
                )
            )
        return Plan(
            steps=tuple(steps), init_noise_sigma=self.init_noise_sigma(sigmas), sigmas=tuple(map(float, sigmas))
        )


def ancestral(here: float, there: float) -> tuple[float, float]:
    """How much noise a step adds and how low it goes before: up^2 + down^2 = there^2, down = there^2 / here.

    The reference takes down from the difference, in float32, which loses it where a step is long.
    """
    return there * (1 - (there / here) ** 2) ** 0.5, there**2 / here
