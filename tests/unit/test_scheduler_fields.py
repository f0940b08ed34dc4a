"""Whatever a scheduler config holds, the outcome is a finite plan or one line, and it comes soon."""

import dataclasses
import importlib
import math
import time
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.diffusion.schedulers import _MODULES, make_plan, scheduler_names
from runtime.errors import InputError
from tests.unit.helpers import raises_line

SLOWEST_S = 3.0  # of processor time; the longest plan, 1000 steps of the slowest solver, takes 0.5
STEPS = st.sampled_from([1, 2, 3, 5, 20, 61, 1000, 1100])
OWN = st.sampled_from([[999, 500, 1], [5.5, 2], [1000], [-1], [], [1.0, 0.5, 0.0], [0.0], [3, 2], [0.99, 0.5]])
NAMES = st.sampled_from(
    (
        *("linear", "scaled_linear", "squaredcos_cap_v2", "exp", "laplace", "sigmoid", "log_linear", "continuous"),
        *("epsilon", "sample", "v_prediction", "flow_prediction", "leading", "linspace", "trailing"),
        *("heun", "midpoint", "logrho", "bh1", "dpmsolver", "sde-dpmsolver", "sde-dpmsolver++", "zero", "sigma_min"),
    )
)
BETAS = st.sampled_from([0.02, 0.0, 0.5, 1.0, 1.5, 2.0, -0.5, 1e300])
NASTY = st.sampled_from(
    (
        *(None, True, 0, -1, 2, 1100, 10**12, 10**400, 10**5000, 1j, np.float32(0.3), np.int64(7), Decimal("0.1")),
        *(0.5, 1e-300, 1e300, math.nan, math.inf, -math.inf, "", b"x", "x\ny", {}, object(), range(5)),
        *([], [0.1] * 10, [2.0] * 1000, (0.01,) * 1000, [math.nan] * 3, ["a"], [[1.0]], [10**400]),
        *(np.linspace(0, 1, 1000), np.ones((2, 2))),
    )
)


def scheduler_class(name: str) -> Any:
    return getattr(importlib.import_module(f"runtime.diffusion.schedulers.{_MODULES[name]}"), name)


@st.composite
def runs(draw: st.DrawFn, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A config with a few of the class's fields, mostly of the right type, and the other arguments of `make_plan`."""
    fields = draw(st.lists(st.sampled_from(dataclasses.fields(scheduler_class(name))), max_size=5, unique=True))
    likely = {"bool": st.booleans(), "int": STEPS, "float": BETAS, "str": NAMES}
    config = {}
    for field in fields:
        kind = next((key for key in likely if key in str(field.type)), "int")
        config[field.name] = draw(NASTY if draw(st.integers(0, 4)) == 0 else likely[kind])
    given = draw(st.sampled_from(["num_inference_steps"] * 4 + ["timesteps", "sigmas"]))
    value = draw(NASTY if draw(st.integers(0, 9)) == 0 else STEPS if given == "num_inference_steps" else OWN)
    return {"_class_name": name, **config}, {given: value, "eta": draw(st.sampled_from([0.0, 1.0, 5, 1e300]))}


@pytest.mark.parametrize("name", scheduler_names())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_config_gives_a_finite_plan_or_one_line(name: str, data: st.DataObject) -> None:
    config, arguments = data.draw(runs(name))
    start = time.process_time()
    try:
        plan = make_plan(config, **arguments)
    except InputError as error:
        line = str(error)
        assert len(line.splitlines()) == 1
        assert len(line) < 400
    else:
        assert plan.steps
        numbers = [plan.init_noise_sigma, *plan.sigmas]
        for step in plan.steps:
            numbers += [step.timestep, step.signal, step.noise, step.input_scale]
            numbers += [w for row in (step.prediction, step.update, step.entry, step.save) for w in row or ()]
        assert not any(isinstance(number, complex) for number in numbers)
        assert np.isfinite(np.asarray(numbers, np.float64).astype(np.float32)).all()
    assert time.process_time() - start < SLOWEST_S


RAISED = ["DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler"]
WRONG = {"bool": "yes", "int": 1.5, "float": "0.1", "str": 5}


@pytest.mark.parametrize("name", scheduler_names())
def test_a_field_of_another_type_is_named(name: str) -> None:
    """Every field of every class, by its annotation; solver_p is of any type, and refused for itself."""
    for field in dataclasses.fields(scheduler_class(name)):
        kind = str(field.type)
        wrong = 5 if "Sequence" in kind else next((value for key, value in WRONG.items() if key in kind), object())
        with raises_line(InputError, name, field.name):
            make_plan({"_class_name": name, field.name: wrong}, 10)


@pytest.mark.parametrize(
    ("config", "arguments", "fragment"),
    [
        *[({"_class_name": name, "beta_end": 2.0}, {"num_inference_steps": 10}, name) for name in RAISED],
        *[
            (
                {
                    "_class_name": "EulerAncestralDiscreteScheduler",
                    "rescale_betas_zero_snr": True,
                    "num_train_timesteps": 1100,
                    "prediction_type": "v_prediction",
                },
                {"num_inference_steps": 1100},
                "EulerAncestralDiscreteScheduler: no schedule comes of these options",
            )
        ],
        ({"_class_name": "DDIMScheduler", "steps_offset": 1}, {"num_inference_steps": 1000}, "take 999 steps"),
        ({"_class_name": "DDPMScheduler", "steps_offset": 1}, {"num_inference_steps": 1000}, "take 999 steps"),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}, {"num_inference_steps": 61}, "take 60"),
        ({"_class_name": "DDIMScheduler", "steps_offset": 1000}, {"num_inference_steps": 5}, "another steps_offset"),
        ({"_class_name": "DDIMScheduler", "trained_betas": [0.1] * 5}, {"num_inference_steps": 2}, "knows 0 to 4"),
        ({"_class_name": "LCMScheduler", "trained_betas": [0.1] * 5}, {"num_inference_steps": 2}, "0 to 4"),
        ({"_class_name": "DDIMScheduler", "trained_betas": []}, {"num_inference_steps": 2}, "trained_betas"),
        ({"_class_name": "DDIMScheduler", "num_train_timesteps": 10**12}, {"num_inference_steps": 2}, "1 to 10000"),
        ({"_class_name": "UniPCMultistepScheduler", "solver_order": 10**9}, {"num_inference_steps": 2}, "1 to 10"),
        (
            {"_class_name": "DDIMScheduler", "thresholding": True, "dynamic_thresholding_ratio": 1.5},
            {"num_inference_steps": 2},
            "dynamic_thresholding_ratio",
        ),
        (
            {"_class_name": "DDIMScheduler", "thresholding": True, "sample_max_value": 0},
            {"num_inference_steps": 2},
            "sample_max_value",
        ),
        ({"_class_name": "DDIMScheduler"}, {"num_inference_steps": 10**5000}, "more than the 1000"),
        ({"_class_name": "DDIMScheduler"}, {"num_inference_steps": True}, "num_inference_steps has to be an integer"),
        ({"_class_name": "DDIMScheduler"}, {"num_inference_steps": 2, "eta": "0"}, "eta has to be"),
        ({"_class_name": "DDPMScheduler"}, {"timesteps": "abc"}, "DDPMScheduler: timesteps has to be a list"),
        ({"_class_name": "EulerDiscreteScheduler"}, {"sigmas": [1.0, "x"]}, "sigmas has to be a finite number"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "x" * 10**5}, {"num_inference_steps": 2}, "schedule 'xxx"),
        ({"_class_name": "x" * 10**5}, {"num_inference_steps": 2}, "unknown scheduler 'xxx"),
        ({"_class_name": ["DDIMScheduler"]}, {"num_inference_steps": 2}, "unknown scheduler ['DDIMScheduler']"),
        ({}, {"num_inference_steps": 2}, "unknown scheduler None"),
        (5, {"num_inference_steps": 2}, "a scheduler config is a mapping with _class_name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_refused(config: Any, arguments: dict[str, Any], fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        make_plan(config, **arguments)
    line = str(caught.value)
    assert fragment in line
    assert len(line.splitlines()) == 1
    assert len(line) < 600


def test_kindred_types_are_taken() -> None:
    """Integers and NumPy's numbers for floats, 0, 1 and None for a bool, arrays for lists: with the same plan."""
    plain = {"_class_name": "DDIMScheduler", "beta_end": 0.02, "clip_sample_range": 2.0, "thresholding": False}
    other = {**plain, "beta_end": np.float64(0.02), "clip_sample_range": 2, "thresholding": None, "clip_sample": 1}
    assert make_plan(other, np.int64(5)) == make_plan(plain, 5)
    betas = np.random.default_rng().uniform(0.001, 0.02, 1000)
    first, *others = (
        make_plan({**plain, "trained_betas": value}, 7) for value in (betas, betas.tolist(), tuple(betas.tolist()))
    )
    assert all(plan == first for plan in others)
