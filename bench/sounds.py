"""Sounds that no training has drawn, with their captions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.demo.sounds import draw, generator

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RealClips:
    """Rendered sounds of the held-out split, one a row. The sounds of a class stand together."""

    audios: Floats  # (rows, samples) at 16 kHz
    names: tuple[str, ...]  # of the classes
    captions: tuple[str, ...]

    def taken(self, which: npt.NDArray[np.bool_]) -> "RealClips":
        """The clips whose rows are true in `which`."""
        rows = np.flatnonzero(which)
        return RealClips(self.audios[rows], tuple(self.names[i] for i in rows), tuple(self.captions[i] for i in rows))


def real_clips(classes: Sequence[str], per_class: int, seed: int, seconds: float) -> RealClips:
    """Draw `per_class` held-out clips of each class. Raises InputError for an unknown class or length."""
    clips = []
    for name in classes:
        rng = generator(name, seed)
        clips += [draw(name, rng, "held_out", seconds) for _ in range(per_class)]
    audios = np.stack([clip.audio for clip in clips])
    return RealClips(audios, tuple(clip.name for clip in clips), tuple(clip.caption for clip in clips))
