"""Ranking by CLAP: how well each waveform fits its prompt."""

import numpy as np
import numpy.typing as npt
import soxr

from runtime.backends.device import Device
from runtime.backends.engine import Engine
from runtime.bundle.manifest import FeatureExtractorSpec
from runtime.sound.mel import mel_filters

Floats = npt.NDArray[np.float32]


def clap_scores(
    encoder: Engine, texts: Floats, audios: Floats, sample_rate_hz: int, spec: FeatureExtractorSpec, device: Device
) -> Floats:
    """How well each waveform of (rows, samples) fits its own text of (rows, width): CLAP's cosine similarity, (rows,).

    `encoder` is CLAP's audio tower on `device`, `texts` are the text tower's embeddings. Raises NumericsError for NaN.
    """
    outputs = encoder.run({"input_features": device.xp.asarray(log_mels(audios, sample_rate_hz, spec))})
    heard = device.to_host(device.watch("audio_encoder", outputs["audio_embeds"]))
    device.verify()
    return cosine_scores(texts, heard)


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
    filters = mel_filters(
        spec.sample_rate_hz, spec.fft_samples, spec.mel_bins, spec.min_frequency_hz, spec.max_frequency_hz
    )
    mel = np.maximum(power @ filters, 1e-10)
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
