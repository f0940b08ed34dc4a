"""Opening a device by its name."""

from runtime.backends.cuda import CudaDevice
from runtime.backends.device import PRECISIONS, Device, HostDevice
from runtime.checks import shown
from runtime.errors import EngineError, InputError, MissingDependencyError


def open_device(name: str, precision: str = "auto") -> Device:
    """The device `cpu`, `cuda` or `cuda:N`. Raises InputError, MissingDependencyError, or EngineError: no GPU.

    `precision` is for engines that leave it open, which those of a GPU do not.
    """
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise InputError(f"unknown precision {shown(precision)}: {', '.join(PRECISIONS)}")
    if not isinstance(name, str):
        raise InputError(f"device has to be auto, cpu, cuda or cuda:N, got {shown(name)}")
    if name == "cpu":
        return HostDevice(precision)
    if precision != "auto":
        raise InputError(f"precision '{precision}' is for the CPU: on a GPU it is that of the engines")
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdecimal()):
        raise InputError(f"unknown device '{name}': auto, cpu, cuda or cuda:N")
    return CudaDevice(int(index or 0))


def usable_gpu() -> Device | None:
    """The first GPU; None where there is none, or cupy is not installed."""
    try:
        return open_device("cuda")
    except (EngineError, MissingDependencyError):
        return None
