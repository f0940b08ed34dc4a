"""Weights with which a HiFi-GAN generator starts as a bank of oscillators (as DDSP, Engel et al., 2020, has them).

A generator sees no time but that of its frames: over frames that are alike it repeats itself with each of them, and can
make multiples of the frame rate alone. Random weights need very long to find even these. So its stages start as

    frames: log-mel to amplitudes  64 bins -> 384 kinks -> 192, 64 of them magnitudes -> 96, 79 of them amplitudes
    2 kHz:  oscillators in 8 bands  real and imaginary parts, each with its negative: leaky units pass halves of waves
    16 kHz: the bands side by side  the waveform, with its negative

and training goes on from there with all of them.
"""

import math
from typing import Any

import numpy as np
import torch

from export.demo.training.mel import FFT_SAMPLES, MEL_BINS, SAMPLE_RATE_HZ, filters

KINKS = (-5.5, -3.5, -1.8, -0.4, 0.9)  # where the magnitudes' exponential bends; silent below the first
UNITS = len(KINKS) + 1  # one more looks down, to hold the slope below the first at zero
STEEPEST = 4.0  # slope above the last, as a multiple of the exponential there
LEAK, LAST_LEAK = 0.1, 0.01  # slopes of the leaky units for negative values
BAND_HZ, BANDS = 1000, 8


@torch.no_grad()
def start_as_oscillators(vocoder: Any, seed: int = 0) -> None:
    """Set all weights of a SpeechT5HifiGan of the shape in `parts.SIZES`; what the bank does not use is small."""
    rng = torch.Generator().manual_seed(seed)
    for weight in vocoder.parameters():
        weight.copy_(torch.randn(weight.shape, generator=rng) * 0.1 / math.sqrt(max(1, weight[0].numel())))
        if weight.ndim == 1:
            weight.zero_()
    for block in vocoder.resblocks:  # they add nothing yet
        for convolution in block.convs2:
            convolution.weight.zero_()
    frame, amplitude, band, sample = vocoder.upsampler
    rates = vocoder.config.upsample_rates
    per_frame = math.prod(rates)
    _exponential(vocoder.conv_pre, frame)
    frame_hz = SAMPLE_RATE_HZ / per_frame
    hz = frame_hz * np.arange(1, round(SAMPLE_RATE_HZ / 2 / frame_hz))  # (oscillators,)
    amplitude.weight[:MEL_BINS].zero_()
    amplitude.weight[:, : len(hz)].zero_()
    amplitude.weight[:MEL_BINS, : len(hz), 0] = torch.from_numpy(_amplitudes(hz).T)
    _oscillators(band, hz, rates[2], rates[3], rng)
    _bands(sample, rates[3])
    vocoder.conv_post.weight.zero_()
    vocoder.conv_post.weight[0, :2, vocoder.conv_post.weight.shape[2] // 2] = torch.tensor([1.0, -1.0]) / (
        1 + LAST_LEAK
    )


def _exponential(first: Any, second: Any) -> None:
    """Each bin's magnitude from its logarithm, in straight pieces: the first layer bends, the second adds up."""
    at = np.asarray(KINKS)
    values = np.exp(at) - np.exp(at[0])
    slopes = np.concatenate([[0.0], np.diff(values) / np.diff(at), [STEEPEST * np.exp(at[-1])]])
    # slope of each unit in each piece: those that look up, at every kink, and the one that looks down at the first
    pieces = np.arange(len(slopes))[:, None]
    up = np.where(pieces > np.arange(len(at))[None], 1.0, LEAK)
    down = np.where(pieces > 0, -LEAK, -1.0)
    weights = np.linalg.solve(np.concatenate([up, down], axis=1), slopes)
    at_first = sum(w * LEAK * (at[0] - kink) for w, kink in zip(weights[:-1], at, strict=True))
    middle = first.weight.shape[2] // 2
    first.weight[: MEL_BINS * UNITS].zero_()
    second.weight[:, :MEL_BINS].zero_()
    for mel_bin in range(MEL_BINS):
        for unit in range(UNITS):
            row, looks_down = mel_bin * UNITS + unit, unit == UNITS - 1
            first.weight[row, mel_bin, middle] = -1.0 if looks_down else 1.0
            first.bias[row] = KINKS[0] if looks_down else -KINKS[unit]
            second.weight[row, mel_bin, 0] = float(weights[unit])
    second.bias[:MEL_BINS] = -float(at_first)


def _amplitudes(hz: np.ndarray) -> np.ndarray:
    """(oscillators, mel bins): each oscillator takes the magnitudes of the Fourier bins that are nearest to it."""
    of_bins = np.linalg.pinv(filters().numpy())  # (mel bins, fft bins)
    bins_hz = np.arange(of_bins.shape[1]) * SAMPLE_RATE_HZ / FFT_SAMPLES
    nearest = np.abs(bins_hz[:, None] - hz[None]).argmin(axis=1)
    taken = (nearest[:, None] == np.arange(len(hz))[None]) & (bins_hz[:, None] > 0)
    # a sine of amplitude 1 has magnitudes that add up to the window's length / 2
    found: np.ndarray = (of_bins @ taken).T * 2 / FFT_SAMPLES
    return found.astype(np.float32)


def _oscillators(layer: Any, hz: np.ndarray, rate: int, later: int, rng: torch.Generator) -> None:
    """From each amplitude to its band, as a cosine and a sine of random phase, fading from frame to frame."""
    at = np.arange(layer.weight.shape[2]) - layer.padding[0]  # (taps,) from the frame's beginning, at the layer's rate
    fade = np.clip(1 - np.abs(at - (rate - 1) / 2) / rate, 0, None)
    phases = 2 * np.pi * torch.rand(len(hz), generator=rng).numpy()
    layer.weight[: len(hz)].zero_()
    layer.weight[:, : 4 * BANDS].zero_()
    for oscillator, (each_hz, phase) in enumerate(zip(hz, phases, strict=True)):
        turn = 2 * np.pi * each_hz * at * later / SAMPLE_RATE_HZ + phase
        parts = np.stack([np.cos(turn), -np.cos(turn), np.sin(turn), -np.sin(turn)])
        first = 4 * int((each_hz - 1) // BAND_HZ)
        layer.weight[oscillator, first : first + 4] = torch.from_numpy((fade * parts).astype(np.float32))


def _bands(layer: Any, rate: int) -> None:
    """From each band to the waveform: an interpolating low-pass, moved up to the band."""
    taps = layer.weight.shape[2]
    at = np.arange(taps) - layer.padding[0]
    middle = at - (rate - 1) / 2
    low_pass = np.sinc(middle / rate) * np.kaiser(taps, 4.0)
    layer.weight[: 4 * BANDS].zero_()
    layer.weight[:, :2].zero_()
    for number in range(BANDS):
        turn = 2 * np.pi * (number + 0.5) * BAND_HZ * middle / SAMPLE_RATE_HZ
        parts = np.stack([np.cos(turn), -np.cos(turn), -np.sin(turn), np.sin(turn)]) * low_pass / (1 + LEAK)
        wave = torch.from_numpy(parts.astype(np.float32))
        layer.weight[4 * number : 4 * number + 4, 0] = wave
        layer.weight[4 * number : 4 * number + 4, 1] = -wave
