"""Linear multistep in sigma space, after k-diffusion's `sample_lms`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.diffusion.schedulers.noise_schedule import Doubles, Floats
from runtime.diffusion.schedulers.plan import SAMPLE, Plan, Step, past
from runtime.diffusion.schedulers.predictions import model_scale, sigma_prediction, slope
from runtime.diffusion.schedulers.sigmas import SigmaSpace, check_first, closed, karras, training_sigmas

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)  # exact up to degree 7
_ORDER = 4


@dataclass(frozen=True, kw_only=True)
class LMSDiscreteScheduler(SigmaSpace):
    """Fields and defaults of diffusers' LMSDiscreteScheduler. Its Karras sigmas keep to the timesteps' range."""

    def plan(self, num_inference_steps: int, *, begin: int = 0) -> Plan:
        """Adams-Bashforth over uneven steps: up to four slopes, fewer at the start."""
        table = training_sigmas(self.alphas())
        timesteps, levels = self.levels(self.spaced(num_inference_steps), table)
        sigmas = closed(levels)
        timesteps = timesteps.astype(np.float32).astype(np.float64)
        check_first(timesteps)
        left = sigmas[begin:]
        steps = [self._step(i, float(t), left) for i, t in enumerate(timesteps[begin:])]
        return Plan(steps=tuple(steps), init_noise_sigma=self.init_noise_sigma(sigmas), sigmas=tuple(map(float, left)))

    def laid_out(self, spacing: str, high: float, low: float, count: int) -> Doubles:
        """Sigmas of that spacing from high to low."""
        return karras(high, low, count) if spacing == "karras" else super().laid_out(spacing, high, low, count)

    def _step(self, i: int, timestep: float, sigmas: Floats) -> Step:
        sigma = float(sigmas[i])
        update = SAMPLE
        for place, coefficient in enumerate(adams_bashforth(sigmas[max(i - _ORDER + 1, 0) : i + 2].tolist())):
            update = update + past(place) * coefficient
        return Step(
            timestep=timestep,
            noise=sigma,
            input_scale=model_scale(sigma),
            prediction=sigma_prediction(self.prediction_type, sigma),
            entry=slope(sigma),
            update=update,
        )


def adams_bashforth(sigmas: Sequence[float]) -> list[float]:
    """Weights of the slopes at all sigmas but the last for the step between the last two, newest slope first.

    Integrals of the Lagrange polynomials, by Gauss-Legendre quadrature and thus exact; the reference integrates
    float32 polynomials adaptively, to a relative 1e-4 by its setting and about 1e-6 in fact.
    """
    *known, start, end = sigmas
    nodes = [*known, start][::-1]
    tau = (end + start) / 2 + (end - start) / 2 * _NODES
    weights = []
    for j, node in enumerate(nodes):
        others = [other for k, other in enumerate(nodes) if k != j]
        values = np.prod([(tau - other) / np.float64(node - other) for other in others], axis=0) * np.ones_like(tau)
        weights.append(float((end - start) / 2 * np.sum(_WEIGHTS * values)))
    return weights
