"""The fields of a scheduler config, checked once for all classes, against the annotations of their dataclasses."""

import dataclasses
from collections.abc import Mapping
from functools import cache
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np

from runtime.checks import integer, listed, number, shown
from runtime.errors import InputError

MOST_TIMESTEPS = 10_000  # ten times what published models have: a plan takes seconds beyond it
BOUNDS: Mapping[str, tuple[float, float]] = {
    "num_train_timesteps": (1, MOST_TIMESTEPS),
    "original_inference_steps": (1, MOST_TIMESTEPS),
    "steps_offset": (-MOST_TIMESTEPS, MOST_TIMESTEPS),
    "solver_order": (1, 10),
    "sigma_min": (0.0, 1e6),
    "sigma_max": (0.0, 1e6),
}


def checked_fields(cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config's values for the fields of a scheduler class, each of the type that the field is annotated with.

    A bool may also be 0, 1 or None, which means False. A float may be any real number. Keys that are no fields are left
    out. Raises InputError that names the class and the field.
    """
    hints = _hints(cls)
    return {
        field.name: _checked(f"{cls.__name__}: {field.name}", config[field.name], hints[field.name], field)
        for field in dataclasses.fields(cls)
        if field.name in config
    }


def checked_sequence(name: str, value: Any, *, whole: bool = False) -> tuple[float, ...]:
    """The finite numbers, or integers if `whole`, of a list, a tuple or an array of one axis."""
    items = listed(value)
    if items is None or len(items) > MOST_TIMESTEPS:
        raise InputError(f"{name} has to be a list of up to {MOST_TIMESTEPS} numbers, got {shown(value)}")
    return tuple(integer(name, item) if whole else number(name, item) for item in items)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _checked(name: str, value: Any, hint: Any, field: "dataclasses.Field[Any]") -> Any:
    kinds = get_args(hint) if NoneType in get_args(hint) else (hint,)
    low, high = BOUNDS.get(field.name, (-np.inf, np.inf))
    if value is None and NoneType in kinds:
        return None
    if hint is Any:
        return value
    if bool in kinds:
        if value is None or isinstance(value, bool | np.bool_) or (isinstance(value, int) and value in (0, 1)):
            return bool(value)
        raise InputError(f"{name} has to be True or False, got {shown(value)}")
    if str in kinds:
        if isinstance(value, str):
            return value
        raise InputError(f"{name} has to be a str, got {shown(value)}")
    if int in kinds:
        return integer(name, value, low, high)
    if float in kinds:
        unbounded = isinstance(value, float) and value == field.default  # such as a limit that is -inf
        return value if unbounded else number(name, value, low, high)
    (sequence,) = (kind for kind in kinds if kind is not NoneType)
    return checked_sequence(name, value, whole=get_args(sequence) == (int,))
