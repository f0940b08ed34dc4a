"""Building a folder so that it appears whole or not at all, by one process at a time."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import BuildError
from runtime.bundle.manifest import MANIFEST


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`; when the block ends well it becomes `out`, else it is removed.

    An earlier bundle at `out` stays usable until then. Raises BuildError if another process builds the same bundle, or
    `out` is something else than a bundle.
    """
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BuildError(f"{out} exists and is no bundle: choose another --out, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"{out.parent} cannot be made: {error.strerror}") from error
    partial, old = out.parent / f".{out.name}.partial", out.parent / f".{out.name}.old"
    with _lock(out):
        if old.exists() and not out.exists():  # a build was killed between its two renames
            old.rename(out)
        for leftover in (partial, old):  # of a build that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            if out.exists():
                out.rename(old)
            partial.rename(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if old.exists() and not out.exists():
                old.rename(out)
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    path = out.parent / f".{out.name}.lock"
    try:
        handle = path.open("w")
    except OSError as error:
        raise BuildError(f"{out.parent} is not writable: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(f"another build of {out} is running: wait for it, or choose another --out") from None
        if not path.exists() or os.fstat(handle.fileno()).st_ino != path.stat().st_ino:
            raise BuildError(f"another build of {out} has just ended: try again")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
