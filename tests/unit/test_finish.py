"""Fades, loudness and another sample rate."""

import logging

import numpy as np
import pyloudnorm
import pytest

from runtime.errors import InputError, MissingDependencyError
from runtime.sound.finish import TRUE_PEAK, Finish, true_peak
from runtime.sound.saving import Sound

RATE = 16_000


def noise(seconds: float, level: float = 0.1) -> Sound:
    return Sound((np.random.default_rng().standard_normal(int(seconds * RATE)) * level).astype(np.float32), RATE)


def loudness(sound: Sound) -> float:
    return float(pyloudnorm.Meter(sound.sample_rate_hz).integrated_loudness(sound.waveform.astype(np.float64)))


def test_nothing_asked_for_changes_nothing() -> None:
    sound = noise(1.0)
    np.testing.assert_array_equal(Finish()(sound).waveform, sound.waveform)


def test_fades() -> None:
    sound = Sound(np.ones(RATE, np.float32), RATE)
    found = Finish(fade_s=(0.1, 0.25))(sound).waveform
    assert found[0] == found[-1] == 0
    assert (np.diff(found[:1600]) > 0).all()
    assert (np.diff(found[-4000:]) < 0).all()
    assert (found[1600:-4000] == 1).all()
    assert found[800] == pytest.approx(0.5)
    with pytest.raises(InputError, match="the sound has 1 s"):
        Finish(fade_s=(0.6, 0.5))(sound)


@pytest.mark.parametrize("wanted", [-30.0, -16.0])
def test_loudness_is_reached(wanted: float) -> None:
    assert loudness(Finish(loudness_lufs=wanted)(noise(3.0))) == pytest.approx(wanted, abs=0.05)


def test_true_peak_limits_loudness(caplog: pytest.LogCaptureFixture) -> None:
    clicks = noise(2.0, 1e-3)
    clicks.waveform[::4000] = 0.9
    with caplog.at_level(logging.WARNING):
        found = Finish(loudness_lufs=-5)(clicks)
    assert true_peak(found.waveform, RATE) == pytest.approx(TRUE_PEAK, rel=1e-3)
    assert "dBTP" in caplog.text
    assert loudness(found) < -5


def test_true_peak_lies_between_samples() -> None:
    tone = np.sin(2 * np.pi * 4000 * np.arange(RATE) / RATE + np.pi / 4).astype(np.float32)  # samples miss the crests
    assert np.abs(tone).max() == pytest.approx(0.5**0.5, rel=1e-3)
    assert true_peak(tone, RATE) == pytest.approx(1.0, rel=0.02)


def test_sample_rate_adds_nothing_above_the_models() -> None:
    found = Finish(sample_rate_hz=48_000)(noise(1.0))
    assert (found.sample_rate_hz, len(found.waveform)) == (48_000, 48_000)
    power = np.abs(np.fft.rfft(found.waveform)) ** 2
    assert power[8200:].sum() < 1e-4 * power.sum()


def test_what_cannot_have_a_loudness(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match=r"0\.4 s"):
        Finish(loudness_lufs=-20)(noise(0.3))
    silent = Sound(np.zeros(RATE, np.float32), RATE)
    assert not Finish(loudness_lufs=-20)(silent).waveform.any()
    assert "too quiet" in caplog.text


@pytest.mark.parametrize(
    "fields", [{"fade_s": (-1.0, 0.0)}, {"fade_s": (float("nan"), 0.0)}, {"loudness_lufs": 1.0}, {"sample_rate_hz": 3}]
)
def test_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Finish(**fields)  # type: ignore[arg-type]


def test_loudness_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.sound.finish.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="loudness"):
        Finish(loudness_lufs=-20)
