"""Work that a GPU replays: the one cache of what was captured in CUDA graphs."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from runtime.backends.device import Array, Device, Replay
from runtime.backends.engine import Engine

Arrays = tuple[Array, ...]
KEPT = 32  # what is kept, one a piece of work and its shapes; the memory that each owns is its activations
T = TypeVar("T")


class Graphs:
    """Captured work by name and shapes. Where nothing can be captured, work is just done."""

    def __init__(self, engines: Mapping[str, Engine], device: Device, *, enabled: bool = True) -> None:
        self._engines, self._device = engines, device
        self._enabled = enabled and device.gpu is not None
        self._known: OrderedDict[tuple[object, ...], object] = OrderedDict()

    def captures(self, engine: str) -> bool:
        """Whether runs of the named engine can be captured here."""
        return self._enabled and self._engines[engine].capturable

    @contextmanager
    def borrowed(self, key: tuple[object, ...], make: Callable[[], T]) -> Iterator[T]:
        """What `make` once made for this key: out of the cache while it is in use, so that two runs never share one.

        It does not come back after an error, when nobody knows what its buffers hold.
        """
        kept: T = self._known.pop(key, None) or make()  # type: ignore[assignment]  # a key has one type
        try:
            yield kept
        except GeneratorExit:  # the run was left early, which harms nothing
            self._keep(key, kept)
            raise
        self._keep(key, kept)

    def run(self, name: str, engine: str, function: Callable[..., Arrays], *arrays: Array) -> Arrays:
        """`function(*arrays)`; the results are the caller's own. Captured only if the engine that it runs can be.

        A function may depend on its arrays only: whatever else differs belongs into its name.
        """
        if not self.captures(engine):
            return function(*arrays)
        key = (name, *((array.shape, array.dtype.name) for array in arrays))
        with self.borrowed(key, lambda: _Recording(self._device)) as recording:
            return recording.run(function, arrays)

    def clear(self) -> None:
        """Forget all: graphs point into engines."""
        self._known.clear()

    def _keep(self, key: tuple[object, ...], kept: object) -> None:
        if self._enabled:
            self._known[key] = kept
        while len(self._known) > KEPT:
            self._known.popitem(last=False)


class _Recording:
    """A function's graph for one set of shapes: captured at the second run, since most shapes never come again."""

    def __init__(self, device: Device) -> None:
        self._device, self._runs = device, 0
        self._inputs: Arrays = ()
        self._outputs: Arrays = ()
        self._replay: Replay | None = None

    def run(self, function: Callable[..., Arrays], arrays: Arrays) -> Arrays:
        self._runs += 1
        if self._runs == 1:
            return function(*arrays)
        if self._replay is None:
            self._inputs = tuple(array.copy() for array in arrays)
            self._replay = self._device.capture(self._work(function))
        for own, array in zip(self._inputs, arrays, strict=True):
            own[...] = array
        self._replay()
        return tuple(output.copy() for output in self._outputs)  # the next replay writes into the same memory

    def _work(self, function: Callable[..., Arrays]) -> Callable[[], None]:
        def work() -> None:
            self._outputs = function(*self._inputs)

        return work
