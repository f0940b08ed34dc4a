"""UniPC (Zhao et al., arXiv:2302.04867): a multistep predictor, and a corrector that costs no model call."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from runtime.checks import shown
from runtime.diffusion.schedulers.log_snr import Level, LogSNRSpace, told
from runtime.diffusion.schedulers.noise_schedule import ZERO_SNR_ALPHA, Doubles, Floats
from runtime.diffusion.schedulers.plan import SAMPLE, SAVED, Bound, Plan, Weights, past
from runtime.diffusion.schedulers.sigmas import at_timesteps, closed, final_sigma, to_timesteps, training_sigmas
from runtime.errors import InputError

_NEAR_ONE = 1e-6


@dataclass(frozen=True, kw_only=True)
class UniPCMultistepScheduler(LogSNRSpace):
    """Fields and defaults of diffusers' UniPCMultistepScheduler, but for solver_p, a scheduler within this one."""

    predict_x0: bool = True
    solver_type: str = "bh2"
    lower_order_final: bool = True
    disable_corrector: Sequence[int] = ()
    solver_p: Any = None
    final_sigmas_type: str = "zero"
    rescale_betas_zero_snr: bool = False
    use_dynamic_shifting: bool = False
    shift_terminal: float | None = None

    def plan(self, num_inference_steps: int | None, *, sigmas: Sequence[float] | None = None, begin: int = 0) -> Plan:
        """Algorithms 5 to 8 of the paper. A step's update corrects the sample it was given, then predicts the next."""
        self._check(sigmas)
        table = training_sigmas(self.alphas(rescale=self.rescale_betas_zero_snr, floor=ZERO_SNR_ALPHA))
        timesteps, levels = self._levels(num_inference_steps or len(() if sigmas is None else sigmas), table, sigmas)
        points = [self.level(sigma) for sigma in levels]
        steps = []
        previous = 0
        for i, t in list(enumerate(told(timesteps)))[begin:]:
            here = SAMPLE
            if i > begin and i - 1 not in self.disable_corrector:
                here = self._corrected(points[i - previous : i + 1][::-1])
            previous = self._order(i, begin, len(timesteps))
            update = self._predicted(here, points[i + 1 - previous : i + 2][::-1])
            steps.append(self.row(t, points[i], update, clean=self.predict_x0, flow=self.predict_x0, save=here))
        return self.whole(steps, levels[begin:])

    def bound(self) -> Bound:
        """What the plan applies to each prediction; the form that predicts noise has none."""
        return super().bound() if self.predict_x0 else Bound()

    def _check(self, own: Sequence[float] | None) -> None:
        if self.solver_type not in ("bh1", "bh2", "midpoint", "heun", "logrho"):
            raise InputError(f"unknown solver_type {shown(self.solver_type)}: bh1 or bh2")
        if self.solver_p is not None:
            raise InputError("solver_p, another scheduler as the predictor, is not supported")
        if self.use_dynamic_shifting:
            raise InputError("use_dynamic_shifting needs a shift for each call, which this pipeline does not have")
        if not self.use_flow_sigmas and (self.shift_terminal is not None or own is not None):
            raise InputError(f"{'sigmas' if own is not None else 'shift_terminal'} need use_flow_sigmas")

    def _order(self, i: int, begin: int, count: int) -> int:
        order = min(self.solver_order, i - begin + 1)
        return min(order, count - i) if self.lower_order_final else order

    def _levels(self, count: int, table: Floats, own: Sequence[float] | None) -> tuple[Doubles, Floats]:
        """Timesteps and sigmas, of which the last is where the last step arrives."""
        spacing = self.spacing()
        if spacing is None and not self.use_flow_sigmas:
            timesteps = self.spaced(count)
            return timesteps, closed(at_timesteps(timesteps, table), final_sigma(self.final_sigmas_type, table[0]))
        if spacing is None:
            sigmas = self._flow(count, own)
        else:
            source = table if own is None else np.asarray(own)
            sigmas = self.laid_out(spacing, float(source[-1]), float(source[0]), count)
        if spacing is None or (spacing == "karras" and self.use_flow_sigmas):
            sigmas = sigmas if spacing is None else sigmas / (sigmas + 1)
            timesteps = sigmas * self.num_train_timesteps
        else:
            timesteps = to_timesteps(sigmas, source)
            timesteps = np.round(timesteps) if spacing == "karras" else timesteps
        return timesteps, closed(sigmas, final_sigma(self.final_sigmas_type, sigmas[-1]))

    def _flow(self, count: int, own: Sequence[float] | None) -> Doubles:
        start = np.linspace(1, 1 / self.num_train_timesteps, count + 1)[:-1] if own is None else own
        sigmas = np.array(start, np.float64)
        sigmas = self.flow_shift * sigmas / (1 + (self.flow_shift - 1) * sigmas)
        if self.shift_terminal:
            sigmas = 1 - (1 - sigmas) / ((1 - sigmas[-1]) / (1 - self.shift_terminal))
        if abs(sigmas[0] - 1) < _NEAR_ONE:  # keeps the log-SNR finite
            sigmas[0] -= _NEAR_ONE
        return sigmas

    def _predicted(self, here: Weights, near: Sequence[Level]) -> Weights:
        """UniP: `near` is where the step ends, where it starts, and those before."""
        terms = self._terms(near)
        order = len(near) - 1
        rhos = np.array([0.5]) if order == 2 else _solve(terms.matrix[:-1, :-1], terms.rhs[:-1])
        update: Weights = here * terms.base + past(0) * (terms.first + terms.scale * 0.0)
        for k, rho in enumerate(rhos, start=1):
            update = update - (past(k) - past(0)) * (terms.scale * rho / terms.ratios[k - 1])
        return update

    def _corrected(self, near: Sequence[Level]) -> Weights:
        """UniC: the sample at the first of `near`, from the one saved at the second and what the model said since."""
        terms = self._terms(near)
        order = len(near) - 1
        rhos = np.array([0.5]) if order == 1 else _solve(terms.matrix, terms.rhs)
        update: Weights = SAVED * terms.base + past(1) * terms.first - (past(0) - past(1)) * (terms.scale * rhos[-1])
        for k, rho in enumerate(rhos[:-1], start=1):
            update = update - (past(k + 1) - past(1)) * (terms.scale * rho / terms.ratios[k - 1])
        return update

    def _terms(self, near: Sequence[Level]) -> "_Terms":
        end, start, *before = near
        h = end.log_snr - start.log_snr
        z = -h if self.predict_x0 else h
        grown = np.expm1(z)
        ratios = np.array([(level.log_snr - start.log_snr) / h for level in before] + [1.0])
        b = z if self.solver_type == "bh1" else grown
        phi, factorial, rhs = grown / z - 1, 1, []
        for i in range(1, len(near)):
            rhs.append(phi * factorial / b)
            factorial *= i + 1
            phi = phi / z - 1 / factorial
        scale, base = (end.a, end.b / start.b) if self.predict_x0 else (end.b, end.a / start.a)
        matrix = np.stack([ratios**i for i in range(len(ratios))])
        return _Terms(base, -scale * grown, scale * b, ratios, matrix, np.array(rhs))


class _Terms(NamedTuple):
    """What predictor and corrector share: weights of the sample, the first entry, the differences; their equations."""

    base: float
    first: float
    scale: float
    ratios: Doubles
    matrix: Doubles
    rhs: Doubles


def _solve(matrix: Doubles, rhs: Doubles) -> Doubles:
    try:
        return np.asarray(np.linalg.solve(matrix, rhs))
    except np.linalg.LinAlgError:
        return np.full(len(rhs), np.nan)
