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
        self._making: WeakValueDictionary[object, threading.Lock] = WeakValueDictionary()  # while somebody holds one
        self._lock = threading.Lock()

    def get(self, key: object, make: Callable[[], T]) -> T:
        """The object of `key`, which `make` makes if there is none. Other keys are made side by side."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            found = self._objects.get(key)
            if found is None:
                found = self._objects[key] = make()
            return found


def graph_files(path: Path) -> list[Path]:
    """A graph's file and the one with its weights, where there is one."""
    return sorted(path.parent.glob(f"{path.stem}.*"))


def file_key(path: Path) -> tuple[object, ...]:
    """What tells a graph's files from others of that name."""
    return path.resolve(), *((file.name, file_stamp(file)) for file in graph_files(path))


def file_stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written or replaced: its size, the time of its last change, its number on the disk.

    Raises OSError.
    """
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
