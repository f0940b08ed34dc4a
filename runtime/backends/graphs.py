"""Work that a GPU replays: the one cache of what was captured in CUDA graphs."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from runtime.backends.device import Array, Device, Replay
from runtime.backends.engine import Engine
from runtime.backends.kept import Kept
from runtime.errors import CaptureError

logger = logging.getLogger(__name__)

Arrays = tuple[Array, ...]
MOST = 32  # what is kept, one a piece of work and its shapes; the memory that each owns is its activations
MOST_MET = 1024  # keys of work that came once


class Graphs:
    """Captured work by name and shapes. Where nothing can be captured, work is just done.

    Texts are padded to a multiple of `token_multiple` tokens where they are part of captured work.
    """

    def __init__(
        self, engines: Mapping[str, Engine], device: Device, *, token_multiple: int = 1, enabled: bool = True
    ) -> None:
        self._engines, self.token_multiple = engines, token_multiple
        self._gpu = device.gpu if enabled else None
        self._kept: Kept[Any] = Kept(MOST if self._gpu is not None else 0)
        self._met: dict[object, None] = {}
        self._warned = False
        if self._gpu is not None:
            self._gpu.relief.append(self.clear)

    def captures(self, *engines: str) -> bool:
        """Whether runs of the named engines can be captured here."""
        return self._gpu is not None and all(self._engines[engine].capturable for engine in engines)

    def borrowed(self, key: tuple[object, ...], make: Callable[[], Any]) -> AbstractContextManager[Any]:
        """What `make` once made for this key; see `Kept.borrowed`. A key has things of one type."""
        return self._kept.borrowed(key, make)

    def captured(
        self, work: Callable[[], Sequence[Array]], restore: Callable[[], None] = lambda: None
    ) -> tuple[Replay, Sequence[Array]] | None:
        """See `Gpu.capture`. None, with a warning the first time, where it cannot be captured: then run it plainly."""
        if self._gpu is None:
            return None
        try:
            return self._gpu.capture(work, restore)
        except CaptureError as error:
            if not self._warned:
                logger.warning("a part of the work runs without a CUDA graph, and so more slowly: %s", error)
            self._warned = True
            return None

    def run(self, name: str, engine: str, function: Callable[..., Arrays], *arrays: Array) -> Arrays:
        """`function(*arrays)`; the results are the caller's own. Captured only if the engine that it runs can be.

        It is captured when its shapes come for the second time, since most never come again. A function may depend on
        its arrays only: whatever else differs belongs into its name.
        """
        if not self.captures(engine):
            return function(*arrays)
        key = (name, engine, *((array.shape, array.dtype.name) for array in arrays))
        if key not in self._met:
            if len(self._met) >= MOST_MET:
                self._met.clear()
            self._met[key] = None
            return function(*arrays)
        with self.borrowed(key, lambda: _Recording(self, function, arrays)) as recording:
            outputs: Arrays = recording.run(function, arrays)
        return outputs

    def engine(self, name: str) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
        """A function that runs the named engine on those of its feeds that the engine takes: one launch, as above."""
        engine = self._engines[name]

        def work(*arrays: Array) -> Arrays:
            outputs = engine.run(dict(zip(engine.inputs, arrays, strict=True)))
            return tuple(outputs[key] for key in engine.outputs)

        def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
            outputs = self.run("engine", name, work, *(feeds[key] for key in engine.inputs))
            return dict(zip(engine.outputs, outputs, strict=True))

        return run

    def clear(self) -> None:
        """Forget all: graphs point into engines."""
        self._kept.clear()


class _Recording:
    """A function's graph for one set of shapes, over inputs of its own; plain runs where there can be no graph."""

    def __init__(self, graphs: Graphs, function: Callable[..., Arrays], arrays: Arrays) -> None:
        self._inputs = inputs = tuple(array.copy() for array in arrays)
        self._graph = graphs.captured(lambda: function(*inputs))

    def run(self, function: Callable[..., Arrays], arrays: Arrays) -> Arrays:
        if self._graph is None:
            return function(*arrays)
        for own, array in zip(self._inputs, arrays, strict=True):
            own[...] = array
        replay, outputs = self._graph
        replay()
        return tuple(output.copy() for output in outputs)  # the next replay writes into the same memory


def rounded(tokens: int, multiple: int, most: int | None) -> int:
    """The next multiple, so that captured work has few shapes, or the most that an engine takes."""
    up = -(-tokens // multiple) * multiple
    return up if most is None else min(up, most)
