"""Checks of single values that come from outside: each error names the value, what came and what is accepted.

This is the ground floor: it knows nothing of calls or schedulers, and both use it.
"""

import math
import reprlib
from collections.abc import Sequence
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import InputError

MOST = 2**31 - 1  # of anything that is counted: sizes of such numbers can still be reckoned with, and printed
LARGEST = 1e6  # of an array's values: models see values near 1, and squares of 1e20 overflow float32 into silence

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def shown(value: object) -> str:
    """The value as an error message shows it: on one line, and short."""
    try:
        text = " ".join(_SHORT.repr(value).split())
    except Exception:  # its own way to show itself fails, as that of an int of 5000 digits does
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:117]}..."


def reason(error: Exception) -> str:
    """What a foreign exception says, in one line; its name where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number from `low` to `high`, of any numeric type but bool."""
    try:
        converted = float(value) if isinstance(value, Real | Decimal) and not isinstance(value, bool) else math.nan
    except (OverflowError, ValueError):  # more than the largest float; a signalling NaN
        converted = math.nan
    if not (math.isfinite(converted) and low <= converted <= high):
        raise InputError(f"{name} has to be a finite number{_range(low, high)}, got {shown(value)}")
    return converted


def integer(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> int:
    """An integer from `low` to `high`, of any integer type but bool."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise InputError(f"{name} has to be an integer{_range(low, high)}, got {shown(value)}")
    return int(value)


def listed(value: Any) -> tuple[Any, ...] | None:
    """The items of a list, a tuple, another sequence or an array of one axis; None where it is none of these.

    A text is one item, not a sequence of letters. A set has no order, and an iterator can be read only once: both are
    left out, since a call that is repeated has to give the same sound.
    """
    if isinstance(value, str | bytes | bytearray | memoryview):
        return None
    if isinstance(value, Sequence):
        return tuple(value)
    return tuple(value.tolist()) if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist") else None


def real_array(name: str, value: Any) -> npt.NDArray[np.float32]:
    """What NumPy makes an array of, C-contiguous float32 of any shape; real numbers of at most LARGEST."""
    try:
        given = np.asarray(value)
    except Exception as error:  # any that the conversion of somebody's own type raises
        raise InputError(f"{name} is no array of numbers: {reason(error)}") from error
    if given.dtype.kind not in "fiu":
        raise InputError(f"{name} has to hold real numbers, got an array of {given.dtype}")
    with np.errstate(over="ignore"):  # beyond float32 it becomes Inf, which is refused below
        array = given.astype(np.float32, order="C", copy=False)
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or Inf")
    largest = float(np.abs(array).max(initial=0.0))
    if largest > LARGEST:
        raise InputError(f"{name} holds values up to {largest:g}, the model works with values up to {LARGEST:g}")
    return array


def _range(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return ""
    if math.isinf(high):
        return f" of at least {low:.12g}"
    return f" of at most {high:.12g}" if math.isinf(low) else f" from {low:.12g} to {high:.12g}"
