"""Slaney's mel scale (Auditory Toolbox, 1998): linear below 1 kHz, 15 mel there, then a factor of 6.4 every 27 mel."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_KNEE_HZ, _KNEE_MEL, _STEP = 1000.0, 15.0, np.log(6.4) / 27.0


@lru_cache(maxsize=8)
def mel_filters(sample_rate_hz: int, fft_samples: int, mel_bins: int, low_hz: float, high_hz: float) -> Floats:
    """Triangles between `low_hz` and `high_hz`, each of unit area: (fft bins, mel bins)."""
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
    """Hertz on the mel scale."""
    above = _KNEE_MEL + np.log(np.maximum(hz, _KNEE_HZ) / _KNEE_HZ) / _STEP
    return np.where(hz < _KNEE_HZ, hz * _KNEE_MEL / _KNEE_HZ, above)


def mel_to_hz(mel: Floats) -> Floats:
    """Its inverse."""
    above = _KNEE_HZ * np.exp(_STEP * (np.maximum(mel, _KNEE_MEL) - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, mel * _KNEE_HZ / _KNEE_MEL, above)
