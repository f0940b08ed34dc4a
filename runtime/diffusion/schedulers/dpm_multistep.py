"""DPM-Solver multistep (arXiv:2206.00927, arXiv:2211.01095): one model call a step, up to two earlier ones reused."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.diffusion.schedulers.dpm import DPMSolver, exponential
from runtime.diffusion.schedulers.log_snr import Level, told
from runtime.diffusion.schedulers.noise_schedule import ZERO_SNR_ALPHA, Doubles, Floats
from runtime.diffusion.schedulers.plan import SAMPLE, Plan, Weights, past
from runtime.diffusion.schedulers.sigmas import at_timesteps, closed, training_sigmas
from runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DPMSolverMultistepScheduler(DPMSolver):
    """Fields and defaults of diffusers' DPMSolverMultistepScheduler. No dynamic shifting: it needs an argument `mu`."""

    lower_order_final: bool = True
    euler_at_final: bool = False
    use_lu_lambdas: bool = False
    rescale_betas_zero_snr: bool = False

    def plan(
        self, num_inference_steps: int | None, *, timesteps: Sequence[float] | None = None, begin: int = 0
    ) -> Plan:
        """Algorithm 2 of arXiv:2211.01095 and its kin. The SDE ones draw noise at every step."""
        algorithm, solver = self.kind("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++")
        alphas = self.alphas(rescale=self.rescale_betas_zero_snr, floor=ZERO_SNR_ALPHA)
        table = training_sigmas(alphas)
        if timesteps is None:
            spaced, levels = self._levels(num_inference_steps or 1, alphas, table)
        else:
            spaced, levels = self._own(timesteps, table)
        sigmas = closed(levels, self.last_sigma(table))
        points = [self.level(sigma) for sigma in sigmas]
        steps = []
        for i, (t, point) in list(enumerate(zip(told(spaced), points, strict=False)))[begin:]:
            near = points[max(i - 2, 0) : i + 2][::-1]  # where the step ends, where it starts, and up to two before
            update = multistep(algorithm, solver, self._order(i, begin, len(spaced)), near)
            clean = algorithm.endswith("++")
            steps.append(self.row(t, point, update, clean=clean, flow=clean))
        return self.whole(steps, sigmas[begin:])

    def _levels(self, count: int, alphas: Floats, table: Floats) -> tuple[Doubles, Doubles]:
        spacing = self.spacing()
        if self.use_lu_lambdas and spacing != "karras":
            spacing = "lu"
        if spacing is None and self.use_flow_sigmas:
            spacing = "flow"
        if spacing is not None:
            return self.respaced(spacing, count, table, whole=self.beta_schedule != "squaredcos_cap_v2")
        timesteps = self.spaced(count, self.num_train_timesteps - self.clipped(alphas))
        return timesteps, at_timesteps(timesteps, table)

    def _own(self, timesteps: Sequence[float], table: Floats) -> tuple[Doubles, Doubles]:
        self.refuse_own(timesteps)
        if self.use_lu_lambdas or self.use_flow_sigmas:
            raise InputError("timesteps cannot be given with use_lu_lambdas or use_flow_sigmas")
        whole = np.trunc(np.asarray(timesteps, np.float64))
        return whole, at_timesteps(whole, table)

    def _order(self, i: int, begin: int, count: int) -> int:
        few = self.lower_order_final and count < 15
        order = min(self.solver_order, i - begin + 1, 3)
        if i == count - 1 and (self.euler_at_final or few or self.final_sigmas_type == "zero"):
            return 1
        return min(order, 2) if i == count - 2 and few else order


def multistep(algorithm: str, solver: str, order: int, near: Sequence[Level]) -> Weights:
    """Weights of a multistep update of that order; `near` is where it ends, where it starts, and those before."""
    weights = exponential(algorithm, near[1], near[0])
    update = SAMPLE * weights.base + past(0) * weights.d0 + weights.noise
    if order == 1:
        return update
    h, *earlier = (near[k].log_snr - near[k + 1].log_snr for k in range(order))
    first = (past(0) - past(1)) * (h / earlier[0])
    if order == 2:
        return update + first * (weights.half if solver == "midpoint" else weights.d1)
    if algorithm == "sde-dpmsolver":
        raise InputError("sde-dpmsolver has no third order: set solver_order to 2")
    r0, r1 = earlier[0] / h, earlier[1] / h
    bend = first - (past(1) - past(2)) * (1 / r1)
    return update + (first + bend * (r0 / (r0 + r1))) * weights.d1 + bend * (weights.d2 / (r0 + r1))
