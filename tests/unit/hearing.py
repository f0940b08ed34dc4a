"""What can be measured of a sound: its brightness, speed, length and level; and what every clip has to be."""

import re

import numpy as np
import numpy.typing as npt
import pytest

from export.demo.sounds import SAMPLE_RATE_HZ, Clip

Signal = npt.NDArray[np.float64]


def spectrogram(audio: npt.NDArray[np.float32], hop: int = 80) -> Signal:
    """(frames, 257) power, frames of 32 ms."""
    frames = np.lib.stride_tricks.sliding_window_view(audio.astype(np.float64), 512)[::hop]
    return np.abs(np.fft.rfft(frames * np.hanning(512))) ** 2


def centroid_hz(power: Signal) -> float:
    """Of (frames, bins) or (bins,): the mean frequency, in octaves as pitch is heard, weighed by amplitude."""
    weights = np.sqrt(power.reshape(-1, power.shape[-1]).mean(axis=0))[1:]
    octaves = np.log2(np.arange(1, len(weights) + 1) * SAMPLE_RATE_HZ / 2 / len(weights))
    return float(2 ** np.average(octaves, weights=weights))


def modulation_hz(audio: npt.NDArray[np.float32]) -> float:
    """How fast the loudness in the bands of the spectrum changes: the centroid of its fluctuation."""
    bands = np.log(spectrogram(audio)[:, 1:].reshape(-1, 32, 8).mean(axis=2) + 1e-4)
    moving = (np.abs(np.fft.rfft(bands - bands.mean(axis=0), axis=0)) ** 2).sum(axis=1)
    hz = np.fft.rfftfreq(len(bands), 80 / SAMPLE_RATE_HZ)
    return float(2 ** np.average(np.log2(hz[1:]), weights=moving[1:]))


def sounding_s(audio: npt.NDArray[np.float32]) -> float:
    """From the first to the last moment that is not 40 dB below the peak."""
    heard = np.flatnonzero(np.abs(audio) > 0.01 * np.abs(audio).max())
    return float(heard[-1] - heard[0]) / SAMPLE_RATE_HZ


def repeats_hz(audio: npt.NDArray[np.float32]) -> float:
    """The strongest frequency, from 5 to 90 Hz, of the envelope."""
    envelope = np.square(audio.astype(np.float64))
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean(), 2**18))
    hz = np.arange(len(spectrum)) * SAMPLE_RATE_HZ / 2**18
    return float(hz[np.argmax(spectrum * ((hz > 5) & (hz < 90)))])


def crackling(audio: npt.NDArray[np.float32]) -> float:
    """The share of frames of 5 ms that are 6 dB above the median one."""
    power = np.square(audio[: len(audio) // 80 * 80]).reshape(-1, 80).mean(axis=1)
    return float(np.mean(power > 4 * np.median(power)))


def slope(audio: npt.NDArray[np.float32]) -> float:
    """By how many octaves a second the loudest frequency rises, where something is heard."""
    power = spectrogram(audio)
    heard = power.sum(axis=1) > 0.01 * power.sum(axis=1).max()
    octaves = np.log2(1 + power[heard, 1:].argmax(axis=1))
    at_s = np.flatnonzero(heard) * 80 / SAMPLE_RATE_HZ
    return float(np.polyfit(at_s, octaves, 1)[0])


def rms(audio: npt.NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(audio.astype(np.float64) ** 2)))


def check_clip(clip: Clip, seconds: float = 2.56) -> None:
    assert clip.audio.shape == (round(seconds * SAMPLE_RATE_HZ),)
    assert clip.audio.dtype == np.float32
    assert np.isfinite(clip.audio).all()
    assert np.abs(clip.audio).max() < 1
    assert rms(clip.audio) > 0.02
    assert rms(clip.audio) == pytest.approx(clip.settings["level_rms"], rel=1e-4)
    assert "{" not in clip.caption
    assert "  " not in clip.caption
    assert not re.search(r"\ba [aeio]|\ban [^aeiou]", clip.caption)
