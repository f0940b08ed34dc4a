"""Latent consistency models (Luo et al., arXiv:2310.04378): a few steps, each straight to a clean sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.diffusion.schedulers.bounds import SampleBounds
from runtime.diffusion.schedulers.noise_schedule import NoiseSchedule, check_descending
from runtime.diffusion.schedulers.plan import PREDICTION, SAMPLE, Plan, Step, Weights
from runtime.diffusion.schedulers.predictions import predictions
from runtime.errors import InputError

_SIGMA_DATA = 0.5


@dataclass(frozen=True, kw_only=True)
class LCMScheduler(SampleBounds, NoiseSchedule):
    """Fields and defaults of diffusers' LCMScheduler. Its steps come from the distillation's, whatever the spacing."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    original_inference_steps: int = 50
    set_alpha_to_one: bool = True
    prediction_type: str = "epsilon"
    timestep_scaling: float = 10.0
    rescale_betas_zero_snr: bool = False

    def plan(self, num_inference_steps: int | None, *, timesteps: Sequence[float] | None = None) -> Plan:
        """Algorithm 3 of the paper; noise is drawn after every step but the last."""
        if not 1 <= self.original_inference_steps <= self.num_train_timesteps:
            raise InputError(
                f"original_inference_steps is {self.original_inference_steps}, this model takes 1 to "
                f"{self.num_train_timesteps}"
            )
        alphas = self.alphas(rescale=self.rescale_betas_zero_snr).tolist()
        told = self._distilled(num_inference_steps or 1) if timesteps is None else timesteps
        whole = check_descending(told, self.known(alphas))
        steps = [self._step(t, after, alphas) for t, after in zip(whole, [*whole[1:], None], strict=True)]
        return Plan(steps=tuple(steps), bound=self.bound())

    def _distilled(self, count: int) -> list[int]:
        original = self.original_inference_steps
        if count > original:
            raise InputError(f"num_inference_steps is {count}, this model was distilled for 1 to {original}")
        stride = self.num_train_timesteps // original
        learnt = [stride * i - 1 for i in range(original, 0, -1)]
        return [learnt[i] for i in np.floor(np.linspace(0, original, count, endpoint=False)).astype(int)]

    def _step(self, timestep: int, following: int | None, alphas: list[float]) -> Step:
        alpha = alphas[timestep]
        scaled = timestep * self.timestep_scaling
        total = scaled**2 + _SIGMA_DATA**2
        clean, _ = predictions(self.prediction_type, alpha**0.5, (1 - alpha) ** 0.5)
        update = PREDICTION * (scaled / total**0.5) + SAMPLE * (_SIGMA_DATA**2 / total)
        if following is not None:
            after = alphas[following]
            update = update * after**0.5 + Weights(noise=(1 - after) ** 0.5)
        return Step(timestep=timestep, signal=alpha**0.5, noise=(1 - alpha) ** 0.5, prediction=clean, update=update)
