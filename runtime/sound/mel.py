"""Slaney's mel scale (Auditory Toolbox, 1998): linear up to 1 kHz, or 15 mel, then 27 mel a factor of 6.4."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

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
