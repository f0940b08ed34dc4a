"""The HiFi-GAN generator (Kong et al., 2020): mel loss and multi-resolution STFT loss (Yamamoto et al., 2020)."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from export.demo.training.data import Dataset
from export.demo.training.mel import HOP_SAMPLES, log_mel, magnitudes
from export.demo.training.oscillators import start_as_oscillators
from export.loop import Losses, Plan, train

PLAN = Plan(steps=500, batch=16, learning_rate=2e-5, warmup=50, ema=0.99)  # larger rates unlearn the start
FRAMES = 48  # of a segment
RESOLUTIONS = ((2048, 512), (1024, 256), (512, 128), (256, 64))  # window, hop
QUIET, QUIET_MEL = 1e-2, 2e-4  # magnitudes below are not told apart: silence is not worth the network's effort


def run(folder: Path, vocoder: Any, plan: Plan, minutes: float) -> bool:
    """Train the vocoder, kept in `folder`/vocoder.pt. Returns whether all steps are done."""
    data = Dataset.open(folder / "data")
    start_as_oscillators(vocoder)
    vocoder.conv_pre.requires_grad_(False)  # its kinks stay where they are
    last = data.mels.shape[1] - FRAMES

    def losses(rng: np.random.Generator, batch: int) -> Losses:
        clips = rng.integers(len(data.audio), size=batch)
        starts = rng.integers(0, last + 1, size=batch)
        mels, segments = [], []
        for clip, start in zip(clips, starts, strict=True):
            mels.append(data.mels[data.audio_rows[clip], start : start + FRAMES])
            segments.append(data.audio[clip, start * HOP_SAMPLES : (start + FRAMES) * HOP_SAMPLES])
        truth = torch.from_numpy(np.stack(segments).astype(np.float32) / 32767)
        made = vocoder(torch.from_numpy(np.stack(mels).astype(np.float32)))
        mel = (_audible(log_mel(made)) - _audible(log_mel(truth))).abs().mean()
        stft = torch.stack([_stft_loss(made, truth, window, hop) for window, hop in RESOLUTIONS]).mean()
        return {"loss": mel + stft, "mel": mel, "stft": stft}

    return train(folder / "vocoder.pt", nn.ModuleDict({"vocoder": vocoder}), plan, losses, minutes)


def _audible(log_mel: torch.Tensor) -> torch.Tensor:
    return log_mel.clamp(min=math.log(QUIET_MEL))


def _stft_loss(made: torch.Tensor, truth: torch.Tensor, window: int, hop: int) -> torch.Tensor:
    """Spectral convergence over the batch, so that silent rows do not divide by nothing, and log magnitude."""
    ours, theirs = magnitudes(made, window, hop), magnitudes(truth, window, hop)
    convergence = (ours - theirs).norm() / theirs.norm()
    return convergence + (ours.clamp(min=QUIET).log() - theirs.clamp(min=QUIET).log()).abs().mean()
