"""DEIS (Zhang and Chen, arXiv:2204.13902), multistep in log rho, rho = b / a."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import Polynomial

from runtime.checks import shown
from runtime.diffusion.schedulers.log_snr import Level, LogSNRSpace, told
from runtime.diffusion.schedulers.plan import SAMPLE, Plan, Weights, past
from runtime.diffusion.schedulers.sigmas import at_timesteps, closed, training_sigmas
from runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DEISMultistepScheduler(LogSNRSpace):
    """Fields and defaults of diffusers' DEISMultistepScheduler. No dynamic shifting: it needs an argument `mu`."""

    algorithm_type: str = "deis"
    solver_type: str = "logrho"
    lower_order_final: bool = True

    def plan(self, num_inference_steps: int, *, begin: int = 0) -> Plan:
        """Equation 15 of the paper: the noise is extrapolated as a polynomial in log rho and integrated exactly."""
        self._check()
        table = training_sigmas(self.alphas())
        spacing = self.spacing() or ("flow" if self.use_flow_sigmas else None)
        if spacing is None:
            timesteps = self.spaced(num_inference_steps)
            sigmas = closed(at_timesteps(timesteps, table), float(table[0]))
        else:
            timesteps, levels = self.respaced(spacing, num_inference_steps, table)
            sigmas = closed(levels, levels[-1])
        points = [self.level(sigma) for sigma in sigmas]
        steps = []
        for i, t in list(enumerate(told(timesteps)))[begin:]:
            order = self._order(i, begin, len(timesteps))
            rhos = [point.b / point.a for point in points[i + 1 - order : i + 2]]
            update = SAMPLE * (points[i + 1].a / points[i].a)
            for place, coefficient in enumerate(integrals(rhos)):
                update = update + past(place) * (points[i + 1].a * coefficient)
            steps.append(self.row(t, points[i], update, clean=False))
        return self.whole(steps, sigmas[begin:])

    def conversions(self, level: Level, *, flow: bool = True) -> tuple[Weights, Weights]:
        """The clean sample, and the noise that it leaves: with flow sigmas not what a v prediction says of it."""
        clean, _ = super().conversions(level, flow=flow)
        return clean, self.remainder(clean, level)

    def _check(self) -> None:
        if self.algorithm_type not in ("deis", "dpmsolver", "dpmsolver++"):
            raise InputError(f"unknown algorithm_type {shown(self.algorithm_type)}: deis")
        if self.solver_type not in ("logrho", "midpoint", "heun", "bh1", "bh2"):
            raise InputError(f"unknown solver_type {shown(self.solver_type)}: logrho")

    def _order(self, i: int, begin: int, count: int) -> int:
        order = min(self.solver_order, i - begin + 1, 3)
        return min(order, count - i) if self.lower_order_final and count < 15 else order


def integrals(rhos: Sequence[float]) -> list[float]:
    """Integrals over the last interval of `rhos` of the Lagrange polynomials in log rho on the rest, newest first.

    With u = log(rho / start), the integral of P(u) e^u is e^u (P - P' + P'' ...)(u).
    """
    *known, start, end = rhos
    nodes = [np.log(rho / start) for rho in (*known, start)][::-1]
    top = np.log(end / start)
    values = []
    for j, node in enumerate(nodes):
        others = [other for k, other in enumerate(nodes) if k != j]
        lagrange = Polynomial.fromroots(others) if others else Polynomial([1.0])
        primitive = sum(((-1) ** k * lagrange.deriv(k) for k in range(1, len(nodes))), start=lagrange)
        scale = np.prod([np.float64(node - other) for other in others])
        values.append(float(start * (np.exp(top) * primitive(top) - primitive(0.0)) / scale))
    return values
