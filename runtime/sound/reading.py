"""Sound files, and arrays of samples, to one waveform at the model's rate."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from runtime.checks import integer, real_array, shown
from runtime.errors import InputError
from runtime.sound.whole_file import reason
from runtime.wording import readable

Floats = npt.NDArray[np.float32]
LONGEST_S = 3600.0  # of a sound that is given: an hour at 16 kHz is 230 MB
MOST_CHANNELS, RATES_HZ = 64, (1_000, 768_000)
_BLOCK_FRAMES = 1 << 18


def read_waveform(source: Any, sampling_rate: Any, rate_hz: int) -> Floats:
    """One waveform, (samples,), at `rate_hz`, the mean of its channels.

    `source` is the path of a file that libsndfile reads (wav, flac, mp3, ogg and more), the bytes of one, or an array
    of samples, (samples,) or (channels, samples), whose rate is `sampling_rate`. Raises InputError for anything else.
    """
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        if sampling_rate is not None:
            raise InputError("sampling_rate is for audio in an array: a file tells its own")
        found = _read_file(source, rate_hz)
    else:
        found = _read_array(source, sampling_rate, rate_hz)
    if not np.isfinite(found).all():
        raise InputError("audio holds NaN or Inf")
    if len(found) < 2:
        raise InputError(
            f"audio has {'one sample' if len(found) else 'no samples'}: there is nothing to be heard in it"
        )
    return found


def _read_file(source: Any, rate_hz: int) -> Floats:
    """The file, block by block, so that no more than the result is in memory."""
    what = (
        "the file" if isinstance(source, bytes | bytearray | memoryview) else f"'{readable(os.fspath(source), 4096)}'"
    )
    try:
        with _opened(source) as stream, soundfile.SoundFile(stream) as file:
            _check_size(file.frames, file.samplerate, file.channels)
            return np.concatenate([np.zeros(0, np.float32), *_resampled(file, rate_hz)])
    except soundfile.LibsndfileError as error:
        raise InputError(f"audio: {what} is no sound file that can be read: {error.error_string}") from error
    except (OSError, ValueError, TypeError) as error:  # a folder, no permission; a null byte in its name
        raise InputError(f"audio: {what} cannot be read: {reason(error)}") from error


def _opened(source: Any) -> BinaryIO:
    """What libsndfile reads from: it says "System error" of everything that is wrong with a path."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    path = Path(os.fspath(source))
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError("it is no file, but a device, a pipe or a socket")  # which may never end
    return path.open("rb")


def _resampled(file: soundfile.SoundFile, rate_hz: int) -> Iterator[Floats]:
    """The mean of its channels at another rate, in parts."""
    stream = soxr.ResampleStream(file.samplerate, rate_hz, 1, dtype="float32", quality="HQ")
    while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
        mono = block.mean(axis=1, dtype=np.float32)
        yield mono if file.samplerate == rate_hz else stream.resample_chunk(mono)
    if file.samplerate != rate_hz:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _read_array(source: Any, sampling_rate: Any, rate_hz: int) -> Floats:
    samples = real_array("audio", source)
    if samples.ndim not in (1, 2):
        raise InputError(f"audio has shape {samples.shape}: it has to be (samples,) or (channels, samples)")
    if sampling_rate is None:
        raise InputError("sampling_rate is missing: audio in an array does not tell its rate")
    rate = integer("sampling_rate", sampling_rate, *RATES_HZ)
    channels = samples[None] if samples.ndim == 1 else samples
    _check_size(channels.shape[1], rate, len(channels))
    mono = channels.mean(axis=0, dtype=np.float32)
    return mono if rate == rate_hz else np.asarray(soxr.resample(mono, rate, rate_hz, quality="HQ"), np.float32)


def _check_size(frames: int, rate_hz: int, channels: int) -> None:
    if not 1 <= channels <= MOST_CHANNELS:
        raise InputError(f"audio has {channels} channels, 1 to {MOST_CHANNELS} can be: is it (samples, channels)?")
    low, high = RATES_HZ
    if not low <= rate_hz <= high:
        raise InputError(f"audio has a rate of {shown(rate_hz)} Hz, {low} to {high} Hz can be")
    if frames / rate_hz > LONGEST_S:
        raise InputError(f"audio is {frames / rate_hz:.0f} s long, at most {LONGEST_S:.0f} s can be given")
