"""Ranking by CLAP: how well each waveform fits its prompt."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import soxr

from runtime.manifest import FeatureExtractorSpec

Floats = npt.NDArray[np.float32]


def log_mels(audios: Floats, sample_rate_hz: int, spec: FeatureExtractorSpec) -> Floats:
    """CLAP's features of each waveform, (rows, samples) to (rows, 1, frames, mel_bins)."""
    return np.stack([log_mel(resample(audio, sample_rate_hz, spec.sample_rate_hz), spec) for audio in audios])


def cosine_scores(text_embeds: Floats, audio_embeds: Floats) -> Floats:
    """Cosine similarity of each waveform with its own text; both (rows, width), of unit length."""
    scores: Floats = (audio_embeds * text_embeds).sum(axis=1)
    return scores


def resample(audio: Floats, from_hz: int, to_hz: int) -> Floats:
    """Band-limited resampling at soxr's HQ setting; the length is rounded up, as librosa.resample does."""
    if from_hz == to_hz:
        return audio
    wanted = -(-len(audio) * to_hz // from_hz)
    resampled = soxr.resample(audio, from_hz, to_hz, quality="HQ")[:wanted]
    return np.pad(resampled, (0, wanted - len(resampled)))


def log_mel(audio: npt.NDArray[np.floating], spec: FeatureExtractorSpec) -> Floats:
    """Log-mel features of one waveform, (1, frames, mel_bins), as ClapFeatureExtractor's `rand_trunc` mode has them.

    Short audio is repeated or padded to `max_samples`. Of long audio the middle is taken, where the reference cuts at a
    random place: one input has one score.
    """
    fitted = _fit(np.asarray(audio, np.float64), spec.max_samples, spec.padding)
    half = spec.fft_samples // 2
    padded = np.pad(fitted, half, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, spec.fft_samples)[:: spec.hop_samples]
    window = np.hanning(spec.fft_samples + 1)[:-1]  # periodic
    power = np.abs(np.fft.rfft(frames * window)) ** 2  # (frames, bins)
    mel = np.maximum(power @ mel_filters(spec), 1e-10)
    return (10.0 * np.log10(mel)).astype(np.float32)[None]


def _fit(audio: npt.NDArray[np.float64], size: int, padding: str) -> npt.NDArray[np.float64]:
    if len(audio) > size:
        start = (len(audio) - size) // 2
        return audio[start : start + size]
    if padding == "repeat":
        return np.tile(audio, size // len(audio) + 1)[:size]
    if padding == "repeatpad":
        audio = np.tile(audio, size // len(audio))
    return np.pad(audio, (0, size - len(audio)))


@lru_cache(maxsize=4)
def mel_filters(spec: FeatureExtractorSpec) -> npt.NDArray[np.float64]:
    """Triangles on Slaney's mel scale (Auditory Toolbox, 1998), each of unit area: (fft bins, mel bins)."""
    low, high = hz_to_mel(np.asarray([spec.min_frequency_hz, spec.max_frequency_hz]))
    edges = _mel_to_hz(np.linspace(low, high, spec.mel_bins + 2))
    bins = np.linspace(0, spec.sample_rate_hz / 2, spec.fft_samples // 2 + 1)
    widths = np.diff(edges)
    ramps = edges[None, :] - bins[:, None]  # (fft bins, mel bins + 2)
    rising, falling = -ramps[:, :-2] / widths[:-1], ramps[:, 2:] / widths[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    filters: npt.NDArray[np.float64] = triangles * (2.0 / (edges[2:] - edges[:-2]))
    return filters


# Slaney's scale: linear below 1 kHz, 15 mel there, then a factor of 6.4 every 27 mel
_KNEE_HZ, _KNEE_MEL, _STEP = 1000.0, 15.0, np.log(6.4) / 27.0


def hz_to_mel(hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Hertz on Slaney's mel scale."""
    above = _KNEE_MEL + np.log(np.maximum(hz, _KNEE_HZ) / _KNEE_HZ) / _STEP
    return np.where(hz < _KNEE_HZ, hz * _KNEE_MEL / _KNEE_HZ, above)


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = _KNEE_HZ * np.exp(_STEP * (np.maximum(mel, _KNEE_MEL) - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, mel * _KNEE_HZ / _KNEE_MEL, above)
