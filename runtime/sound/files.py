"""Waveforms to sound files or to standard output, with a stated policy for what is too loud."""

import io
import logging
import os
import sys
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from runtime.errors import InputError
from runtime.sound.whole_file import STANDARD_OUTPUT, find_place, quoted, reason, write_whole

logger = logging.getLogger(__name__)

SILENCE_PEAK = 1e-4  # -80 dBFS: below this a render is reported as silent
BLOCK_SAMPLES = 2**16  # libsndfile 1.2.2 crashes when it encodes many minutes of Vorbis at once


class Format(NamedTuple):
    """A kind of sound file, in libsndfile's words."""

    container: str
    subtype: str


FORMATS = {
    ".wav": Format("WAV", "PCM_16"),
    ".flac": Format("FLAC", "PCM_16"),
    ".ogg": Format("OGG", "VORBIS"),
    ".opus": Format("OGG", "OPUS"),
    ".mp3": Format("MP3", "MPEG_LAYER_III"),
}
FLOAT = Format("WAV", "FLOAT")


def check_output(
    target: str | Path, *, as_float: bool = False, sample_rate_hz: int | None = None, source: str | Path | None = None
) -> None:
    """Raise InputError unless a waveform can be written to `target`: call it before the work of making one.

    `target` is a file's name, whose extension chooses the format, or the string "-" for WAV on standard output. Give a
    user's name as the string that it was: a Path has lost the slash of "sound.wav/". With `as_float` the samples are
    32-bit floats, which WAV alone holds. Some formats take certain sample rates only: give the rate where it is known.
    A file `source` that the waveform comes from is not to be lost.
    """
    if target == STANDARD_OUTPUT:
        _standard_output()
    elif find_place(target) == (source and Path(os.path.realpath(source))):
        raise InputError(f"output {quoted(target)} is the sound that is read: give another name")
    _format_of(target, as_float)
    if sample_rate_hz is not None:
        check_rate(target, sample_rate_hz, as_float=as_float)


def check_rate(target: str | Path, sample_rate_hz: int, *, as_float: bool = False) -> None:
    """Raise InputError unless the format of `target` takes this sample rate."""
    _encode(target, np.zeros(1, np.float32), sample_rate_hz, _format_of(target, as_float))


def write_audio(
    target: str | Path, waveform: npt.NDArray[np.float32], sample_rate_hz: int, *, as_float: bool = False
) -> None:
    """Write one waveform, shape (samples,), full scale being -1 to 1, to `target`, which is as in `check_output`.

    A file appears whole or not at all: see `write_whole` for links, modes and other writers. A waveform that is louder
    than full scale is scaled down to fit, with a warning, never clipped; nothing is ever amplified. With `as_float` the
    samples stay as they are. A silent one is reported. Raises InputError if it holds NaN or Inf, or cannot be written.
    """
    data = sound_file(target, waveform, sample_rate_hz, as_float=as_float)
    if target == STANDARD_OUTPUT:
        _write_standard_output(data)
    else:
        write_whole(target, data)


def sound_file(
    target: str | Path, waveform: npt.NDArray[np.float32], sample_rate_hz: int, *, as_float: bool = False
) -> bytes:
    """The bytes that `write_audio` writes to `target`, which need not be a place that can be written to."""
    format_ = _format_of(target, as_float)
    peak = float(np.abs(waveform).max(initial=0.0))
    if not np.isfinite(peak):
        raise InputError(f"output {quoted(target)} was not written: the waveform holds NaN or Inf")
    if peak < SILENCE_PEAK:
        logger.warning("the render is silent: its peak is %.1e", peak)
    return _encode(target, waveform if as_float else within_full_scale(waveform), sample_rate_hz, format_)


def within_full_scale(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The waveform, scaled down with a warning where it is louder than full scale."""
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak <= 1.0:
        return waveform
    logger.warning("peak %.2f is beyond full scale: scaled by %.3f to fit (use --float to keep it)", peak, 1 / peak)
    return waveform / peak


def as_integers(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Samples from -1 to 1 as integers of 16 bits, what is beyond clipped.

    Integers that libsndfile reads as such samples come back as they were, which its own writing does not grant.
    """
    whole: npt.NDArray[np.int16] = np.rint(waveform * np.float32(32768)).clip(-32768, 32767).astype(np.int16)
    return whole


def picture_beside(target: str | Path) -> Path:
    """Where the spectrogram of `target` goes: its name with .png. Raises InputError for standard output."""
    if target == STANDARD_OUTPUT:
        raise InputError("--plot draws beside a sound file: with --output - there is none")
    return Path(target).with_suffix(".png")


def _format_of(target: str | Path, as_float: bool) -> Format:
    extension = ".wav" if target == STANDARD_OUTPUT else Path(target).suffix.lower()
    if extension not in FORMATS:
        *others, last = FORMATS
        raise InputError(f"output {quoted(target)}: the extension must be {', '.join(others)} or {last}")
    if as_float and extension != ".wav":
        raise InputError(f"output {quoted(target)}: {extension} holds no floating point; use .wav with --float")
    format_ = FLOAT if as_float else FORMATS[extension]
    known = format_.container in soundfile.available_formats()
    if not known or format_.subtype not in soundfile.available_subtypes(format_.container):
        library = f"libsndfile {soundfile.__libsndfile_version__}"
        raise InputError(f"output {quoted(target)}: {library} cannot write {extension} here; use .wav or .flac")
    return format_


def _encode(target: str | Path, waveform: npt.NDArray[np.float32], sample_rate_hz: int, format_: Format) -> bytes:
    """The bytes of the whole file. In memory, since libsndfile says "System error" whatever goes wrong with a disk."""
    buffer = io.BytesIO()
    try:
        with soundfile.SoundFile(
            buffer, "w", sample_rate_hz, channels=1, format=format_.container, subtype=format_.subtype
        ) as file:
            samples = as_integers(waveform) if format_.subtype == "PCM_16" else waveform
            for start in range(0, len(samples), BLOCK_SAMPLES):
                file.write(samples[start : start + BLOCK_SAMPLES])
    except soundfile.LibsndfileError as error:
        said = error.error_string.removeprefix("Error : ")
        raise InputError(f"output {quoted(target)} could not be written at {sample_rate_hz} Hz: {said}") from error
    return buffer.getvalue()


def _standard_output() -> BinaryIO:
    """Standard output without its buffer, which would be flushed again, and fail again, when the program ends."""
    if sys.stdout is None or not hasattr(sys.stdout, "buffer"):
        raise InputError("standard output is closed: --output - has nowhere to write to")
    if sys.stdout.isatty():
        raise InputError("standard output is a terminal: pipe it into a program or a file, or give --output a name")
    raw: BinaryIO = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)
    return raw


def _write_standard_output(data: bytes) -> None:
    raw = _standard_output()
    left = memoryview(data)
    try:
        sys.stdout.flush()
        while left:
            left = left[raw.write(left) or 0 :]  # None: a pipe that does not block is full for now
    except OSError as error:
        raise InputError(f"standard output could not be written: {reason(error)}") from error
