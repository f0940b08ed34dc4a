"""One finished sound: its file and, where it is asked for, its picture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.sound.files import write_audio
from runtime.sound.plot import try_plot

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sound:
    """The waveform that is kept of one prompt."""

    waveform: Floats  # (samples,), nominally -1 to 1
    sample_rate_hz: int
    score: float | None = None  # CLAP's cosine similarity with the prompt; None where nothing was ranked

    @classmethod
    def of_row(cls, row: int, audios: Floats, sample_rate_hz: int, scores: Floats | None) -> "Sound":
        """One row of what a call made: audios (rows, samples), scores (rows,) where they were ranked."""
        return cls(audios[row], sample_rate_hz, None if scores is None else float(scores[row]))

    @property
    def duration_s(self) -> float:
        """Its length in seconds."""
        return len(self.waveform) / self.sample_rate_hz


def save(sound: Sound, target: str | Path, *, as_float: bool, picture: Path | None, title: str) -> Path | None:
    """Write the sound to `target`, as `write_audio` does, and draw its spectrogram where `picture` says.

    Returns the path of a picture that was drawn. Raises InputError if the sound cannot be written; a picture that
    cannot be drawn is a warning, since the sound is there.
    """
    write_audio(target, sound.waveform, sound.sample_rate_hz, as_float=as_float)
    return picture and try_plot(sound.waveform, sound.sample_rate_hz, picture, title)
