"""Schedulers as data: a config becomes a `Plan`, a table of host floats; `advance` applies one row of it.

To add one, write a file here with a frozen dataclass whose fields are the config's and whose method `plan` makes the
table, and name it in `_MODULES`.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from runtime.errors import InputError
from runtime.schedulers.plan import Plan, State, Step, advance

__all__ = ["Plan", "State", "Step", "advance", "make_plan", "scheduler_names"]

_MODULES = {"DDIMScheduler": "ddim"}


def scheduler_names() -> list[str]:
    """Names accepted as `_class_name`."""
    return sorted(_MODULES)


def make_plan(config: Mapping[str, Any], num_inference_steps: int, *, eta: float = 0.0) -> Plan:
    """Turn a scheduler config in the form of `scheduler_config.json` into the plan of one run.

    Fields that belong to other scheduler classes are ignored, as the reference's `from_config` does: one config serves
    several classes. Raises InputError for an unknown class, option or step count.
    """
    name = config.get("_class_name")
    if name not in _MODULES:
        raise InputError(f"unknown scheduler {name!r}; known are {', '.join(scheduler_names())}")
    cls = getattr(importlib.import_module(f"runtime.schedulers.{_MODULES[name]}"), name)
    known = {field.name for field in dataclasses.fields(cls)}
    scheduler = cls(**{key: value for key, value in config.items() if key in known})
    if num_inference_steps < 1 or num_inference_steps > scheduler.num_train_timesteps:
        raise InputError(
            f"num_inference_steps is {num_inference_steps}, this model takes 1 to {scheduler.num_train_timesteps}"
        )
    plan: Plan = scheduler.plan(num_inference_steps, eta=eta)
    return plan
