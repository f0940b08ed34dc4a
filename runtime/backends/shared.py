"""What several pipelines of one process share, so that the weights of a bundle are in memory once."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class Shared(Generic[T]):
    """Objects by key, each made once and kept for as long as somebody else refers to it. Safe between threads."""

    def __init__(self) -> None:
        self._objects: WeakValueDictionary[object, T] = WeakValueDictionary()
        self._making: dict[object, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: object, make: Callable[[], T]) -> T:
        """The object of `key`, which `make` makes if there is none. Other keys are made side by side."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        try:
            with making:
                found = self._objects.get(key)
                if found is None:
                    found = self._objects[key] = make()
                return found
        finally:
            with self._lock:
                if not making.locked():
                    self._making.pop(key, None)


def file_key(path: Path) -> tuple[object, ...]:
    """What tells a graph's files from others of that name: where they are, their sizes and when they were written."""
    files = sorted(path.parent.glob(f"{path.stem}.*"))
    stats = ((file, file.stat()) for file in files)
    return path.resolve(), *((file.name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for file, stat in stats)
