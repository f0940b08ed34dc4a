"""One call: the arguments as a user gives them, checked once and turned into sizes."""

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.arguments import Arguments
from runtime.backends.device import Array
from runtime.bundle.manifest import AudioSpec, Manifest
from runtime.diffusion.noise import Seed
from runtime.diffusion.schedulers import Plan, make_plan
from runtime.errors import InputError
from runtime.text.conditioning import Conditioning
from runtime.text.encoder import Prompt
from runtime.wording import check_text

LONGEST_S = 1e9  # far more than fits in memory, which is checked later with the numbers: sizes must not overflow first
OUTPUT_TYPES = ("np", "latent", "pt")
SEED_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A checked call. `rows` waveforms are made: each prompt's own `num_waveforms_per_prompt`, one after the other.

    Each prompt has a text or a row of `embeds`; with guidance, each has a negative text or a row of `negative_embeds`.
    """

    prompts: tuple[str, ...] | None
    negative_prompts: tuple[str, ...] | None
    transcriptions: tuple[str, ...] | None  # None: not a speech checkpoint
    embeds: Conditioning | None
    negative_embeds: Conditioning | None
    guidance_scale: float
    guidance_interval: tuple[float, float]
    feature_cache_interval: int
    samples: int
    latent_shape: tuple[int, int, int, int]  # (rows, channels, height, width)
    num_waveforms_per_prompt: int
    seeds: tuple[Seed, ...]
    seed_device: str  # whose generator of torch's an integer seed stands for: cpu or cuda
    latents: Array | None
    max_new_tokens: int  # of GPT2
    plan: Plan  # the scheduler's table for this number of steps
    callback: Callable[[int, float, Array], object] | None
    callback_steps: int
    output_type: str  # np, latent or pt
    return_dict: bool

    @property
    def rows(self) -> int:
        """How many waveforms are made."""
        return self.latent_shape[0]

    @property
    def prompt_count(self) -> int:
        """How many prompts, as text or as embeddings."""
        return self.rows // self.num_waveforms_per_prompt

    def prompt(self, i: int) -> Prompt:
        """What there is of prompt number `i`."""
        return Prompt(
            text=None if self.prompts is None else self.prompts[i],
            spoken=None if self.transcriptions is None else self.transcriptions[i],
            embeds=None if self.embeds is None else self.embeds.row(i),
            negative=None if self.negative_prompts is None else self.negative_prompts[i],
            negative_embeds=self.negative_embeds.row(i) if self.guided and self.negative_embeds is not None else None,
        )

    @property
    def guided(self) -> bool:
        """Whether the model runs on a negative half too."""
        return self.guidance_scale > 1.0

    @property
    def ranked(self) -> bool:
        """Whether there is a choice of waveforms, and a text to rank them by."""
        return self.num_waveforms_per_prompt > 1 and self.prompts is not None


def check_request(manifest: Manifest, given: Arguments) -> Request:
    """Check what a user passed to the checkpoint of a bundle.

    Raises InputError that says which argument, what came and what is accepted.
    """
    audio = manifest.audio
    _check_the_rest(given)
    embeds = _embeds(given)
    prompts = None if embeds is not None else _texts("prompt", given.prompt)
    count = len(prompts) if prompts is not None else len(embeds.attention_mask)  # type: ignore[union-attr]
    waveforms = _integer("num_waveforms_per_prompt", given.num_waveforms_per_prompt)
    samples = _samples(audio, given.audio_length_in_s)
    shape = _latent_shape(audio, count * waveforms, samples)
    guidance_scale = _number("guidance_scale", given.guidance_scale, -math.inf, math.inf)
    negative_embeds = _negative_embeds(given, embeds, count)
    negatives = _negatives(count, given.prompt, given.negative_prompt) if guidance_scale > 1.0 else None
    return Request(
        prompts=prompts,
        negative_prompts=negatives if negative_embeds is None else None,
        transcriptions=_transcriptions(prompts, given.transcription, manifest.speech is not None),
        embeds=embeds,
        negative_embeds=negative_embeds,
        guidance_scale=guidance_scale,
        guidance_interval=_interval(given.guidance_interval),
        feature_cache_interval=_integer("feature_cache_interval", given.feature_cache_interval),
        samples=samples,
        latent_shape=shape,
        num_waveforms_per_prompt=waveforms,
        seeds=_seeds(given, count, count * waveforms),
        latents=None if given.latents is None else _latents(given.latents, shape),
        seed_device=given.seed_device,
        max_new_tokens=manifest.max_new_tokens
        if given.max_new_tokens is None
        else _integer("max_new_tokens", given.max_new_tokens),
        plan=_plan(manifest.scheduler, given),
        callback=given.callback,
        callback_steps=_integer("callback_steps", given.callback_steps),
        output_type=given.output_type,
        return_dict=given.return_dict,
    )


def _check_the_rest(given: Arguments) -> None:
    if given.output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type has to be one of {', '.join(OUTPUT_TYPES)}, got {given.output_type!r}")
    if given.seed_device not in SEED_DEVICES:
        raise InputError(f"seed_device has to be one of {', '.join(SEED_DEVICES)}, got {given.seed_device!r}")
    if given.cross_attention_kwargs:
        raise InputError("cross_attention_kwargs change the attention of a torch module: an engine has none to change")


def _plan(own: Mapping[str, Any], given: Arguments) -> Plan:
    """The scheduler's plan: of the checkpoint's config `own`, of it with another class name, or of another config."""
    steps, eta = _integer("num_inference_steps", given.num_inference_steps), _number("eta", given.eta, 0.0, 1.0)
    config = given.scheduler if given.scheduler is not None else own
    if isinstance(config, str):
        config = {**own, "_class_name": config}
    return make_plan(config, steps, eta=eta)


def _embeds(given: Arguments) -> Conditioning | None:
    """The prompts' own embeddings, if they come instead of texts."""
    parts = (given.prompt_embeds, given.generated_prompt_embeds, given.attention_mask)
    if given.prompt is not None:
        if any(part is not None for part in parts):
            raise InputError("give either prompt, or prompt_embeds with generated_prompt_embeds, not both")
        return None
    if given.prompt_embeds is None or given.generated_prompt_embeds is None:
        raise InputError("give either prompt, or both prompt_embeds and generated_prompt_embeds")
    return _conditioning("", *parts)


def _negative_embeds(given: Arguments, embeds: Conditioning | None, count: int) -> Conditioning | None:
    parts = (given.negative_prompt_embeds, given.negative_generated_prompt_embeds, given.negative_attention_mask)
    if all(part is None for part in parts):
        return None
    if given.negative_prompt is not None:
        raise InputError("give either negative_prompt or negative_prompt_embeds, not both")
    if parts[0] is None or parts[1] is None:
        raise InputError("negative_prompt_embeds and negative_generated_prompt_embeds go together: give both")
    negative = _conditioning("negative_", *parts)
    for name in ("prompt_embeds", "generated_prompt_embeds"):
        ours = getattr(negative, name).shape
        wanted = (count, *ours[1:]) if embeds is None else getattr(embeds, name).shape
        if ours != wanted:
            raise InputError(f"negative_{name} has shape {ours}, {name} has {wanted}: they have to be the same")
    return negative


def _conditioning(prefix: str, states: Array, generated: Array, mask: Array | None) -> Conditioning:
    """Arrays as the engines take them; a missing mask is all ones."""
    states, generated = np.asarray(states, np.float32), np.asarray(generated, np.float32)
    for name, array in (("prompt_embeds", states), ("generated_prompt_embeds", generated)):
        if array.ndim != 3 or len(array) != len(states) or not array.size:
            raise InputError(f"{prefix}{name} has shape {array.shape}, not (prompts, length, width)")
        if not np.isfinite(array).all():
            raise InputError(f"{prefix}{name} holds NaN or Inf")
    mask = np.ones(states.shape[:2], np.int64) if mask is None else np.asarray(mask).astype(np.int64)
    if mask.shape != states.shape[:2]:
        raise InputError(
            f"{prefix}attention_mask has shape {mask.shape}, {prefix}prompt_embeds {states.shape}: its first two differ"
        )
    return Conditioning(prompt_embeds=states, attention_mask=mask, generated_prompt_embeds=generated)


def _texts(name: str, value: str | Sequence[str] | None) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{name} has to be a str or a non-empty list of str, got {value!r}")
    for text in texts:
        check_text(name, text)
    return texts


def _negatives(
    count: int, prompt: str | Sequence[str] | None, negative_prompt: str | Sequence[str] | None
) -> tuple[str, ...]:
    if negative_prompt is None:
        return ("",) * count
    if prompt is not None and isinstance(negative_prompt, str) != isinstance(prompt, str):
        raise InputError(
            f"negative_prompt has to be of prompt's type: {type(negative_prompt).__name__} against "
            f"{type(prompt).__name__}"
        )
    negatives = _texts("negative_prompt", negative_prompt)
    if len(negatives) != count:
        raise InputError(f"negative_prompt has {len(negatives)} texts for {count} prompts: give one a prompt")
    return negatives


def _transcriptions(
    prompts: tuple[str, ...] | None, transcription: str | Sequence[str] | None, speech: bool
) -> tuple[str, ...] | None:
    if not speech and transcription is not None:
        raise InputError("transcription is for speech checkpoints only: this one takes a prompt alone")
    if not speech or prompts is None:
        return None
    if transcription is None:
        raise InputError("transcription is missing: this is a speech checkpoint, say what is to be spoken")
    texts = _texts("transcription", transcription)
    if len(texts) != len(prompts):
        raise InputError(f"transcription has {len(texts)} texts, prompt has {len(prompts)}: give one a prompt")
    return texts


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


def _interval(value: Any) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise InputError(f"guidance_interval has to be two numbers, (start, stop), got {value!r}")
    start, stop = (_number("guidance_interval", share, 0.0, 1.0) for share in value)
    if start >= stop:
        raise InputError(f"guidance_interval has to start before it stops, got {value!r}")
    return start, stop


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} has to be an integer of at least 1, got {value!r}")
    return int(value)


def _samples(audio: AudioSpec, duration_s: float | None) -> int:
    if duration_s is None:
        return audio.default_latent_height * audio.row_samples
    shortest = audio.row_samples / audio.sample_rate_hz
    return int(_number("audio_length_in_s", duration_s, shortest, LONGEST_S) * audio.sample_rate_hz)


def _latent_shape(audio: AudioSpec, rows: int, samples: int) -> tuple[int, int, int, int]:
    """Latents that cover all the samples: the reference rounds down to mel frames first and may return less audio."""
    height = -(-samples // audio.row_samples)
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


def _seeds(given: Arguments, prompts: int, rows: int) -> tuple[Seed, ...]:
    name, value = ("seed", given.seed) if given.generator is None else ("generator", given.generator)
    if given.seed is not None and given.generator is not None:
        raise InputError("give either seed or generator, not both")
    if value is None:
        return (secrets.randbelow(2**31),)
    sources = tuple(value) if isinstance(value, list | tuple) else (value,)
    for source in sources:
        if name == "generator" and not hasattr(source, "initial_seed"):
            raise InputError(f"generator has to be a torch.Generator or a runtime.noise.TorchGenerator, got {source!r}")
        if name == "seed" and (
            isinstance(source, bool) or not isinstance(source, int | np.integer) or not 0 <= source < 2**64
        ):
            raise InputError(f"seed has to be an integer from 0 to 2**64 - 1, or a list of them, got {value!r}")
    if len(sources) not in (1, prompts, rows):
        raise InputError(
            f"{name} has {len(sources)} values for {rows} waveforms: give one, one a prompt or one a waveform"
        )
    return tuple(int(source) if name == "seed" else source for source in sources)
