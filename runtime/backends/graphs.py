"""Work of a call that a GPU replays: captured when its shapes come a second time."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from runtime.backends.device import Array, Device, Replay
from runtime.backends.engine import Engine

Arrays = tuple[Array, ...]
KEPT = 32  # captured shapes; the memory that each owns is its activations


@dataclass(frozen=True)
class _Captured:
    inputs: Arrays
    outputs: Arrays
    replay: Replay


class Graphs:
    """Calls functions of arrays, and replays those that were called before with the same shapes.

    A function may depend on its arrays only: whatever else differs belongs into its name. It returns a tuple. Where
    nothing can be captured it is just called.
    """

    def __init__(self, engines: Mapping[str, Engine], device: Device, *, enabled: bool = True) -> None:
        self._engines, self._device = engines, device
        self._enabled = enabled and device.name != "cpu"
        self._known: OrderedDict[tuple[object, ...], _Captured | None] = OrderedDict()

    def run(self, name: str, engine: str, function: Callable[..., Arrays], *arrays: Array) -> Arrays:
        """`function(*arrays)`; the results are the caller's own. Captured only if the engine that it runs can be."""
        if not self._enabled or not self._engines[engine].capturable:
            return function(*arrays)
        key = (name, *((array.shape, array.dtype.name) for array in arrays))
        captured = self._known.get(key)
        if captured is None and key not in self._known:  # the first time: most shapes never come again
            self._remember(key, None)
            return function(*arrays)
        if captured is None:
            captured = self._capture(function, arrays)
        self._remember(key, captured)
        for own, array in zip(captured.inputs, arrays, strict=True):
            own[...] = array
        captured.replay()
        return tuple(output.copy() for output in captured.outputs)

    def clear(self) -> None:
        """Forget all: graphs point into engines."""
        self._known.clear()

    def _capture(self, function: Callable[..., Arrays], arrays: Arrays) -> _Captured:
        inputs = tuple(array.copy() for array in arrays)
        outputs: list[Arrays] = []

        def work() -> None:
            outputs[:] = [function(*inputs)]

        replay = self._device.capture(work)
        return _Captured(inputs, outputs[0], replay)

    def _remember(self, key: tuple[object, ...], captured: _Captured | None) -> None:
        self._known[key] = captured
        self._known.move_to_end(key)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
