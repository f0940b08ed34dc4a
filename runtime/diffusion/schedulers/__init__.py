"""Schedulers as data: a config becomes a `Plan`, a table of host floats; `advance` applies one row of it.

To add one, write a file here with a frozen dataclass whose fields are the config's and whose method `plan` makes the
table, and name it in `_MODULES`. The fields' annotations decide which values are taken. `plan` is given `eta`,
`timesteps` and `sigmas` where its signature names them, and `begin`, which a scheduler names whose steps look back at
earlier ones: it then leaves out the first steps itself.
"""

import difflib
import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runtime.checks import integer, number, reason, shown
from runtime.diffusion.schedulers.fields import checked_fields, checked_sequence
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
    begin: int = 0,
) -> Plan:
    """Turn a scheduler config in the form of `scheduler_config.json` into the plan of one run.

    `timesteps` or `sigmas`, where the scheduler takes them, stand in place of `num_inference_steps`. `eta` is DDIM's
    and means nothing to the others. The first `begin` steps are left out, for a start from a sample with noise; what
    remains looks back at none of them. Fields that belong to other scheduler classes are ignored, as the reference's
    `from_config` does: one config serves several classes. Raises InputError for an unknown class, a field of another
    type or out of bounds, an option that the class does not have, or a schedule without finite coefficients.
    """
    scheduler = _scheduler(config)
    name, takes = type(scheduler).__name__, inspect.signature(scheduler.plan).parameters
    options = {"timesteps": timesteps, "sigmas": sigmas}
    given: dict[str, Any] = {
        key: checked_sequence(f"{name}: {key}", value) for key, value in options.items() if value is not None
    }
    for key in given.keys() - takes.keys():
        raise InputError(f"{name} takes no {key} of one's own")
    if len(given) + (num_inference_steps is not None) != 1:
        raise InputError("give exactly one of num_inference_steps, timesteps and sigmas")
    if num_inference_steps is not None:
        num_inference_steps = _steps(num_inference_steps, scheduler.num_train_timesteps)
    if "eta" in takes:
        given["eta"] = number("eta", eta)
    return _finite_plan(scheduler, num_inference_steps, given, begin)


def _scheduler(config: Mapping[str, Any]) -> Any:
    """The scheduler of a config, its fields checked."""
    if not isinstance(config, Mapping):
        raise InputError(f"a scheduler config is a mapping with _class_name and its fields, got {shown(config)}")
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in _MODULES:
        raise InputError(f"unknown scheduler {shown(name)}; known are {', '.join(scheduler_names())}")
    cls = getattr(importlib.import_module(f"runtime.diffusion.schedulers.{_MODULES[name]}"), name)
    return cls(**checked_fields(cls, config))


def _steps(count: Any, train_steps: int) -> int:
    whole = integer("num_inference_steps", count, 1)
    if whole > train_steps:
        raise InputError(
            f"num_inference_steps is {shown(count)}, more than the {train_steps} that this model was trained on"
        )
    return whole


def _finite_plan(scheduler: Any, count: int | None, given: Mapping[str, Any], begin: int) -> Plan:
    """The scheduler's plan, every number in it one that float32 holds.

    Where the reference's tensors become NaN, our host floats raise, or turn complex, which is refused here.
    """
    name = type(scheduler).__name__
    try:
        with np.errstate(all="ignore"):  # what is not finite is reported below
            looks_back = "begin" in inspect.signature(scheduler.plan).parameters
            plan: Plan = scheduler.plan(count, **given, **({"begin": begin} if looks_back else {}))
            plan = (plan if looks_back else plan.after(begin)).inlined()
            unusable = plan.first_not_finite()
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except (ArithmeticError, LookupError, TypeError, ValueError, MemoryError) as error:
        raise InputError(
            f"{name}: no schedule comes of these options ({reason(error)}): change its betas, sigmas or number of steps"
        ) from error
    if not plan.steps:
        raise InputError(f"{name}: these options leave no step to make")
    if unusable is not None:
        raise InputError(f"{name}: step {unusable} of {len(plan.steps)} has no finite coefficients with these options")
    return plan
