"""Building a folder so that it appears whole or not at all, by one process at a time."""

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from export.destination import resolve_destination
from export.errors import BuildError

_OURS = ".trt-audioldm2"  # in the names of what a build keeps beside its bundle: nobody else's files are called so
_PARTIAL, _OLD, _LOCK = f"{_OURS}-partial", f"{_OURS}-old", f"{_OURS}-lock"


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`; when the block ends well it becomes `out`, else it is removed.

    An earlier bundle at `out` stays usable until then. Raises BuildError if another process builds the same bundle, or
    if `out` is no place for one (see `export.destination`), which is looked at again before `out` is replaced.
    """
    out = resolve_destination(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"{out.parent} cannot be made: {error.strerror}") from error
    with _lock(out):
        _clean(out)
        _clean_after_dead_builds(beside=out)
        partial, old = _beside(out, _PARTIAL), _beside(out, _OLD)
        try:
            partial.mkdir()
            yield partial
            resolve_destination(out)
            if out.exists():
                out.rename(old)  # and not removed: it comes back if the next line fails
            partial.rename(out)
        finally:
            _clean(out)


def _beside(out: Path, suffix: str) -> Path:
    return out.parent / f".{out.name}{suffix}"


def _clean(out: Path) -> None:
    """Remove what a build of `out` leaves beside it. A bundle that it has moved away and not replaced comes back."""
    old = _beside(out, _OLD)
    if old.exists() and not out.exists():
        old.rename(out)
    for leftover in (_beside(out, _PARTIAL), old):
        shutil.rmtree(leftover, ignore_errors=True)


def _clean_after_dead_builds(beside: Path) -> None:
    """Remove what killed builds of other bundles have left in the same folder: gigabytes, at times."""
    for path in beside.parent.glob(f".*{_LOCK}"):
        other = beside.with_name(path.name.removeprefix(".").removesuffix(_LOCK))
        if other != beside:
            with contextlib.suppress(BuildError, OSError), _lock(other):
                _clean(other)


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Hold the lock of `out`. Raises BuildError if another process has it: the system frees that of a killed one."""
    path = _beside(out, _LOCK)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BuildError(f"another build of {out} is running: wait for it, or choose another --out") from None
    except OSError as error:
        raise BuildError(f"{path} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # where an open file cannot be removed, releasing the lock removes it
            path.unlink()
        lock.release()
