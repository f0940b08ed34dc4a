"""One captured step, replayed, against `advance` called step by step."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runtime.diffusion.schedulers import Plan, State, Step, advance, make_plan, model_input, scheduler_names
from runtime.diffusion.schedulers.fused import FusedSteps, can_fuse, noisy_steps, table
from runtime.diffusion.schedulers.plan import Bound, Weights
from tests.host_cuda import Host
from tests.unit.helpers import raises_line

SHAPE = (2, 3, 10, 13)  # more than one block, the last of them not full
CONFIGS: list[dict[str, Any]] = [{"_class_name": name} for name in scheduler_names()] + [
    {"_class_name": name, "clip_sample": True, "clip_sample_range": 0.7, "prediction_type": "v_prediction"}
    for name in ("DDIMScheduler", "DDPMScheduler", "HeunDiscreteScheduler", "LCMScheduler")
]
CONFIGS += [
    {"_class_name": "DDIMScheduler", "clip_sample": False},
    {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
    {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
    {"_class_name": "DPMSolverSinglestepScheduler", "solver_order": 3},
    {"_class_name": "UniPCMultistepScheduler", "solver_order": 3},
]


def _label(config: dict[str, Any]) -> str:
    return "-".join(str(value) for value in config.values())


class Replayed:
    """Steps captured once, on random inputs: the model's output is drawn between the halves of a step."""

    def __init__(self, plan: Plan, guidance_scale: float | None, spare_noise: int = 0) -> None:
        self.rng, self.host = np.random.default_rng(), Host()
        self.copies = 1 if guidance_scale is None else 2
        self.sample = self.draw(*SHAPE)
        self.seen = self.draw(self.copies * SHAPE[0], *SHAPE[1:])
        self.output = np.empty_like(self.seen)
        self.timestep = np.empty(1, np.float32)
        self.noise = self.draw(noisy_steps(plan) + spare_noise, *SHAPE)
        noise = self.noise if len(self.noise) else None
        self.plan, self.guidance_scale = plan, guidance_scale
        self.steps = FusedSteps(self.host, plan, self.sample, guidance_scale, noise)
        with self.host.capture() as self.before:
            self.steps.prepare(self.seen, self.timestep)
        with self.host.capture() as self.after:
            self.steps.update(self.output)

    def draw(self, *shape: int) -> Any:
        return self.rng.standard_normal(shape, np.float32)

    def reset(self, plan: Plan, guidance_scale: float | None) -> None:
        self.noise = self.draw(noisy_steps(plan), *SHAPE)
        self.plan, self.guidance_scale = plan, guidance_scale
        self.sample[...] = self.draw(*SHAPE)
        self.steps.reset(plan, guidance_scale, self.noise)

    def check(self, *, saved: bool = False) -> None:
        """Bit for bit, a bound that no relative error need be chosen for: both sides sum in one order."""
        state, draws = State(self.sample.copy(), np.zeros(SHAPE, np.float32) if saved else None), iter(self.noise)
        for step in self.plan.steps:
            self.before.launch()
            assert self.timestep[0] == np.float32(step.timestep)
            np.testing.assert_array_equal(self.seen, np.concatenate([model_input(step, state)] * self.copies))
            self.output[...] = guided = self.draw(*self.output.shape)
            if self.guidance_scale is not None:
                unconditional, text = np.split(self.output, 2)
                guided = unconditional + np.float32(self.guidance_scale) * (text - unconditional)
            state = advance(self.plan, step, state, guided, lambda _: next(draws))
            self.after.launch()
            np.testing.assert_array_equal(self.sample, state.sample)
        assert np.std(state.sample) > 1e-3  # else the comparison proves nothing


@pytest.mark.parametrize("guidance_scale", [None, 3.5])
@pytest.mark.parametrize("config", CONFIGS, ids=_label)
def test_a_captured_step_replayed_equals_advance(config: dict[str, Any], guidance_scale: float | None) -> None:
    for count in (4, 5, 20):
        Replayed(make_plan(config, count, eta=0.6), guidance_scale).check()


def test_all_that_a_plan_can_say() -> None:
    """Weights on everything, on history entries that are not there yet too: `advance` passes over those."""
    rng = np.random.default_rng()

    def draw(**more: Any) -> Weights:
        return Weights(*(0.4 * rng.standard_normal(4)), **more)

    def steps() -> Iterator[Step]:
        for i in range(12):
            history = tuple(0.4 * rng.standard_normal(rng.integers(1, 5)))
            yield Step(
                timestep=rng.uniform(0, 999),
                input_scale=rng.uniform(0.5, 2),
                prediction=replace(draw(), prediction=0.0, saved=0.0),
                entry=draw() if i % 3 else None,
                update=draw(history=history, noise=0.3 if i % 2 else None),
                save=draw(history=history, noise=0.2) if i % 4 else None,
            )

    replayed = Replayed(Plan(tuple(steps()), bound=Bound(clip_range=0.6)), 3.5)
    replayed.steps._history.fill(np.nan)
    replayed.check(saved=True)


def test_one_capture_serves_other_runs() -> None:
    """Other schedulers, step counts and scales, in the buffers of the first: nothing of an earlier run is read."""
    replayed = Replayed(make_plan({"_class_name": "EulerAncestralDiscreteScheduler"}, 3), 3.5, spare_noise=20)
    replayed.check()
    for name in scheduler_names():
        replayed.steps._history.fill(np.nan)
        replayed.steps._saved.fill(np.nan)
        replayed.reset(make_plan({"_class_name": name}, 11, eta=1.0), replayed.rng.uniform(1, 9))
        replayed.check()
    longest = make_plan({"_class_name": "HeunDiscreteScheduler"}, 1000)
    replayed.reset(longest, 2.0)
    assert len(longest.steps) == 1999


def test_a_wrong_table_is_seen() -> None:
    replayed = Replayed(make_plan({"_class_name": "LMSDiscreteScheduler"}, 6), 3.5)
    replayed.steps._table[3, 8:] *= 1 + 1e-5
    with pytest.raises(AssertionError, match="not equal"):
        replayed.check()


def test_what_cannot_be_fused_is_refused() -> None:
    sample = np.zeros(SHAPE, np.float32)
    ddim, ancestral = (make_plan({"_class_name": f"{name}Scheduler"}, 5) for name in ("DDIM", "EulerAncestralDiscrete"))
    thresholding = make_plan({"_class_name": "DDIMScheduler", "thresholding": True}, 5)
    assert not can_fuse(thresholding)
    assert can_fuse(ddim)
    with raises_line(ValueError, "dynamic thresholding"):
        table(thresholding)
    with raises_line(ValueError, "looks 13 history entries back", "room for 4"):
        table(make_plan({"_class_name": "PNDMScheduler"}, 10), depth=4)
    with raises_line(ValueError, "draws 5 times", "0 rows of noise"):
        FusedSteps(Host(), ancestral, sample)
    with raises_line(ValueError, "sample must be", "float64"):
        FusedSteps(Host(), ancestral, sample.astype(np.float64))
    steps = FusedSteps(Host(), ancestral, sample, None, np.zeros((5, *SHAPE), np.float32))
    with raises_line(ValueError, "room for", "5 rows"):
        steps.reset(make_plan({"_class_name": "EulerAncestralDiscreteScheduler"}, 6), None, np.zeros((6, *SHAPE)))
    with raises_line(ValueError, "output must be", f"{2 * sample.size} elements"):
        steps.update(np.zeros((SHAPE[0] + 1, *SHAPE[1:]), np.float32))
