"""Schedulers as data: a config becomes a `Plan`, a table of host floats; `advance` applies one row of it.

To add one, write a file here with a frozen dataclass whose fields are the config's and whose method `plan` makes the
table, and name it in `_MODULES`. `plan` takes `eta`, `timesteps` and `sigmas` where its signature names them.
"""

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runtime.diffusion.schedulers.plan import Plan, State, Step, advance, model_input
from runtime.errors import InputError
from runtime.wording import readable

__all__ = ["Plan", "State", "Step", "advance", "make_plan", "model_input", "scheduler_class", "scheduler_names"]

_MODULES = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DEISMultistepScheduler": "deis",
    "DPMSolverMultistepScheduler": "dpm_multistep",
    "DPMSolverSinglestepScheduler": "dpm_singlestep",
    "EulerAncestralDiscreteScheduler": "euler",
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "KDPM2AncestralDiscreteScheduler": "kdpm2",
    "KDPM2DiscreteScheduler": "kdpm2",
    "LCMScheduler": "lcm",
    "LMSDiscreteScheduler": "lms",
    "PNDMScheduler": "pndm",
    "UniPCMultistepScheduler": "unipc",
}

ALIASES = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpm2": "KDPM2DiscreteScheduler",
    "dpm2_a": "KDPM2AncestralDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "dpmpp_2s": "DPMSolverSinglestepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "kdpm2": "KDPM2DiscreteScheduler",
    "kdpm2_a": "KDPM2AncestralDiscreteScheduler",
    "lcm": "LCMScheduler",
    "lms": "LMSDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}


def scheduler_class(name: str) -> str:
    """The class name that a short name such as "dpmpp_2m" stands for, or a class name itself; capitals do not count.

    Raises InputError for a name that is neither.
    """
    known = {**ALIASES, **{cls.lower(): cls for cls in _MODULES}}
    if name.lower() not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1)
        nearest = f"; did you mean {known[near[0]]}?" if near else ""
        raise InputError(
            f"unknown scheduler '{readable(name)}'{nearest} (known: {', '.join(ALIASES)}, or a class name)"
        )
    return known[name.lower()]


def scheduler_names() -> list[str]:
    """Names accepted as `_class_name`."""
    return sorted(_MODULES)


def make_plan(
    config: Mapping[str, Any],
    num_inference_steps: int | None = None,
    *,
    eta: float = 0.0,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
) -> Plan:
    """Turn a scheduler config in the form of `scheduler_config.json` into the plan of one run.

    `timesteps` or `sigmas`, where the scheduler takes them, stand in place of `num_inference_steps`. `eta` is DDIM's
    and means nothing to the others. Fields that belong to other scheduler classes are ignored, as the reference's
    `from_config` does: one config serves several classes. Raises InputError for an unknown class, an option that it
    does not have, or a schedule without finite coefficients.
    """
    name = config.get("_class_name")
    if name not in _MODULES:
        raise InputError(f"unknown scheduler {name!r}; known are {', '.join(scheduler_names())}")
    cls = getattr(importlib.import_module(f"runtime.diffusion.schedulers.{_MODULES[name]}"), name)
    known = {field.name for field in dataclasses.fields(cls)}
    scheduler = cls(**{key: value for key, value in config.items() if key in known})
    options: dict[str, Any] = {"timesteps": timesteps, "sigmas": sigmas}
    given = {key: value for key, value in options.items() if value is not None}
    accepted = inspect.signature(scheduler.plan).parameters
    for key in given.keys() - accepted.keys():
        raise InputError(f"{name} takes no {key} of one's own")
    if len(given) + (num_inference_steps is not None) != 1:
        raise InputError("give exactly one of num_inference_steps, timesteps and sigmas")
    if num_inference_steps is not None and not 1 <= num_inference_steps <= scheduler.num_train_timesteps:
        raise InputError(
            f"num_inference_steps is {num_inference_steps}, this model takes 1 to {scheduler.num_train_timesteps}"
        )
    if "eta" in accepted:
        given["eta"] = eta
    with np.errstate(all="ignore"):  # what is not finite is reported below
        plan: Plan = scheduler.plan(num_inference_steps, **given)
    for i, step in enumerate(plan.steps):
        if not step.is_finite():
            raise InputError(f"{name}: step {i + 1} of {len(plan.steps)} has no finite coefficients with these options")
    return plan.inlined()
