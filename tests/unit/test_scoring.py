import librosa
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from transformers import ClapFeatureExtractor

from runtime.bundle.manifest import FeatureExtractorSpec
from runtime.sound.resample import resample
from runtime.sound.scoring import cosine_scores, log_mel, log_mels
from tests.unit.helpers import EXTRACTOR

OTHER = FeatureExtractorSpec(
    sample_rate_hz=16_000,
    fft_samples=512,
    hop_samples=160,
    mel_bins=32,
    min_frequency_hz=50,
    max_frequency_hz=7_000,
    max_samples=16_000,
    padding="repeatpad",
)


def audible(samples: int, rate_hz: int) -> npt.NDArray[np.float32]:
    """Noise and three tones, RMS 0.1, new at each call."""
    rng = np.random.default_rng()
    time_s = np.arange(samples) / rate_hz
    tones = sum(np.sin(2 * np.pi * hz * time_s + rng.uniform(0, 6)) for hz in rng.uniform(80, 0.4 * rate_hz, 3))
    signal = tones + rng.standard_normal(samples)
    return (signal * (0.1 / np.sqrt(np.mean(signal**2)))).astype(np.float32)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours.astype(np.float64) - theirs) / np.linalg.norm(theirs))


def reference(audio: npt.NDArray[np.float32], spec: FeatureExtractorSpec) -> np.ndarray:
    extractor = ClapFeatureExtractor(
        feature_size=spec.mel_bins,
        sampling_rate=spec.sample_rate_hz,
        hop_length=spec.hop_samples,
        max_length_s=spec.max_samples // spec.sample_rate_hz,
        fft_window_size=spec.fft_samples,
        frequency_min=spec.min_frequency_hz,
        frequency_max=spec.max_frequency_hz,
        truncation="rand_trunc",
        padding=spec.padding,
    )
    features = extractor(audio, sampling_rate=spec.sample_rate_hz, return_tensors="np")["input_features"]
    return np.asarray(features)[0]  # (1, frames, mel bins)


@pytest.fixture
def cut_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference draws where to cut long audio; make it draw the middle."""
    monkeypatch.setattr(np.random, "randint", lambda low, high: (low + high - 1) // 2)


@pytest.mark.usefixtures("cut_in_the_middle")
@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
# 1.00006 is one sample too many: an odd overhang has no exact middle
@pytest.mark.parametrize("share", [0.07, 0.3, 0.5, 0.51, 0.999, 1.0, 1.00006, 1.5, 2.3])
def test_log_mel_equals_the_extractor(share: float, padding: str) -> None:
    spec = msgspec.structs.replace(OTHER, padding=padding)
    audio = audible(round(share * spec.max_samples), spec.sample_rate_hz)
    ours = log_mel(audio, spec)
    assert ours.dtype == np.float32
    assert relative_error(ours, reference(audio, spec)) <= 1e-7


@pytest.mark.usefixtures("cut_in_the_middle")
@pytest.mark.parametrize("seconds", [0.5, 2.56, 10.0, 10.24])
def test_log_mel_at_the_published_size(seconds: float) -> None:
    audio = audible(round(seconds * EXTRACTOR.sample_rate_hz), EXTRACTOR.sample_rate_hz)
    ours = log_mel(audio, EXTRACTOR)
    assert ours.shape == (1, 1001, 64)
    assert relative_error(ours, reference(audio, EXTRACTOR)) <= 1e-7


def test_log_mel_of_silence_is_the_floor() -> None:
    silence = np.zeros(8_000, np.float32)
    np.testing.assert_array_equal(log_mel(silence, OTHER), reference(silence, OTHER).astype(np.float32))


def test_log_mel_of_long_audio_is_repeatable() -> None:
    audio = audible(20_000, OTHER.sample_rate_hz)
    np.testing.assert_array_equal(log_mel(audio, OTHER), log_mel(audio, OTHER))


@pytest.mark.parametrize("rates_hz", [(16_000, 48_000), (22_050, 48_000), (48_000, 16_000)])
@pytest.mark.parametrize("samples", [640, 4_097, 16_001, 81_920])
def test_resample_equals_librosa(samples: int, rates_hz: tuple[int, int]) -> None:
    audio = audible(samples, rates_hz[0])
    ours, theirs = resample(audio, *rates_hz), librosa.resample(audio, orig_sr=rates_hz[0], target_sr=rates_hz[1])
    assert ours.dtype == theirs.dtype
    assert relative_error(ours, theirs) <= 1e-7


def test_resample_to_its_own_rate_is_free() -> None:
    audio = audible(100, 16_000)
    assert resample(audio, 16_000, 16_000) is audio


def test_features_and_scores_are_row_by_row() -> None:
    audios = np.stack([audible(8_000, 16_000), 1e-3 * audible(8_000, 16_000), audible(8_000, 16_000)])
    features = log_mels(audios, 16_000, EXTRACTOR)
    assert features.shape == (3, 1, 1001, 64)
    for row, audio in enumerate(audios):
        np.testing.assert_array_equal(features[row], log_mel(resample(audio, 16_000, 48_000), EXTRACTOR))
    texts = np.asarray([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    np.testing.assert_allclose(cosine_scores(texts, texts[[0, 0, 1]]), [1, 0, 0.8], rtol=1e-6)
