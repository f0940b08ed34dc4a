"""What is dear to make and is kept for the next who needs the same."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Up to `most` things by key; the one that was used longest ago goes first. For one thread at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._things: OrderedDict[object, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._things)

    @contextmanager
    def borrowed(self, key: object, make: Callable[[], T]) -> Iterator[T]:
        """What `make` once made for this key: taken out while it is in use, so that two users never share one.

        Room for a new one is made before `make` is called. What was in use when an error came is not kept, since nobody
        knows what its buffers hold.
        """
        thing = self._things.pop(key, None)
        if thing is None:
            self._shrink(self._most - 1)
            thing = make()
        try:
            yield thing
        except GeneratorExit:  # the user left early, which harms nothing
            self._keep(key, thing)
            raise
        self._keep(key, thing)

    def clear(self) -> None:
        """Let go of all."""
        self._things.clear()

    def _keep(self, key: object, thing: T) -> None:
        self._things[key] = thing
        self._shrink(self._most)

    def _shrink(self, size: int) -> None:
        while len(self._things) > max(size, 0):
            self._things.popitem(last=False)
