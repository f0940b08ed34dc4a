"""One finished sound: its file and, where it is asked for, its picture."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.sound.files import write_audio
from runtime.sound.plot import plot_spectrogram
from runtime.wording import one_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sound:
    """The waveform that is kept of one prompt."""

    waveform: npt.NDArray[np.float32]  # (samples,), nominally -1 to 1
    sample_rate_hz: int
    score: float | None = None  # CLAP's cosine similarity with the prompt; None where nothing was ranked

    @property
    def duration_s(self) -> float:
        """Its length in seconds."""
        return len(self.waveform) / self.sample_rate_hz


def save(sound: Sound, output: Path, *, as_float: bool, plot: bool, title: str) -> Path | None:
    """Write the sound to `output`; with `plot` draw its spectrogram beside it as PNG, and return the picture's path.

    Raises InputError if the sound cannot be written. A picture that cannot be drawn is a warning: the sound is there.
    """
    write_audio(output, sound.waveform, sound.sample_rate_hz, as_float=as_float)
    if not plot:
        return None
    picture = output.with_suffix(".png")
    try:
        plot_spectrogram(sound.waveform, sound.sample_rate_hz, picture, title)
    except Exception as error:  # of a full disk, or of whatever the drawing library meets
        logger.warning("no spectrogram '%s': %s", picture, one_line(error))
        return None
    return picture
