"""Exponential-integrator steps of DPM-Solver (arXiv:2206.00927) and DPM-Solver++ (arXiv:2211.01095), ODE and SDE."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from runtime.checks import shown
from runtime.diffusion.schedulers.log_snr import Level, LogSNRSpace
from runtime.diffusion.schedulers.noise_schedule import Floats
from runtime.diffusion.schedulers.plan import Weights
from runtime.diffusion.schedulers.sigmas import final_sigma
from runtime.errors import InputError

_OTHER_SOLVERS = ("logrho", "bh1", "bh2")  # of DEIS and UniPC, whose configs are taken for midpoint


class Exponential(NamedTuple):
    """The coefficients of one step, in the names of the papers: of the sample, the differences D0 to D2, and noise."""

    base: float  # of the sample
    d0: float  # of what the model says at the start of the step
    half: float  # of the first difference, as the midpoint solver takes it
    d1: float  # of the first difference, as Heun's does
    d2: float  # of the second difference
    noise: Weights  # fresh noise, which the SDE solvers add


def exponential(algorithm: str, start: Level, end: Level) -> Exponential:
    """Weights of one step from level to level. `d2` of sde-dpmsolver does not exist."""
    h = end.log_snr - start.log_snr
    if algorithm == "dpmsolver++":
        z = np.expm1(-h)
        d2 = -end.a * ((z + h) / h**2 - 0.5)
        return Exponential(end.b / start.b, -end.a * z, -0.5 * end.a * z, end.a * (z / h + 1), d2, Weights())
    if algorithm == "sde-dpmsolver++":
        k = 2 * h
        z = np.expm1(-k)
        noise = Weights(noise=end.b * np.sqrt(max(-z, 0.0)))  # the last step may have no length, give or take
        d2 = -end.a * ((z + k) / k**2 + 0.5)  # + 0.5 is the reference's sign; the ODE's is - 0.5
        base = end.b / start.b * np.exp(-h)
        return Exponential(base, -end.a * z, -0.5 * end.a * z, end.a * (z / k + 1), d2, noise)
    z = np.expm1(h)
    if algorithm == "dpmsolver":
        d2 = -end.b * ((z - h) / h**2 - 0.5)
        return Exponential(end.a / start.a, -end.b * z, -0.5 * end.b * z, -end.b * (z / h - 1), d2, Weights())
    noise = Weights(noise=end.b * np.sqrt(max(np.expm1(2 * h), 0.0)))
    return Exponential(end.a / start.a, -2 * end.b * z, -end.b * z, -2 * end.b * (z / h - 1), np.nan, noise)


@dataclass(frozen=True, kw_only=True)
class DPMSolver(LogSNRSpace):
    """The config fields that the multistep and the singlestep solver share, and the checks of them."""

    algorithm_type: str = "dpmsolver++"
    solver_type: str = "midpoint"
    final_sigmas_type: str = "zero"
    lambda_min_clipped: float = -float("inf")
    variance_type: str | None = None

    def kind(self, *known: str) -> tuple[str, str]:
        """Algorithm and solver, checked; names that belong to kindred schedulers stand for the nearest here."""
        if self.variance_type in ("learned", "learned_range"):
            raise InputError(
                f"variance_type {shown(self.variance_type)} needs a model that predicts its variance; this one does not"
            )
        if self.algorithm_type not in (*known, "deis"):
            raise InputError(f"unknown algorithm_type {shown(self.algorithm_type)}: {', '.join(known)}")
        if self.solver_type not in ("midpoint", "heun", *_OTHER_SOLVERS):
            raise InputError(f"unknown solver_type {shown(self.solver_type)}: midpoint or heun")
        if self.final_sigmas_type == "zero" and not self.algorithm_type.endswith("++"):
            raise InputError(f"algorithm_type {self.algorithm_type} cannot end at 0: set final_sigmas_type sigma_min")
        algorithm = "dpmsolver++" if self.algorithm_type == "deis" else self.algorithm_type
        return algorithm, "midpoint" if self.solver_type in _OTHER_SOLVERS else self.solver_type

    def clipped(self, alphas: Floats) -> int:
        """How many of the noisiest training steps lie below lambda_min_clipped."""
        log_snr = np.log(np.sqrt(alphas)) - np.log(np.sqrt(np.float32(1) - alphas))
        return int(np.searchsorted(log_snr[::-1], np.float32(self.lambda_min_clipped)))

    def last_sigma(self, table: Floats) -> float:
        """The sigma that the last step arrives at."""
        return final_sigma(self.final_sigmas_type, float(table[0]))
