"""DDIM (Song et al., arXiv:2010.02502), the scheduler that AudioLDM2 checkpoints name."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import InputError
from runtime.schedulers.noise_schedule import (
    cumulative_alphas,
    make_betas,
    rescale_zero_terminal_snr,
    spaced_timesteps,
)
from runtime.schedulers.plan import Bound, Plan, Step, Weights


@dataclass(frozen=True, kw_only=True)
class DDIMScheduler:
    """Fields and defaults of diffusers' DDIMScheduler."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: Sequence[float] | None = None
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    set_alpha_to_one: bool = True
    steps_offset: int = 0
    prediction_type: str = "epsilon"
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    timestep_spacing: str = "leading"
    rescale_betas_zero_snr: bool = False

    def plan(self, num_inference_steps: int, *, eta: float = 0.0) -> Plan:
        """Equation 12 of the paper, folded into weights. `eta` 0 is deterministic, 1 is DDPM's variance."""
        betas = make_betas(
            self.beta_schedule, self.beta_start, self.beta_end, self.num_train_timesteps, self.trained_betas
        )
        if self.rescale_betas_zero_snr:
            betas = rescale_zero_terminal_snr(betas)
        alphas = cumulative_alphas(betas).tolist()
        final = 1.0 if self.set_alpha_to_one else alphas[0]
        stride = self.num_train_timesteps // num_inference_steps
        steps = []
        for t in spaced_timesteps(
            self.timestep_spacing, num_inference_steps, self.num_train_timesteps, self.steps_offset
        ):
            previous = alphas[t - stride] if t >= stride else final
            steps.append(self._step(t, alphas[t], previous, eta))
        return Plan(steps=tuple(steps), bound=self._bound())

    def _step(self, timestep: int, alpha: float, previous: float, eta: float) -> Step:
        clean, noise = predictions(self.prediction_type, alpha)  # x0 and epsilon as weights of (x, output)
        variance = (1 - previous) / (1 - alpha) * (1 - alpha / previous)
        std = eta * max(variance, 0.0) ** 0.5
        direction = max(1 - previous - std**2, 0.0) ** 0.5
        return Step(
            timestep=timestep,
            prediction=clean,
            update=Weights(
                prediction=previous**0.5,
                sample=direction * noise.sample,
                output=direction * noise.output,
                noise=std,
            ),
        )

    def _bound(self) -> Bound:
        if self.thresholding:
            return Bound(dynamic_ratio=self.dynamic_thresholding_ratio, dynamic_max=self.sample_max_value)
        return Bound(clip_range=self.clip_sample_range if self.clip_sample else None)


def predictions(prediction_type: str, alpha: float) -> tuple[Weights, Weights]:
    """The clean sample and the noise, each as weights of the sample and the model's output.

    `alpha` is the cumulative product at the step: x = sqrt(alpha) x0 + sqrt(1 - alpha) epsilon.
    """
    a, b = alpha**0.5, (1 - alpha) ** 0.5
    if prediction_type == "epsilon":
        if a == 0:
            raise InputError("epsilon prediction is undefined at zero terminal SNR: use v_prediction or sample")
        return Weights(sample=1 / a, output=-b / a), Weights(output=1.0)
    if prediction_type == "sample":
        return Weights(output=1.0), Weights(sample=1 / b, output=-a / b)
    if prediction_type == "v_prediction":
        return Weights(sample=a, output=-b), Weights(sample=b, output=a)
    raise InputError(f"unknown prediction_type {prediction_type!r}: epsilon, sample or v_prediction")
