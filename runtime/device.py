"""Where arrays live and work is queued: the host here, a GPU in `runtime.backends._cuda`.

NumPy's functions work on the arrays they are given, CuPy's too (NEP 18), so the pipeline is written once. What makes
new arrays, moves them or waits for them goes through the `Device`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from runtime.errors import EngineError, InputError, MissingDependencyError, NumericsError

Array = Any  # numpy.ndarray or cupy.ndarray: whatever the device's `xp` makes
Replay = Callable[[], None]
PRECISIONS = ("auto", "fp32", "bf16")


class Device(Protocol):
    """One device and the pipeline's stream on it."""

    name: str  # cpu, or cuda:0
    xp: ModuleType
    precision: str  # auto, fp32 or bf16: how engines compute that leave it open

    def active(self) -> Any:
        """Context in which all work is queued on the pipeline's stream."""

    def watch(self, stage: str, array: Array) -> Array:
        """Return `array`. If any of it is NaN or Inf, NumericsError names `stage`: at once, or by `verify`."""

    def verify(self) -> None:
        """Wait for what was watched. Raises NumericsError with the first stage that was not finite."""

    def to_host(self, array: Array) -> Any:
        """A NumPy array with the same values, when they are computed."""

    def capture(self, work: Callable[[], None]) -> Replay:
        """A function that queues what `work` queues, at the same addresses. `work` may run a few times before."""

    def mark(self) -> Any:
        """A point in the device's time."""

    def seconds_between(self, start: Any, stop: Any) -> float:
        """Time from one mark to another, both of the past once `to_host` has returned."""

    def free_bytes(self) -> int | None:
        """Memory that is free, or None if that is not known."""

    def threads(self) -> dict[str, int]:
        """What `PhiloxGenerator` wants to know of a GPU; empty for the host."""


class HostDevice:
    """The CPU: NumPy arrays, and everything is done when it returns."""

    name = "cpu"
    xp: ModuleType = np

    def __init__(self, precision: str = "auto") -> None:
        self.precision = precision

    @contextmanager
    def active(self) -> Iterator[None]:
        """Nothing to enter."""
        yield

    def watch(self, stage: str, array: Array) -> Array:
        """Return `array`. Raises NumericsError if any of it is NaN or Inf."""
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise not_finite(stage)
        return array

    def verify(self) -> None:
        """Nothing is pending."""

    def to_host(self, array: Array) -> Any:
        """The array itself."""
        return array

    def capture(self, work: Callable[[], None]) -> Replay:
        """The function itself."""
        return work

    def mark(self) -> Any:
        """Now."""
        return time.perf_counter()

    def seconds_between(self, start: Any, stop: Any) -> float:
        """The difference."""
        return float(stop - start)

    def free_bytes(self) -> int | None:
        """What this process may still take."""
        from runtime.memory import free_memory_bytes

        return free_memory_bytes()

    def threads(self) -> dict[str, int]:
        """None: Philox then draws as a GPU that has a thread for every element."""
        return {}


def open_device(name: str, precision: str = "auto") -> Device:
    """The device `cpu`, `cuda` or `cuda:N`. Raises InputError, MissingDependencyError, or EngineError: no GPU.

    `precision` is for engines that leave it open, which those of a GPU do not.
    """
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision '{precision}': {', '.join(PRECISIONS)}")
    if name == "cpu":
        return HostDevice(precision)
    if precision != "auto":
        raise InputError(f"precision '{precision}' is for the CPU: on a GPU it is that of the engines")
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdecimal()):
        raise InputError(f"unknown device '{name}': auto, cpu, cuda or cuda:N")
    from runtime.backends._cuda import CudaDevice

    return CudaDevice(int(index or 0))


def usable_gpu() -> Device | None:
    """The first GPU; None where there is none, or cupy is not installed."""
    try:
        return open_device("cuda")
    except (EngineError, MissingDependencyError):
        return None


def not_finite(stage: str) -> NumericsError:
    """The error of a stage that produced NaN or Inf."""
    return NumericsError(f"{stage} produced NaN or Inf: the run was stopped")
