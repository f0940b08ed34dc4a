"""Waveforms to files: WAV (16-bit PCM or float) and FLAC, with a stated clip policy."""

import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from runtime.errors import InputError

logger = logging.getLogger(__name__)

EXTENSIONS = (".wav", ".flac")
SILENCE_PEAK = 1e-4  # -80 dBFS: below this a render is reported as silent


def check_output(path: Path, *, as_float: bool = False) -> None:
    """Raise InputError unless a file of this name can be written: extension, folder, permission."""
    if path.suffix.lower() not in EXTENSIONS:
        raise InputError(f"output '{path}': the extension must be {' or '.join(EXTENSIONS)}")
    if as_float and path.suffix.lower() == ".flac":
        raise InputError(f"output '{path}': FLAC holds no floating point; use .wav with --float")
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # a new file; its folder is looked at below
    except (OSError, ValueError) as error:  # a name too long, a folder that may not be entered, a null byte
        raise InputError(f"output '{path}' cannot be used: {error}") from error
    if path.is_dir():
        raise InputError(f"output '{path}' is a folder")
    if not path.parent.is_dir():
        raise InputError(f"output '{path}': folder '{path.parent}' does not exist")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise InputError(f"output '{path}' is not writable")


def write_audio(path: Path, waveform: npt.NDArray[np.float32], sample_rate_hz: int, *, as_float: bool = False) -> None:
    """Write one waveform, shape (samples,). The file appears whole or not at all.

    Integer formats hold -1 to 1: a louder waveform is scaled down to fit, with a warning, never clipped; nothing is
    ever amplified. Float files keep the samples as they are. Raises InputError if the file cannot be written.
    """
    check_output(path, as_float=as_float)
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak < SILENCE_PEAK:
        logger.warning("the render is silent: its peak is %.1e", peak)
    if peak > 1.0 and not as_float:
        logger.warning("peak %.2f is beyond full scale: scaled by %.3f to fit (use --float to keep it)", peak, 1 / peak)
        waveform = waveform / peak
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-", suffix=path.suffix)
    except OSError as error:
        raise InputError(f"output '{path}' could not be written: {error}") from error
    os.close(handle)
    partial = Path(name)
    try:
        soundfile.write(partial, waveform, sample_rate_hz, subtype="FLOAT" if as_float else "PCM_16")
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except (OSError, soundfile.LibsndfileError) as error:
        raise InputError(f"output '{path}' could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
