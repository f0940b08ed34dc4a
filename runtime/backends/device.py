"""Where arrays live and work is queued: the host here, a GPU in `runtime.backends.cuda`.

NumPy's functions work on the arrays they are given, CuPy's too (NEP 18), so the pipeline is written once. What makes
new arrays, moves them or waits for them goes through the `Device`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from runtime.backends.host_memory import free_memory_bytes
from runtime.errors import NumericsError

Array = Any  # numpy.ndarray or cupy.ndarray: whatever the device's `xp` makes
Replay = Callable[[], object]
PRECISIONS = ("auto", "fp32", "bf16")


class Device(Protocol):
    """One device and the pipeline's stream on it."""

    name: str  # cpu, or cuda:0
    xp: ModuleType
    precision: str  # auto, fp32 or bf16: how engines compute that leave it open
    cpu_threads: int | None  # how many an engine on the CPU may use; None: as its library decides

    @property
    def gpu(self) -> "Gpu | None":
        """The device itself where it is a GPU, None on the host."""

    def active(self) -> Any:
        """Context in which all work is queued on the pipeline's stream."""

    def watch(self, stage: str, array: Array) -> Array:
        """Return `array`. If any of it is NaN or Inf, NumericsError names `stage`: at once, or by `verify`."""

    def verify(self) -> None:
        """Wait for what was watched. Raises NumericsError with the first stage that was not finite."""

    def to_host(self, array: Array) -> Any:
        """A NumPy array with the same values, when they are computed."""

    def mark(self) -> Any:
        """A point in the device's time: what was queued before comes before it."""

    def wait(self, mark: Any = None) -> None:
        """Return when the device has passed the mark, or has done all that was queued if there is none."""

    def seconds_between(self, start: Any, stop: Any) -> float:
        """Time from one mark to another. Waits for the second."""

    def free_bytes(self) -> int | None:
        """Memory that is free, or None if that is not known."""

    def threads(self) -> dict[str, int]:
        """What `PhiloxGenerator` wants to know of a GPU; empty for the host."""


class Gpu(Device, Protocol):
    """What a GPU has besides: for backends, which give its addresses to libraries."""

    index: int  # the N of cuda:N
    scope: Any  # of the graph that is made now, or None: `kept` is a dictionary, `capturing` says whether it records
    relief: list[Callable[[], None]]  # what gives memory back when it runs out

    @property
    def compute_capability(self) -> str:
        """Such as "9.0"."""

    @property
    def stream_pointer(self) -> int:
        """The stream's handle, for libraries that queue work on it."""

    def watch_flag(self, stage: str, finite: Array) -> None:
        """As `watch`, for who knows already whether all is finite: an array of one bool."""

    def array_over(self, pointer: int, shape: tuple[int, ...], dtype: str, owner: object) -> Array:
        """An array over memory that `owner` keeps alive."""

    def capture(
        self, work: Callable[[], Sequence[Array]], restore: Callable[[], None] = lambda: None
    ) -> tuple[Replay, Sequence[Array]]:
        """What queues the same as `work` at the same addresses, and the arrays that it writes: those `work` returns.

        `work` is run before, and has to give the same again after `restore`. Raises CaptureError.
        """

    def scratch(self, size_bytes: int) -> Any:
        """Memory with an attribute `ptr` that whoever runs next may overwrite. Its holder keeps it alive."""


class HostDevice:
    """The CPU: NumPy arrays, and everything is done when it returns."""

    name = "cpu"
    xp: ModuleType = np
    gpu: Gpu | None = None

    def __init__(self, precision: str = "auto", cpu_threads: int | None = None) -> None:
        self.precision, self.cpu_threads = precision, cpu_threads

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

    def mark(self) -> Any:
        """Now."""
        return time.perf_counter()

    def wait(self, mark: Any = None) -> None:
        """Everything is done."""

    def seconds_between(self, start: Any, stop: Any) -> float:
        """The difference."""
        return float(stop - start)

    def free_bytes(self) -> int | None:
        """What this process may still take."""
        return free_memory_bytes()

    def threads(self) -> dict[str, int]:
        """None: Philox then draws as a GPU that has a thread for every element."""
        return {}


def not_finite(stage: str) -> NumericsError:
    """The error of a stage that produced NaN or Inf."""
    return NumericsError(f"{stage} produced NaN or Inf: the run was stopped")
