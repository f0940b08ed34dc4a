"""DDPM (Ho et al., arXiv:2006.11239): ancestral sampling of the learned reverse process."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.checks import shown
from runtime.diffusion.schedulers.bounds import SampleBounds
from runtime.diffusion.schedulers.noise_schedule import SpacedSchedule, check_descending
from runtime.diffusion.schedulers.plan import PREDICTION, SAMPLE, Plan, Step, Weights
from runtime.diffusion.schedulers.predictions import predictions
from runtime.errors import InputError

VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large")


@dataclass(frozen=True, kw_only=True)
class DDPMScheduler(SampleBounds, SpacedSchedule):
    """Fields and defaults of diffusers' DDPMScheduler."""

    more_beta_schedules = ("laplace", "sigmoid")

    variance_type: str = "fixed_small"
    clip_sample: bool = True
    prediction_type: str = "epsilon"
    rescale_betas_zero_snr: bool = False

    def plan(self, num_inference_steps: int | None, *, timesteps: Sequence[float] | None = None) -> Plan:
        """Equations 6 and 7 of the paper; noise is drawn at every timestep but 0."""
        if self.variance_type == "fixed_large_log":
            raise InputError("variance_type fixed_large_log is not a number where noise is added: take fixed_large")
        if self.variance_type not in VARIANCES:
            raise InputError(
                f"variance_type {shown(self.variance_type)} needs a model that predicts its variance, which this one "
                f"does not: {', '.join(VARIANCES)}"
            )
        alphas = self.alphas(rescale=self.rescale_betas_zero_snr).tolist()
        if timesteps is not None:
            whole = check_descending(timesteps, self.known(alphas))
        else:
            whole = self.spaced(num_inference_steps or 1, alphas)
        previous = [*(alphas[t] for t in whole[1:]), 1.0]
        steps = [self._step(t, alphas[t], before) for t, before in zip(whole, previous, strict=True)]
        return Plan(steps=tuple(steps), bound=self.bound())

    def _step(self, timestep: int, alpha: float, previous: float) -> Step:
        ratio = alpha / previous
        beta = 1 - ratio
        update = PREDICTION * (previous**0.5 * beta / (1 - alpha))
        update = update + SAMPLE * (ratio**0.5 * (1 - previous) / (1 - alpha))
        if timestep > 0:
            small = max((1 - previous) / (1 - alpha) * beta, 1e-20)
            variance = beta if self.variance_type == "fixed_large" else small  # the log form is the same number
            update = update + Weights(noise=variance**0.5)
        clean, _ = predictions(self.prediction_type, alpha**0.5, (1 - alpha) ** 0.5)
        return Step(timestep=timestep, signal=alpha**0.5, noise=(1 - alpha) ** 0.5, prediction=clean, update=update)
