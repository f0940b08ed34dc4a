"""The pieces that schedulers share, each against another way to compute it; and what is refused."""

from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr as their_rescaling

from runtime.diffusion.schedulers import (
    ALIASES,
    Plan,
    State,
    Step,
    advance,
    make_plan,
    scheduler_names,
)
from runtime.diffusion.schedulers.beta import symmetric_beta_ppf
from runtime.diffusion.schedulers.deis import integrals
from runtime.diffusion.schedulers.lms import adams_bashforth
from runtime.diffusion.schedulers.noise_schedule import linspace, rescale_zero_terminal_snr
from runtime.diffusion.schedulers.plan import OUTPUT, PREDICTION, SAMPLE, SAVED, Bound, Weights, past
from runtime.errors import InputError
from runtime.options import SCHEDULERS


def test_beta_quantiles() -> None:
    for p in (*np.linspace(0, 1, 201), *10.0 ** -np.arange(3, 12)):
        expected = scipy.stats.beta.ppf(p, 0.6, 0.6)
        assert symmetric_beta_ppf(float(p), 0.6) == pytest.approx(expected, rel=1e-13, abs=1e-300)


@pytest.mark.parametrize("known", [1, 2, 3, 4])
def test_lms_weights_integrate_the_lagrange_polynomials(known: int) -> None:
    nodes = np.sort(np.random.default_rng().uniform(0.1, 10, known + 1))[::-1].tolist()
    _check_integrals(adams_bashforth(nodes), nodes, lambda sigma: sigma)


@pytest.mark.parametrize("known", [1, 2, 3])
def test_deis_weights_integrate_in_log_rho(known: int) -> None:
    nodes = np.sort(np.random.default_rng().uniform(0.1, 10, known + 1))[::-1].tolist()
    _check_integrals(integrals(nodes), nodes, np.log)


def _check_integrals(weights: list[float], nodes: list[float], variable: Any) -> None:
    newest_first = nodes[:-1][::-1]
    for j, weight in enumerate(weights):
        others = [variable(node) for k, node in enumerate(newest_first) if k != j]
        own = variable(newest_first[j])

        def lagrange(t: float, others: list[float] = others, own: float = own) -> float:
            return float(np.prod([(variable(t) - other) / (own - other) for other in others]))

        expected, _ = scipy.integrate.quad(lagrange, nodes[-2], nodes[-1], epsabs=1e-12, epsrel=1e-12)
        assert weight == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_linspace_is_torch_s() -> None:
    for start, end in ((1e-4, 0.02), (0.0015**0.5, 0.0195**0.5), (-6, 6)):
        theirs = torch.linspace(start, end, 1000, dtype=torch.float32).numpy()
        assert np.count_nonzero(linspace(start, end, 1000) != theirs) <= 5  # torch rounds some of them twice
        np.testing.assert_allclose(linspace(start, end, 1000), theirs, rtol=3e-7)


def test_rescaling_reaches_zero_snr() -> None:
    """Within the float32 noise of 1 - beta, which torch's own square roots add to."""
    betas = linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    ours = rescale_zero_terminal_snr(betas)
    np.testing.assert_allclose(ours, their_rescaling(torch.from_numpy(betas)).numpy(), rtol=1e-3)
    assert ours[-1] == 1


def test_weights_add_and_scale() -> None:
    total = (SAMPLE + OUTPUT * 2.0 - past(1) * 3.0) * 0.5 + Weights(noise=0.25)
    assert total == Weights(sample=0.5, output=1.0, history=(0.0, -1.5), noise=0.25)
    assert SAMPLE.noise is None
    assert (SAMPLE * 2.0).noise is None


def test_inlining_changes_no_result() -> None:
    rng = np.random.default_rng()
    draw = rng.standard_normal
    step = Step(
        timestep=1.0,
        prediction=SAMPLE * draw() + OUTPUT * draw(),
        entry=PREDICTION * draw() + SAMPLE * draw(),
        update=SAVED * draw() + PREDICTION * draw() + past(0) * draw() + past(1) * draw() + Weights(noise=draw()),
        save=past(0) * draw() + SAMPLE * draw(),
    )
    state = State(sample=draw((2, 40)), saved=draw((2, 40)), history=(draw((2, 40)),))
    output, noise = draw((2, 40)), draw((2, 40))
    plan = Plan(steps=(step,))
    plain = advance(plan, step, state, output, lambda _: noise)
    inlined = plan.inlined()
    short = advance(inlined, inlined.steps[0], state, output, lambda _: noise)
    assert not any(inlined.steps[0].prediction)
    np.testing.assert_allclose(short.sample, plain.sample)
    np.testing.assert_allclose(short.saved, plain.saved)
    np.testing.assert_allclose(short.history[0], plain.history[0])


def test_advance_keeps_the_dtype() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        for name in scheduler_names():
            plan = make_plan({"_class_name": name, "clip_sample": True, "thresholding": True}, 5)
            state = State(sample=np.ones((2, 1, 4, 4), dtype))
            for step in plan.steps:
                state = advance(plan, step, state, state.sample / 10, lambda shape, d=dtype: np.ones(shape, d))
            assert state.sample.dtype == dtype, name


def test_thresholds_are_each_row_s_own() -> None:
    rows = np.stack([np.linspace(-4, 4, 101), np.linspace(-0.5, 0.5, 101)]).reshape(2, 1, 101)
    bounded = Bound(dynamic_ratio=0.5, dynamic_max=3.0)(rows)
    assert np.abs(bounded[0]).max() == 1
    np.testing.assert_allclose(bounded[0, 0, 50:55], rows[0, 0, 50:55] / 2, atol=1e-12)
    np.testing.assert_array_equal(bounded[1], rows[1])


@pytest.mark.parametrize(
    ("name", "extra", "completed"),
    [
        ("DDIMScheduler", {}, [0, 1, 2, 3, 4]),
        ("HeunDiscreteScheduler", {}, [None, 0, None, 1, None, 2, None, 3, 4]),
        ("PNDMScheduler", {"skip_prk_steps": True}, [None, 1, 2, 3, 4, 5]),
    ],
)
def test_steps_are_told_as_the_reference_pipeline_does(
    name: str, extra: dict[str, Any], completed: list[int | None]
) -> None:
    plan = make_plan({"_class_name": name, **extra}, 5)
    assert [plan.completed(i) for i in range(len(plan.steps))] == completed


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        ({"_class_name": "NoScheduler"}, {"num_inference_steps": 5}, "unknown scheduler 'NoScheduler'"),
        ({"_class_name": "DDIMScheduler"}, {}, "exactly one of"),
        ({"_class_name": "DDIMScheduler"}, {"num_inference_steps": 0}, "of at least 1"),
        ({"_class_name": "DDIMScheduler"}, {"num_inference_steps": 1001}, "more than the 1000"),
        ({"_class_name": "DDIMScheduler"}, {"timesteps": [5]}, "takes no timesteps"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "exp"}, {"num_inference_steps": 5}, "unknown beta_schedule"),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}, {"num_inference_steps": 61}, "timestep -1"),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned"}, {"num_inference_steps": 5}, "predicts"),
        (
            {"_class_name": "DDPMScheduler", "variance_type": "fixed_large_log"},
            {"num_inference_steps": 5},
            "take fixed_large",
        ),
        ({"_class_name": "DDPMScheduler"}, {"timesteps": [5, 5]}, "must descend"),
        ({"_class_name": "DDPMScheduler"}, {"timesteps": [1000, 5]}, "0 to 999"),
        ({"_class_name": "PNDMScheduler"}, {"num_inference_steps": 3}, "at least 4"),
        ({"_class_name": "EulerDiscreteScheduler"}, {"timesteps": [9], "sigmas": [1.0, 0.0]}, "exactly one of"),
        (
            {"_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "sample"},
            {"num_inference_steps": 5},
            "epsilon or v_prediction",
        ),
        (
            {"_class_name": "LMSDiscreteScheduler", "use_karras_sigmas": True, "use_beta_sigmas": True},
            {"num_inference_steps": 5},
            "only one of use_karras_sigmas, use_beta_sigmas",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"},
            {"num_inference_steps": 5},
            "set final_sigmas_type sigma_min",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "use_karras_sigmas": True},
            {"num_inference_steps": 5},
            "needs sigmas below 1",
        ),
        ({"_class_name": "UniPCMultistepScheduler", "solver_p": object()}, {"num_inference_steps": 5}, "solver_p"),
        ({"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1"}, {"num_inference_steps": 5}, "no finite"),
        ({"_class_name": "LCMScheduler"}, {"num_inference_steps": 51}, "distilled for 1 to 50"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_one_line(
    config: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_plan(config, **arguments)
    assert "\n" not in str(caught.value)


def test_the_help_names_every_scheduler_once() -> None:
    """It is written out there: `--help` answers before NumPy is imported."""
    names = SCHEDULERS.split(", or a class")[0].replace(" or ", ", ").split(", ")
    assert set(names) <= set(ALIASES)
    assert sorted(ALIASES[name] for name in names) == sorted(set(ALIASES.values()))
