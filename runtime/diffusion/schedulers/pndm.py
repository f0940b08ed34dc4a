"""PNDM (Liu et al., arXiv:2202.09778): a pseudo linear multistep method, started by Runge-Kutta steps or Euler's."""

from dataclasses import dataclass

import numpy as np

from runtime.checks import shown
from runtime.diffusion.schedulers.noise_schedule import Floats, NoiseSchedule, spaced_timesteps
from runtime.diffusion.schedulers.plan import OUTPUT, SAMPLE, SAVED, Plan, Step, Weights, past
from runtime.errors import InputError

_ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
_RUNGE_KUTTA = ((1.0,), (1.0,), (1.0,), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


@dataclass(frozen=True, kw_only=True)
class PNDMScheduler(NoiseSchedule):
    """Fields and defaults of diffusers' PNDMScheduler."""

    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0

    def plan(self, num_inference_steps: int, *, begin: int = 0) -> Plan:
        """Three Runge-Kutta steps of four calls, or one of two with `skip_prk_steps`, then linear multistep ones."""
        alphas = self.alphas()
        stride = self.num_train_timesteps // num_inference_steps
        rising = np.round(
            spaced_timesteps(self.timestep_spacing, num_inference_steps, self.num_train_timesteps, self.steps_offset)
        )[::-1]
        whole = [int(t) for t in rising][: num_inference_steps - begin]
        if self.skip_prk_steps:
            steps = self._multistep([*whole[:-1], *whole[-2:-1], whole[-1]][::-1], stride, alphas)
        elif len(whole) < 4:
            raise InputError("at least 4 steps have to be made, or skip_prk_steps set: the method has 4 stages")
        else:
            steps = self._runge_kutta(whole[-4:], stride, alphas)
            for i, t in enumerate(whole[:-3][::-1]):
                # the history holds every stage of the Runge-Kutta steps, of which the first of each four count
                places = [0, *range(1, i + 1), *range(i + 4, i + 13, 4)][:4]
                steps.append(self._step(t, t, t - stride, alphas, _spread(_ADAMS_BASHFORTH[3], places), SAMPLE))
        return Plan(steps=tuple(steps), num_inference_steps=len(whole))

    def _runge_kutta(self, rising: list[int], stride: int, alphas: Floats) -> list[Step]:
        half = stride // 2
        stages = [t + shift for t in rising for shift in (0, half)][:-1]
        timesteps = [t for t in stages for _ in range(2)][1:-1][::-1]
        steps = []
        for i, t in enumerate(timesteps):
            stage = i % 4
            weights = _spread(_RUNGE_KUTTA[stage], range(len(_RUNGE_KUTTA[stage])))
            previous = t - (0 if i % 2 else half)
            start = SAVED if stage else SAMPLE
            save = None if stage else SAMPLE
            steps.append(self._step(t, timesteps[i - stage], previous, alphas, weights, start, save))
        return steps

    def _multistep(self, timesteps: list[int], stride: int, alphas: Floats) -> list[Step]:
        steps = []
        for i, t in enumerate(timesteps):
            if i == 1:  # the second call averages over the first step, taken again from where it started
                half = OUTPUT * 0.5 + past(0) * 0.5
                steps.append(self._step(t, t + stride, t, alphas, half, SAVED, enters=False))
                continue
            order = min(max(i, 1), 4)
            weights = _spread(_ADAMS_BASHFORTH[order - 1], range(order))
            steps.append(self._step(t, t, t - stride, alphas, weights, SAMPLE, SAMPLE if i == 0 else None))
        return steps

    def _step(
        self,
        told: int,
        timestep: int,
        previous: int,
        alphas: Floats,
        outputs: Weights,
        start: Weights,
        save: Weights | None = None,
        enters: bool = True,
    ) -> Step:
        """Equation 9 of the paper from `timestep` to `previous`; `outputs` are weights over the model's outputs."""
        if not 0 <= timestep < len(alphas) or previous >= len(alphas):
            raise InputError(
                f"timestep {max(timestep, previous)} is outside of 0 to {len(alphas) - 1}: take fewer steps"
            )
        alpha = float(alphas[timestep])
        before = float(alphas[previous] if previous >= 0 else 1.0 if self.set_alpha_to_one else alphas[0])
        if self.prediction_type == "v_prediction":
            outputs = outputs * alpha**0.5 + start * (1 - alpha) ** 0.5
        elif self.prediction_type != "epsilon":
            raise InputError(f"unknown prediction_type {shown(self.prediction_type)}: epsilon or v_prediction")
        denominator = alpha * (1 - before) ** 0.5 + (alpha * (1 - alpha) * before) ** 0.5
        update = start * (before / alpha) ** 0.5 - outputs * ((before - alpha) / denominator)
        here = float(alphas[told])
        return Step(
            timestep=told,
            signal=here**0.5,
            noise=(1 - here) ** 0.5,
            entry=OUTPUT if enters else None,
            update=update,
            save=save,
        )


def _spread(values: tuple[float, ...], places: "list[int] | range") -> Weights:
    total = Weights()
    for value, place in zip(values, places, strict=True):
        total = total + past(place) * value
    return total
