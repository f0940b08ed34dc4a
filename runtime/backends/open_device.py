"""Opening a device by its name."""

from runtime.backends.cuda import CudaDevice
from runtime.backends.device import PRECISIONS, Device, Gpu, HostDevice
from runtime.backends.host_cores import usable_cores_if_fewer
from runtime.checks import integer, shown
from runtime.errors import EngineError, InputError, MissingDependencyError

MOST_THREADS = 1024


def open_device(name: str, precision: str = "auto", cpu_threads: int | None = None) -> Device:
    """The device `cpu`, `cuda` or `cuda:N`. Raises InputError, MissingDependencyError, or EngineError: no GPU.

    `precision` is for engines that leave it open, and `cpu_threads` for those that run on the CPU: on a GPU neither has
    a meaning.
    """
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise InputError(f"unknown precision {shown(precision)}: {', '.join(PRECISIONS)}")
    if not isinstance(name, str):
        raise InputError(f"device has to be auto, cpu, cuda or cuda:N, got {shown(name)}")
    if name == "cpu":
        return HostDevice(precision, _checked_threads(cpu_threads))
    if cpu_threads is not None:
        raise InputError("threads are for the CPU: on a GPU there is nothing to set")
    if precision != "auto":
        raise InputError(f"precision '{precision}' is for the CPU: on a GPU it is that of the engines")
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdecimal()):
        raise InputError(f"unknown device '{name}': auto, cpu, cuda or cuda:N")
    return CudaDevice(int(index or 0))


def usable_gpu() -> Gpu | None:
    """The first GPU; None where there is none, or cupy is not installed."""
    try:
        return open_device("cuda").gpu
    except (EngineError, MissingDependencyError):
        return None


def _checked_threads(asked: int | None) -> int | None:
    """As many as were asked for, else what this process may use where that is less than the machine has."""
    if asked is None:
        return usable_cores_if_fewer()
    return integer("threads", asked, 1, MOST_THREADS)
