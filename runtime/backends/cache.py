"""Where backends keep what they compiled. A cache that cannot be used costs time, and never a render."""

import contextlib
import hashlib
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

CACHE_BYTES = 1 << 30  # of all entries of one kind together
_DIGEST = hashlib.sha256().digest_size  # an entry starts with the digest of what follows


def read_cached(kind: str, key: str) -> bytes | None:
    """What was kept under `key`; None if there is nothing, it cannot be read, or it is not what was written."""
    path = _path(kind, key)
    if path is None:
        return None
    try:
        entry = path.read_bytes()
    except OSError:
        return None
    digest, data = entry[:_DIGEST], entry[_DIGEST:]
    if hashlib.sha256(data).digest() != digest:
        logger.warning("%s is damaged: what it held is compiled again", path)
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # it was used: `_prune` removes the others first
    return data


def keep_cached(kind: str, key: str, data: bytes) -> None:
    """Keep `data` under `key`, and remove the entries that were used longest ago above CACHE_BYTES."""
    path = _path(kind, key)
    if path is None:
        return
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.write_bytes(hashlib.sha256(data).digest() + data)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        logger.info("what was compiled is not kept: %s", error)
        return
    _prune(path.parent)


def cache_folder() -> Path | None:
    """The part of the user's cache folder that is ours; it may not exist yet. None for a user without a home."""
    with contextlib.suppress(RuntimeError):  # no home is known
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return root / "trt-audioldm2"
    return None


def _path(kind: str, key: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / kind / key


def _prune(folder: Path) -> None:
    with contextlib.suppress(OSError):  # somebody else prunes too
        files = sorted(((file.stat(), file) for file in folder.iterdir()), key=lambda pair: -pair[0].st_mtime)
        total = 0
        for stat, file in files:
            total += stat.st_size
            if total > CACHE_BYTES:
                file.unlink()
