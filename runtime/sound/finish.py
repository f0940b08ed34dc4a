"""The last touches to a sound: fades, loudness, another sample rate."""

import logging
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from runtime.checks import integer, number
from runtime.errors import InputError, MissingDependencyError
from runtime.install import install_command
from runtime.sound.files import SILENCE_PEAK
from runtime.sound.resample import resample
from runtime.sound.saving import Sound

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
RATES_HZ = 1_000, 192_000
LOUDNESS_LUFS = -70.0, 0.0
TRUE_PEAK = 10 ** (-1 / 20)  # -1 dBTP, as EBU R 128 asks for
_OVERSAMPLING = 4  # of ITU-R BS.1770, annex 2
_SHORTEST_S = 0.4  # a block of ITU-R BS.1770: nothing shorter has a loudness


@dataclass(frozen=True)
class Finish:
    """What is done to a finished sound, in this order. Raises InputError and MissingDependencyError when it is made.

    - `fade_s`: seconds in which it comes in, and in which it goes out.
    - `loudness_lufs`: its integrated loudness (ITU-R BS.1770). Where that would bring its true peak above -1 dBTP, it
      is left as much quieter, with a warning: nothing is ever compressed or clipped.
    - `sample_rate_hz`: the rate of the file. A higher one than the model's adds nothing above half of the model's.
    """

    fade_s: tuple[float, float] = (0.0, 0.0)
    loudness_lufs: float | None = None
    sample_rate_hz: int | None = None

    def __post_init__(self) -> None:
        for seconds in self.fade_s:
            number("fade", seconds, 0.0)
        if self.loudness_lufs is not None:
            number("loudness", self.loudness_lufs, *LOUDNESS_LUFS)
            if find_spec("pyloudnorm") is None:
                raise MissingDependencyError(f"loudness needs pyloudnorm: {install_command('loudness')}")
        if self.sample_rate_hz is not None:
            integer("sample_rate", self.sample_rate_hz, *RATES_HZ)

    def check(self, seconds: float) -> None:
        """Raise InputError if a sound of this length is too short for it."""
        if sum(self.fade_s) > seconds:
            raise InputError(f"fade takes {sum(self.fade_s):g} s, the sound has {seconds:g} s")
        if self.loudness_lufs is not None and seconds < _SHORTEST_S:
            raise InputError(f"loudness is of {_SHORTEST_S:g} s and more: the sound has {seconds:g} s")

    def __call__(self, sound: Sound) -> Sound:
        """The sound with all of it done. Raises InputError as `check` does."""
        self.check(sound.duration_s)
        audio = faded(sound.waveform, *(round(seconds * sound.sample_rate_hz) for seconds in self.fade_s))
        if self.loudness_lufs is not None:
            audio = at_loudness(audio, sound.sample_rate_hz, self.loudness_lufs)
        rate = self.sample_rate_hz or sound.sample_rate_hz
        return replace(sound, waveform=resample(audio, sound.sample_rate_hz, rate), sample_rate_hz=rate)


PLAIN = Finish()  # the sound as it is


def faded(audio: Floats, rising: int, falling: int) -> Floats:
    """The waveform (samples,) with a raised cosine over its first and its last samples."""
    gain = np.ones(len(audio), np.float32)
    gain[:rising] = 0.5 - 0.5 * np.cos(np.pi * np.arange(rising) / max(rising, 1))
    gain[len(audio) - falling :] *= (0.5 - 0.5 * np.cos(np.pi * np.arange(falling) / max(falling, 1)))[::-1]
    return audio * gain


def at_loudness(audio: Floats, rate_hz: int, wanted_lufs: float) -> Floats:
    """The waveform (samples,) at that integrated loudness, or as near below it as its true peak allows."""
    found = _loudness(audio, rate_hz)
    if not np.isfinite(found):
        logger.warning("the sound is too quiet to have a loudness: it is left as it is")
        return audio
    gain = 10 ** ((wanted_lufs - found) / 20)
    most = TRUE_PEAK / max(true_peak(audio, rate_hz), SILENCE_PEAK)
    if gain > most:
        reached = found + 20 * np.log10(most)
        logger.warning("loudness is %.1f LUFS, not %g: more would exceed -1 dBTP", reached, wanted_lufs)
    return audio * np.float32(min(gain, most))


def true_peak(audio: Floats, rate_hz: int) -> float:
    """The highest magnitude between samples, too, of (samples,): four times oversampled, as ITU-R BS.1770 says."""
    between: Any = soxr.resample(audio, rate_hz, _OVERSAMPLING * rate_hz, quality="VHQ")
    return float(max(np.abs(between).max(initial=0.0), np.abs(audio).max(initial=0.0)))


def _loudness(audio: Floats, rate_hz: int) -> float:
    import pyloudnorm

    with np.errstate(divide="ignore"):
        return float(pyloudnorm.Meter(rate_hz).integrated_loudness(audio.astype(np.float64)))
