"""Ranking by CLAP, a model that embeds texts and sounds in one space: how well each waveform fits its prompt."""

import numpy as np
import numpy.typing as npt

from runtime.backends.device import Device
from runtime.backends.engine import Engine
from runtime.bundle.manifest import FeatureExtractorSpec
from runtime.sound.mel import magnitudes, mel_filters
from runtime.sound.resample import resample

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
    """The features that CLAP's audio encoder takes: waveforms (rows, samples) to (rows, 1, frames, mel_bins), in dB.

    Each waveform is first resampled to the rate of the feature extractor.
    """
    return np.stack([log_mel(resample(audio, sample_rate_hz, spec.sample_rate_hz), spec) for audio in audios])


def cosine_scores(text_embeds: Floats, audio_embeds: Floats) -> Floats:
    """The cosine similarity of each waveform with its own text, shape (rows,).

    Both arguments are embeddings of unit length, (rows, width); row i of one belongs to row i of the other.
    """
    scores: Floats = (audio_embeds * text_embeds).sum(axis=1)
    return scores


def best_first(scores: Floats, candidates: int) -> list[int]:
    """The order of rows that puts the best of each prompt's `candidates` first; scores (rows,), prompt after prompt."""
    best = np.argsort(-scores.reshape(-1, candidates), axis=1, kind="stable")
    return [int(row) for row in (best + np.arange(len(best))[:, None] * candidates).reshape(-1)]


def log_mel(audio: npt.NDArray[np.floating], spec: FeatureExtractorSpec) -> Floats:
    """The features of one waveform, (samples,) to (1, frames, mel_bins) in dB, as ClapFeatureExtractor has them.

    Short audio is repeated or padded to `max_samples`. Of long audio the middle is taken, where the reference cuts at a
    random place: one input has one score.
    """
    fitted = _fit(np.asarray(audio, np.float64), spec.max_samples, spec.padding)
    power = magnitudes(fitted, spec.fft_samples, spec.hop_samples) ** 2  # (frames, bins)
    filters = mel_filters(
        spec.sample_rate_hz, spec.fft_samples, spec.mel_bins, spec.min_frequency_hz, spec.max_frequency_hz
    )
    mel = np.maximum(power @ filters, 1e-10)
    decibels: Floats = (10.0 * np.log10(mel)).astype(np.float32)
    return decibels[None]


def _fit(audio: npt.NDArray[np.float64], size: int, padding: str) -> npt.NDArray[np.float64]:
    """Exactly `size` samples: the middle of long audio; short audio repeated or padded as the config says."""
    if len(audio) > size:
        start = (len(audio) - size) // 2
        return audio[start : start + size]
    if padding == "repeat":
        return np.tile(audio, size // len(audio) + 1)[:size]
    if padding == "repeatpad":
        audio = np.tile(audio, size // len(audio))
    return np.pad(audio, (0, size - len(audio)))
