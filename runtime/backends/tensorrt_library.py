"""The library TensorRT in both flavours: finding it, hearing what it says, and what it runs on."""

import importlib
import logging
from collections.abc import Collection
from typing import Any

from runtime.backends.open_device import usable_gpu
from runtime.backends.specs import BuiltFor
from runtime.errors import MissingDependencyError
from runtime.install import install_command

log = logging.getLogger(__name__)

FLAVOURS = ("tensorrt", "tensorrt_rtx")


def library(*flavours: str) -> tuple[Any, str]:
    """The first of the flavours that is installed, and its name. Raises MissingDependencyError if none is."""
    for name in flavours:
        try:
            return importlib.import_module(name), name
        except ImportError as error:
            cause = error
    extra = flavours[0].replace("_", "-")
    raise MissingDependencyError(f"{extra} is not installed: {install_command(extra)}") from cause


def Logger(trt: Any) -> Any:  # noqa: N802  makes a class of the library's
    """A logger for the library: warnings go to `logging`, the last error is kept in `last_error`."""

    class Messages(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.last_error = "no reason was given"

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.last_error = " ".join(message.split())
            elif severity == trt.ILogger.WARNING:
                log.info("%s", message)  # of interest to who builds engines, not to who renders audio

    return Messages()


def capabilities(trt: Any) -> tuple[str, ...]:
    """What a library says that it runs on, such as "8.9". Only RTX says; empty: not known."""
    known = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    digits = sorted(int(name[2:]) for name in known if name[:2] == "SM" and name[2:].isdecimal())
    return tuple(f"{number // 10}.{number % 10}" for number in digits)


def refusal(
    built_for: BuiltFor, flavour: str, version: str, capability: str, supported: Collection[str] = ()
) -> str | None:
    """Why an engine cannot run with a library of `flavour` and `version` on a GPU of `capability`; None if it can.

    `supported`: what the library runs on at all; empty: not known.
    """
    if built_for.flavour != flavour:
        return f"it is for {built_for.flavour}, here is {flavour}"
    later = _numbers(version) >= _numbers(built_for.version)
    if version != built_for.version and not (built_for.version_compatible and later):
        kind = "or later" if built_for.version_compatible else "exactly"
        return f"it needs {flavour} {built_for.version} {kind}, here is {version}"
    if supported and capability not in supported:
        has = ", ".join(supported)
        return f"{flavour} {version} does not run on compute capability {capability} (it has {has}): use tensorrt here"
    if built_for.accepted_capabilities and capability not in built_for.accepted_capabilities:
        return f"it is for compute capability {', '.join(built_for.accepted_capabilities)}, this GPU has {capability}"
    if built_for.compute_capability in (None, capability):
        return None
    if built_for.hardware_compatible and _numbers(capability) >= (8, 0):
        return None
    return f"it was built for compute capability {built_for.compute_capability}, this GPU has {capability}"


def gpu_capability() -> str | None:
    """Compute capability of the first GPU, such as "9.0"; None where there is none."""
    gpu = usable_gpu()
    return None if gpu is None else gpu.compute_capability


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
