"""GPT2's keys and values, in arrays that have room for more."""

from collections.abc import Mapping

import numpy as np

from runtime.backends.device import Array
from runtime.backends.engine import Engine

GROWTH = 128  # places that are added where there is no room left


class Cache:
    """What the language model has seen, and a mask of which places hold something, of which the last is the next one's.

    While there is room every run has one shape, which a CUDA graph needs. There are `room` places at first, and
    never more than `most`.
    """

    def __init__(self, engine: Engine, mask: Array, room: int, most: int) -> None:
        rows, xp = len(mask), engine.xp
        self._filled, self._room, self._most = 0, room, most
        self._seen = xp.zeros((rows, room + 1), mask.dtype)
        self._seen[:, -1] = 1
        self._past = {
            name: xp.zeros((rows, spec.min_shape[1], room, spec.min_shape[3]), spec.dtype)
            for name, spec in engine.inputs.items()
            if name.startswith("past_")
        }

    def empty(self) -> dict[str, Array]:
        """The past of a first run."""
        return {name: array[:, :, :0].copy() for name, array in self._past.items()}

    def add(self, outputs: Mapping[str, Array], mask: Array | int) -> dict[str, Array]:
        """Take in what a run gave for new positions, and which of them count. Returns the next run's past and mask."""
        new = next(array.shape[2] for name, array in outputs.items() if name.startswith("new_"))
        if self._filled + new > self._room:
            self._grow(min(GROWTH, self._most - self._room))
        places = slice(self._filled, self._filled + new)
        for name, array in self._past.items():
            array[:, :, places] = outputs[name.replace("past_", "new_")]
        self._seen[:, places] = mask
        self._filled += new
        return {"attention_mask": self._seen, **self._past}

    def _grow(self, places: int) -> None:
        past = self._past.items()
        self._past = {name: np.pad(array, [(0, 0), (0, 0), (0, places), (0, 0)]) for name, array in past}
        self._seen = np.pad(self._seen, [(0, 0), (0, places)])
        self._seen[:, self._room] = 0
        self._seen[:, -1] = 1
        self._room += places
