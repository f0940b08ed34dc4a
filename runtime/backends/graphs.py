"""Work that a GPU replays: the one cache of what was captured in CUDA graphs."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from runtime.backends.device import Array, Device, Replay
from runtime.backends.engine import Engine
from runtime.backends.kept import Kept

Arrays = tuple[Array, ...]
MOST = 32  # what is kept, one a piece of work and its shapes; the memory that each owns is its activations


class Graphs:
    """Captured work by name and shapes. Where nothing can be captured, work is just done."""

    def __init__(self, engines: Mapping[str, Engine], device: Device, *, enabled: bool = True) -> None:
        self._engines, self._device = engines, device
        self._enabled = enabled and device.gpu is not None
        self._kept: Kept[Any] = Kept(MOST if self._enabled else 0)

    def captures(self, engine: str) -> bool:
        """Whether runs of the named engine can be captured here."""
        return self._enabled and self._engines[engine].capturable

    def borrowed(self, key: tuple[object, ...], make: Callable[[], Any]) -> AbstractContextManager[Any]:
        """What `make` once made for this key; see `Kept.borrowed`. A key has things of one type."""
        return self._kept.borrowed(key, make)

    def run(self, name: str, engine: str, function: Callable[..., Arrays], *arrays: Array) -> Arrays:
        """`function(*arrays)`; the results are the caller's own. Captured only if the engine that it runs can be.

        A function may depend on its arrays only: whatever else differs belongs into its name.
        """
        if not self.captures(engine):
            return function(*arrays)
        key = (name, *((array.shape, array.dtype.name) for array in arrays))
        with self.borrowed(key, lambda: _Recording(self._device)) as recording:
            outputs: Arrays = recording.run(function, arrays)
        return outputs

    def clear(self) -> None:
        """Forget all: graphs point into engines."""
        self._kept.clear()


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
