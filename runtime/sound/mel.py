"""Mel spectrograms on Slaney's scale.

The scale (Auditory Toolbox, 1998) is linear up to 1 kHz, which is 15 mel, then has 27 mel a factor of 6.4.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.backends.device import Array
from runtime.bundle.manifest import AudioSpec
from runtime.errors import BundleError

Floats = npt.NDArray[np.float64]

QUIETEST = 1e-5  # of a mel bin's magnitude, before its logarithm is taken
_BLOCK = 2048  # frames that are transformed at once: what more would save in time, it would take in memory
_KNEE_HZ, _KNEE_MEL, _STEP = 1000.0, 15.0, np.log(6.4) / 27.0


@lru_cache(maxsize=8)
def mel_filters(sample_rate_hz: int, fft_samples: int, mel_bins: int, low_hz: float, high_hz: float) -> Floats:
    """Weights that turn a power spectrum into mel bins: an array of shape (fft_samples // 2 + 1, mel_bins).

    Each column is a triangle over frequency, of unit area; the triangles are evenly spaced on the mel scale between
    `low_hz` and `high_hz`.
    """
    low, high = hz_to_mel(np.asarray([low_hz, high_hz]))
    edges = mel_to_hz(np.linspace(low, high, mel_bins + 2))
    bins = np.linspace(0, sample_rate_hz / 2, fft_samples // 2 + 1)
    widths = np.diff(edges)
    ramps = edges[None, :] - bins[:, None]  # (fft bins, mel bins + 2)
    rising, falling = -ramps[:, :-2] / widths[:-1], ramps[:, 2:] / widths[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    filters: Floats = triangles * (2.0 / (edges[2:] - edges[:-2]))
    return filters


def hz_to_mel(hz: Floats) -> Floats:
    """Frequencies in hertz to mels, of any shape."""
    above = _KNEE_MEL + np.log(np.maximum(hz, _KNEE_HZ) / _KNEE_HZ) / _STEP
    return np.where(hz < _KNEE_HZ, hz * _KNEE_MEL / _KNEE_HZ, above)


def mel_to_hz(mel: Floats) -> Floats:
    """Mels to frequencies in hertz, of any shape: the inverse of `hz_to_mel`."""
    above = _KNEE_HZ * np.exp(_STEP * (np.maximum(mel, _KNEE_MEL) - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, mel * _KNEE_HZ / _KNEE_MEL, above)


def log_mels(waveforms: Array, audio: AudioSpec, xp: Any = np) -> Array:
    """What the autoencoder takes: waveforms (rows, samples) to (rows, samples // hop, mel_bins), natural logarithms.

    Source: the original project's TacotronSTFT, with its last frame left out as there: magnitudes, not powers, through
    filters of unit area. Arrays are of `xp`, NumPy or CuPy. Raises BundleError where the bundle has no encoder.
    """
    if (spec := audio.mel) is None:
        raise BundleError("this bundle was built before audio could be given: build it again")
    weights = (spec.fft_samples, audio.mel_bins, spec.min_frequency_hz, spec.max_frequency_hz)
    filters = xp.asarray(mel_filters(audio.sample_rate_hz, *weights))
    rows = []
    for waveform in waveforms:
        mel = magnitudes(waveform, spec.fft_samples, audio.hop_samples, xp) @ filters
        rows.append(xp.log(xp.maximum(mel[: len(waveform) // audio.hop_samples], QUIETEST)).astype(np.float32))
    return xp.stack(rows)


def magnitudes(audio: Array, fft_samples: int, hop_samples: int, xp: Any = np) -> Array:
    """Magnitudes of the short-time Fourier transform of (samples,): (samples // hop + 1, fft bins), float64.

    Frames are centred, the waveform is reflected at its ends, the window is a periodic Hann.
    """
    padded = xp.pad(xp.asarray(audio, np.float64), fft_samples // 2, mode="reflect")
    frames = xp.lib.stride_tricks.sliding_window_view(padded, fft_samples)[::hop_samples]
    window = xp.asarray(np.hanning(fft_samples + 1)[:-1])
    blocks = (frames[first : first + _BLOCK] * window for first in range(0, len(frames), _BLOCK))
    return xp.concatenate([xp.abs(xp.fft.rfft(block)) for block in blocks])
