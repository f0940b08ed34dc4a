"""The forward process at each step of a plan, against `add_noise` of diffusers."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from runtime.diffusion.schedulers import make_plan, scheduler_names
from tests.parity import scheduler_reference as harness

AUDIOLDM2 = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195, "clip_sample": False}
LOG_SNR = ("DEIS", "DPM", "UniPC")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in scheduler_names()),
        *((name, {"use_karras_sigmas": True}) for name in scheduler_names()),
        *((name, {"use_flow_sigmas": True}) for name in scheduler_names() if name.startswith(LOG_SNR)),
    ],
)
def test_noise_levels_are_those_of_add_noise(name: str, options: dict[str, Any]) -> None:
    config = {"_class_name": name, **AUDIOLDM2, **options}
    rng = np.random.default_rng()
    clean, noise = (rng.standard_normal(harness.SHAPE).astype(np.float32) for _ in range(2))
    for steps in (5, 12):
        scheduler, plan = harness.build(config), make_plan(config, steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler.set_timesteps(steps)
            calls = list(zip(plan.steps, scheduler.timesteps, strict=True))
            for step, t in calls[:: plan.order]:  # the calls that start a user's step
                timesteps = t.repeat(len(clean))
                theirs = scheduler.add_noise(torch.from_numpy(clean), torch.from_numpy(noise), timesteps).numpy()
                ours = step.signal * clean + step.noise * noise
                np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5 * max(step.noise, 1), err_msg=str(t))
