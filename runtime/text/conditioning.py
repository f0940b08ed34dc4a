"""What the UNet is conditioned on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from runtime.backends.device import Array

STATES, MASK = "encoder_hidden_states_1", "encoder_attention_mask_1"  # (rows, tokens, width) and (rows, tokens)
NEW_STATES = "encoder_hidden_states"  # (rows, new tokens, width), as many in every row
CLASS = "class_labels"  # (rows, width)


@dataclass(frozen=True)
class Conditioning:
    """Arrays by the names of the UNet's inputs, one row a waveform; a UNet may lack some of them.

    Those of texts' tokens, STATES and its MASK of ones and zeros, are padded where texts of several lengths meet.
    """

    feeds: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values())))

    def arguments(self) -> list[Array]:
        """The arrays in the order of the reference's `encode_prompt`."""
        return [self.feeds[name] for name in (CLASS, STATES, MASK, NEW_STATES) if name in self.feeds]

    def row(self, index: int) -> "Conditioning":
        """One row alone."""
        return self._each(lambda _, array: array[index : index + 1])

    def weighted(self, weights: Array) -> "Conditioning":
        """The same with the states of the texts' tokens scaled, by (rows, tokens)."""
        return Conditioning({**self.feeds, STATES: self.feeds[STATES] * weights[:, :, None]})

    def on(self, xp: ModuleType) -> "Conditioning":
        """The same in arrays of `xp`."""
        return self._each(lambda _, array: xp.asarray(array))

    @classmethod
    def pair(cls, negative: "Conditioning", positive: "Conditioning") -> "Conditioning":
        """Rows of both, the negative ones first, the shorter one padded."""
        parts = _of_one_length([negative, positive])
        return cls({name: np.concatenate([part.feeds[name] for part in parts]) for name in positive.feeds})

    @classmethod
    def batch(cls, prompts: "Sequence[Conditioning]", repeats: int) -> "Conditioning":
        """Stack prompts into one batch, each row `repeats` times.

        Rows are in the UNet's order: all negative ones, then all positive ones. Shorter prompts are padded and masked.
        """
        parts = _of_one_length(prompts)

        def stack(name: str, _: Array) -> Array:
            rows = np.stack([part.feeds[name] for part in parts], axis=1)  # (guided pair, prompts, ...)
            return np.repeat(rows.reshape(-1, *rows.shape[2:]), repeats, axis=0)

        return parts[0]._each(stack)

    def _each(self, function: Callable[[str, Array], Array]) -> "Conditioning":
        return Conditioning({name: function(name, array) for name, array in self.feeds.items()})


def _of_one_length(parts: Sequence[Conditioning]) -> list[Conditioning]:
    """The same with masked tokens up to the longest text."""
    longest = max((part.feeds[MASK].shape[1] for part in parts if MASK in part.feeds), default=0)

    def padded(name: str, array: Array) -> Array:
        if name not in (STATES, MASK):
            return array
        return np.pad(array, [(0, 0), (0, longest - array.shape[1]), (0, 0)][: array.ndim])

    return [part._each(padded) for part in parts]
