"""DDIM (Song et al., arXiv:2010.02502), the scheduler that AudioLDM2 checkpoints name."""

from dataclasses import dataclass

from runtime.diffusion.schedulers.bounds import SampleBounds
from runtime.diffusion.schedulers.noise_schedule import SpacedSchedule
from runtime.diffusion.schedulers.plan import PREDICTION, Plan, Step, Weights
from runtime.diffusion.schedulers.predictions import predictions


@dataclass(frozen=True, kw_only=True)
class DDIMScheduler(SampleBounds, SpacedSchedule):
    """Fields and defaults of diffusers' DDIMScheduler."""

    clip_sample: bool = True
    set_alpha_to_one: bool = True
    prediction_type: str = "epsilon"
    rescale_betas_zero_snr: bool = False

    def plan(self, num_inference_steps: int, *, eta: float = 0.0) -> Plan:
        """Equation 12 of the paper, folded into weights. `eta` 0 is deterministic, 1 is DDPM's variance."""
        alphas = self.alphas(rescale=self.rescale_betas_zero_snr).tolist()
        final = 1.0 if self.set_alpha_to_one else alphas[0]
        stride = self.num_train_timesteps // num_inference_steps
        steps = []
        for t in self.spaced(num_inference_steps, alphas):
            previous = alphas[t - stride] if t >= stride else final
            steps.append(self._step(t, alphas[t], previous, eta))
        return Plan(steps=tuple(steps), bound=self.bound())

    def _step(self, timestep: int, alpha: float, previous: float, eta: float) -> Step:
        variance = (1 - previous) / (1 - alpha) * (1 - alpha / previous)
        std = eta * max(variance, 0.0) ** 0.5
        clean, noise = predictions(self.prediction_type, alpha**0.5, (1 - alpha) ** 0.5)
        update = PREDICTION * previous**0.5 + noise * max(1 - previous - std**2, 0.0) ** 0.5
        return Step(
            timestep=timestep,
            signal=alpha**0.5,
            noise=(1 - alpha) ** 0.5,
            prediction=clean,
            update=update + Weights(noise=std) if eta > 0 else update,
        )
