"""One call's arguments, checked once and turned into sizes."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.bundle import AudioSpec
from runtime.engine import Array
from runtime.errors import InputError

LONGEST_S = 1e9  # far more than fits in memory, which is checked later with the numbers: sizes must not overflow first


@dataclass(frozen=True, kw_only=True)
class Request:
    """A checked call. `rows` waveforms are made: each prompt's own `num_waveforms_per_prompt`, one after the other."""

    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...] | None  # None: no guidance, half the work
    samples: int
    latent_shape: tuple[int, int, int, int]  # (rows, channels, height, width)
    num_inference_steps: int
    guidance_scale: float
    num_waveforms_per_prompt: int
    eta: float
    seeds: tuple[int, ...]
    latents: Array | None
    transcriptions: tuple[str, ...] | None = None  # one a prompt; None: not a speech checkpoint
    max_new_tokens: int | None = None  # None: the checkpoint's

    @property
    def rows(self) -> int:
        """How many waveforms are made."""
        return self.latent_shape[0]


def check_request(
    audio: AudioSpec,
    *,
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None,
    audio_length_in_s: float | None,
    num_inference_steps: int,
    guidance_scale: float,
    num_waveforms_per_prompt: int,
    eta: float,
    seed: int | Sequence[int] | None,
    latents: Array | None,
    transcription: str | Sequence[str] | None = None,
    max_new_tokens: int | None = None,
    speech: bool = False,
) -> Request:
    """Check what a user passed, to a `speech` checkpoint or another.

    Raises InputError that says which argument, what came and what is accepted.
    """
    prompts = _texts("prompt", prompt)
    waveforms = _integer("num_waveforms_per_prompt", num_waveforms_per_prompt)
    rows = len(prompts) * waveforms
    samples = _samples(audio, audio_length_in_s)
    shape = _latent_shape(audio, rows, samples)
    if latents is not None:
        latents = _latents(latents, shape)
    return Request(
        prompts=prompts,
        negative_prompts=_negatives(prompts, prompt, negative_prompt) if _guided(guidance_scale) else None,
        samples=samples,
        latent_shape=shape,
        num_inference_steps=_integer("num_inference_steps", num_inference_steps),
        guidance_scale=float(guidance_scale),
        num_waveforms_per_prompt=waveforms,
        eta=_number("eta", eta, 0.0, 1.0),
        seeds=_seeds(seed, len(prompts), rows),
        latents=latents,
        transcriptions=_transcriptions(prompts, transcription, speech),
        max_new_tokens=None if max_new_tokens is None else _integer("max_new_tokens", max_new_tokens),
    )


def _texts(name: str, value: str | Sequence[str]) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{name} has to be a str or a non-empty list of str, got {value!r}")
    return texts


def _negatives(
    prompts: tuple[str, ...], prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None
) -> tuple[str, ...]:
    if negative_prompt is None:
        return ("",) * len(prompts)
    if isinstance(negative_prompt, str) != isinstance(prompt, str):
        raise InputError(
            f"negative_prompt has to be of prompt's type: {type(negative_prompt).__name__} against "
            f"{type(prompt).__name__}"
        )
    negatives = _texts("negative_prompt", negative_prompt)
    if len(negatives) != len(prompts):
        raise InputError(f"negative_prompt has {len(negatives)} texts, prompt has {len(prompts)}: give one a prompt")
    return negatives


def _transcriptions(
    prompts: tuple[str, ...], transcription: str | Sequence[str] | None, speech: bool
) -> tuple[str, ...] | None:
    if not speech:
        if transcription is not None:
            raise InputError("transcription is for speech checkpoints only: this one takes a prompt alone")
        return None
    if transcription is None:
        raise InputError("transcription is missing: this is a speech checkpoint, say what is to be spoken")
    texts = _texts("transcription", transcription)
    if len(texts) != len(prompts):
        raise InputError(f"transcription has {len(texts)} texts, prompt has {len(prompts)}: give one a prompt")
    return texts


def _guided(guidance_scale: float) -> bool:
    return _number("guidance_scale", guidance_scale, -math.inf, math.inf) > 1.0


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InputError(f"{name} has to be a finite number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an int beyond the largest float
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{name} has to be a finite number, got {value!r}")
    if not low <= number <= high:
        raise InputError(f"{name} has to be {low:g} to {high:g}, got {value!r}")
    return number


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} has to be an integer of at least 1, got {value!r}")
    return int(value)


def _samples(audio: AudioSpec, duration_s: float | None) -> int:
    if duration_s is None:
        return audio.default_latent_height * audio.vae_scale_factor * audio.hop_samples
    shortest = audio.hop_samples * audio.vae_scale_factor / audio.sample_rate_hz
    return int(_number("audio_length_in_s", duration_s, shortest, LONGEST_S) * audio.sample_rate_hz)


def _latent_shape(audio: AudioSpec, rows: int, samples: int) -> tuple[int, int, int, int]:
    """Latents that cover all the samples: the reference rounds down to mel frames first and may return less audio."""
    height = -(-samples // (audio.hop_samples * audio.vae_scale_factor))
    return (rows, audio.latent_channels, height, audio.latent_width)


def _latents(latents: Array, shape: tuple[int, int, int, int]) -> Array:
    try:
        array = np.asarray(latents)
    except (TypeError, ValueError) as error:
        raise InputError(f"latents are no array: {str(error).splitlines()[0]}") from error
    if array.dtype.kind not in "fiu":
        raise InputError(f"latents have to hold real numbers, got {array.dtype}")
    if array.shape != shape:
        raise InputError(f"latents have shape {array.shape}, this call needs {shape}: (waveforms, channels, time, mel)")
    array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise InputError("latents hold NaN or Inf")
    return array


def _seeds(seed: int | Sequence[int] | None, prompts: int, rows: int) -> tuple[int, ...]:
    if seed is None:
        return (secrets.randbelow(2**31),)
    seeds = tuple(seed) if isinstance(seed, list | tuple) else (seed,)
    if any(isinstance(s, bool) or not isinstance(s, int | np.integer) or not 0 <= s < 2**64 for s in seeds):
        raise InputError(f"seed has to be an integer from 0 to 2**64 - 1, or a list of them, got {seed!r}")
    if len(seeds) not in (1, prompts, rows):
        raise InputError(f"seed has {len(seeds)} values for {rows} waveforms: give one, one a prompt or one a waveform")
    return tuple(int(s) for s in seeds)
