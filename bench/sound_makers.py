"""Who makes the sounds that are judged: our runtime, the reference pipeline, or the autoencoder and vocoder alone."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from bench.judge import Floats
from bench.rivals import load_reference
from export.demo.training.mel import log_mel
from export.distill.listener import Listener
from runtime import AudioLDM2Pipeline
from runtime.bundle import Bundle, preferred_backend
from runtime.errors import InputError

ROWS = 8  # waveforms at once


@dataclass(frozen=True)
class Setting:
    """How sounds are made. `scheduler` is a class name, or None for the checkpoint's own."""

    scheduler: str | None = None
    steps: int = 20
    guidance: float = 3.5
    negative: str | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    feature_cache: int = 1

    def __str__(self) -> str:
        scheduler = (self.scheduler or "checkpoint's").replace("Scheduler", "")
        negative = f", not {self.negative!r}" if self.negative else ""
        interval = "" if self.interval == (0.0, 1.0) else " in {:g} to {:g}".format(*self.interval)
        cache = f", features kept {self.feature_cache}" if self.feature_cache > 1 else ""
        return f"{scheduler} {self.steps}, guidance {self.guidance:g}{interval}{cache}{negative}"


class SoundMaker(Protocol):
    """Makes a waveform of each caption, each from a seed of its own."""

    sample_rate_hz: int

    def render(self, captions: Sequence[str], seeds: Sequence[int], seconds: float, setting: Setting) -> Floats:
        """Waveforms (rows, samples) at `sample_rate_hz`, one for each caption, `seconds` long."""


class OurSounds:
    """A bundle in our runtime, which also lends its CLAP to score sounds."""

    def __init__(self, engines: Path) -> None:
        bundle = Bundle.read(engines)
        if bundle.manifest.speech is not None:
            raise InputError(f"{engines} is a speech checkpoint's: the captions are for one that makes sounds")
        self._pipeline = AudioLDM2Pipeline(bundle, backend=preferred_backend(bundle, os.environ))
        self.sample_rate_hz = bundle.manifest.audio.sample_rate_hz
        self._listener = Listener(bundle)

    def render(self, captions: Sequence[str], seeds: Sequence[int], seconds: float, setting: Setting) -> Floats:
        """As SoundMaker says."""
        parts = []
        for first in range(0, len(captions), ROWS):
            some = list(captions[first : first + ROWS])
            made = self._pipeline(
                some,
                seed=list(seeds[first : first + ROWS]),
                audio_length_in_s=seconds,
                num_inference_steps=setting.steps,
                guidance_scale=setting.guidance,
                guidance_interval=setting.interval,
                feature_cache_interval=setting.feature_cache,
                negative_prompt=setting.negative and [setting.negative] * len(some),
                scheduler=setting.scheduler,
            )
            parts.append(made.audios)
        return np.concatenate(parts)

    def clap_scores(self, captions: Sequence[str], audios: Floats, sample_rate_hz: int) -> Floats:
        """CLAP's score, (rows,), of each waveform of (rows, samples) with its caption, as the pipeline ranks by it."""
        return self._listener.scores(captions, audios, sample_rate_hz)

    def close(self) -> None:
        """Free all engines."""
        self._pipeline.close()
        self._listener.close()


class ReferenceSounds:
    """The reference pipeline in FP32, over a checkpoint folder in diffusers' layout."""

    def __init__(self, checkpoint: Path) -> None:
        _check_folder(checkpoint)
        self._pipeline = load_reference(checkpoint, "float32", "cpu")
        self._scheduler = self._pipeline.scheduler
        self.sample_rate_hz: int = self._pipeline.vocoder.config.sampling_rate

    def render(self, captions: Sequence[str], seeds: Sequence[int], seconds: float, setting: Setting) -> Floats:
        """As SoundMaker says, one caption at a time: in a batch the reference's shorter prompts hear the padding."""
        import diffusers

        scheduler = getattr(diffusers, setting.scheduler) if setting.scheduler else type(self._scheduler)
        self._pipeline.scheduler = scheduler.from_config(self._scheduler.config)
        rows = [
            self._pipeline(
                caption,
                generator=torch.Generator("cpu").manual_seed(seed),
                audio_length_in_s=seconds,
                num_inference_steps=setting.steps,
                guidance_scale=setting.guidance,
                negative_prompt=setting.negative,
            ).audios[0]
            for caption, seed in zip(captions, seeds, strict=True)
        ]
        return np.stack(rows)


@torch.no_grad()
def round_trips(checkpoint: Path, audios: Floats) -> tuple[int, Iterator[tuple[str, Floats]]]:
    """Send real sounds of (rows, samples) at 16 kHz through the vocoder alone, then through the autoencoder and it.

    Returns the sample rate, and the name and the waveforms of each way. What fails in both is the vocoder's fault.
    """
    from diffusers import AutoencoderKL
    from transformers import SpeechT5HifiGan

    _check_folder(checkpoint)
    vae = AutoencoderKL.from_pretrained(checkpoint / "vae").float().eval()
    vocoder = SpeechT5HifiGan.from_pretrained(checkpoint / "vocoder").float().eval()
    mel = log_mel(torch.from_numpy(audios))  # (rows, frames, mel bins)
    step = 2 ** (len(vae.config.block_out_channels) - 1)
    mel = mel[:, : mel.shape[1] // step * step]

    @torch.no_grad()
    def coded(part: torch.Tensor) -> torch.Tensor:
        return vae.decode(vae.encode(part[:, None]).latent_dist.mode()).sample[:, 0]

    @torch.no_grad()
    def through(*stages: Any) -> Floats:
        parts = []
        for part in mel.split(ROWS):
            for stage in stages:
                part = stage(part)
            parts.append(part)
        return torch.cat(parts).numpy()

    named = (("vocoder", (vocoder,)), ("autoencoder, vocoder", (coded, vocoder)))
    return vocoder.config.sampling_rate, ((name, through(*stages)) for name, stages in named)


def _check_folder(checkpoint: Path) -> None:
    if not (checkpoint / "model_index.json").is_file():
        raise InputError(f"{checkpoint} is no checkpoint in diffusers' layout: it has no model_index.json")
