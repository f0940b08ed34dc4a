"""DPM-Solver singlestep (arXiv:2206.00927): groups of up to three model calls, each group from one saved sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.checks import integer
from runtime.diffusion.schedulers.dpm import DPMSolver, exponential
from runtime.diffusion.schedulers.log_snr import Level, told
from runtime.diffusion.schedulers.noise_schedule import Doubles, Floats
from runtime.diffusion.schedulers.plan import SAMPLE, SAVED, Plan, Weights, past
from runtime.diffusion.schedulers.sigmas import at_timesteps, closed, training_sigmas
from runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DPMSolverSinglestepScheduler(DPMSolver):
    """Fields and defaults of diffusers' DPMSolverSinglestepScheduler. Its timesteps are linspace, whatever the spacing.

    A user's step is one model call, as in the reference, whose `order` is 1.
    """

    lower_order_final: bool = False

    def plan(
        self, num_inference_steps: int | None, *, timesteps: Sequence[float] | None = None, begin: int = 0
    ) -> Plan:
        """Algorithms 1 and 2 of the paper and their ++ and SDE kin. The SDE one draws noise at every call."""
        algorithm, solver = self.kind("dpmsolver", "dpmsolver++", "sde-dpmsolver++")
        integer("solver_order", self.solver_order, 1, 3)
        if self.thresholding and algorithm == "dpmsolver":
            raise InputError("thresholding needs dpmsolver++: the reference fails with dpmsolver")
        self.refuse_own(timesteps)
        alphas = self.alphas()
        table = training_sigmas(alphas)
        spaced, levels = self._levels(num_inference_steps, timesteps, alphas, table)
        sigmas = closed(levels, self.last_sigma(table))
        points = [self.level(sigma) for sigma in sigmas]
        steps = []
        orders = self._orders(len(spaced))
        for i, (t, whole) in list(enumerate(zip(told(spaced), orders, strict=True)))[begin:]:
            order = min(whole, i - begin + 1)  # a group that begins in its middle has no more calls to look back at
            near = points[i - order + 1 : i + 2][::-1]  # where the step ends, and the group's levels from its last on
            update = singlestep(algorithm, solver, near)
            clean = algorithm.endswith("++")
            save = SAMPLE if order == 1 else None
            steps.append(self.row(t, points[i], update, clean=clean, flow=clean, save=save))
        return self.whole(steps, sigmas[begin:])

    def _levels(
        self, count: int | None, own: Sequence[float] | None, alphas: Floats, table: Floats
    ) -> tuple[Doubles, Doubles]:
        count = count or len(() if own is None else own)
        spacing = self.spacing() or ("flow" if self.use_flow_sigmas else None)
        if spacing is not None:
            return self.respaced(spacing, count, table)
        if own is not None:
            timesteps = np.trunc(np.asarray(own, np.float64))
        else:
            last = self.num_train_timesteps - 1 - self.clipped(alphas)
            timesteps = np.round(np.linspace(0, last, count + 1))[::-1][:-1]
        return timesteps, at_timesteps(timesteps, table)

    def _orders(self, count: int) -> list[int]:
        """The order of each call: ascending in groups; the rest, or the end where asked for, in smaller groups."""
        size = self.solver_order
        lower = self.lower_order_final or count % size != 0 or self.final_sigmas_type == "zero"
        groups, rest = divmod(count, size)
        orders = list(range(1, size + 1)) * groups + list(range(1, rest + 1))
        if lower and rest == 0 and size > 1:
            orders[-size:] = [1, 2, 1] if size == 3 else [1, 1]
        if self.final_sigmas_type == "zero":
            orders[-1] = 1
        return orders


def singlestep(algorithm: str, solver: str, near: Sequence[Level]) -> Weights:
    """Weights of an update from the group's first level, the last of `near`, to the first of `near`."""
    end, *inner, start = near
    weights = exponential(algorithm, start, end)
    order = len(near) - 1
    update = (SAMPLE if order == 1 else SAVED) * weights.base + past(order - 1) * weights.d0 + weights.noise
    if order == 1:
        return update
    h = end.log_snr - start.log_snr
    r = [(level.log_snr - start.log_snr) / h for level in inner]
    first = [(past(k) - past(order - 1)) * (1 / ratio) for k, ratio in enumerate(r)]
    if order == 2:
        return update + first[0] * (weights.half if solver == "midpoint" else weights.d1)
    if solver == "midpoint":
        return update + first[0] * weights.d1
    bent = (first[1] * r[0] - first[0] * r[1]) * (1 / (r[0] - r[1]))
    return update + bent * weights.d1 + (first[0] - first[1]) * (2 / (r[0] - r[1]) * weights.d2)
