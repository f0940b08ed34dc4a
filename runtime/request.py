"""One call: the arguments as a user gives them, checked once and turned into sizes."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from numbers import Integral
from typing import Any

from runtime.arguments import Arguments, StopDenoising
from runtime.backends.device import Array
from runtime.bundle.families import Family
from runtime.bundle.manifest import AudioSpec, Manifest
from runtime.checks import MOST, integer, listed, number, shown
from runtime.diffusion.canvas import Canvas
from runtime.diffusion.noise import Seed, is_generator
from runtime.diffusion.schedulers import Plan, make_plan, scheduler_class
from runtime.edit import Edit, check_edit
from runtime.embeddings import embedding_specs, negative_embeds, positive_embeds
from runtime.errors import InputError, MissingDependencyError
from runtime.sizes import canvas_of, latent_shape, own_latents, sample_count
from runtime.sound.vocode import STREAMED_FRAMES, frames_at_once
from runtime.text.conditioning import NEW_STATES, Conditioning
from runtime.text.encoder import Prompt
from runtime.text.weights import weighted
from runtime.wording import check_text

MOST_GUIDANCE = 1000.0  # latents grow with it: far above it their squares overflow float32, and the sound falls silent
OUTPUT_TYPES = ("np", "latent", "pt")
SEED_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A checked call. `rows` waveforms are made: each prompt's own `num_waveforms_per_prompt`, one after the other.

    Each prompt has a text or a row of `embeds`; with guidance, each has a negative text or a row of `negative_embeds`.
    """

    kind: Family  # of model
    prompts: tuple[str, ...] | None
    negative_prompts: tuple[str, ...] | None
    transcriptions: tuple[str, ...] | None  # None: not a speech checkpoint
    prompt_weights: bool  # whether brackets in prompts are weights
    embeds: Conditioning | None
    negative_embeds: Conditioning | None
    guidance_scale: float
    guidance_interval: tuple[float, float]
    feature_cache_interval: int
    sample_rate_hz: int
    samples: int  # of each waveform that is rendered
    latent_shape: tuple[int, int, int, int]  # (rows, channels, height, width)
    num_waveforms_per_prompt: int
    seeds: tuple[Seed, ...]
    seed_device: str  # whose generator of torch's an integer seed stands for: cpu or cuda
    latents: Array | None
    edit: Edit | None  # what becomes of audio that is given
    canvas: Canvas | None  # how the model sees the latents; None: all at once
    max_new_tokens: int  # of GPT2, 0 without one
    plan: Plan  # the scheduler's table for this number of steps
    callback: Callable[[int, float, Array], object] | None
    callback_steps: int
    audio_callback: Callable[[Array], object] | None
    output_type: str  # np, latent or pt
    return_dict: bool

    @property
    def rows(self) -> int:
        """How many waveforms are made."""
        return self.latent_shape[0]

    @property
    def result_s(self) -> float:
        """Seconds of each waveform that is returned."""
        samples = len(self.edit.audio) if self.edit is not None and self.edit.fills else self.samples
        return samples / self.sample_rate_hz

    @property
    def steps(self) -> int:
        """How many steps its callback hears of, if it hears of all."""
        return sum(self.plan.completed(call) is not None for call in range(len(self.plan.steps)))

    @property
    def work(self) -> int:
        """How much it is to do: rows of latents, each counted at every run of the model and once for the rest."""
        return self.rows * self.latent_shape[2] * (len(self.plan.steps) + 1)

    @property
    def prompt_count(self) -> int:
        """How many prompts, as text or as embeddings."""
        return self.rows // self.num_waveforms_per_prompt

    @property
    def engines(self) -> tuple[str, ...]:
        """The names of the engines that it runs, for loading them side by side."""
        names = [*self.kind.text_engines, "unet"]
        names += ["vae_encoder"] if self.encoded is not None else []
        names += ["unet_shallow"] if self.feature_cache_interval > 1 else []
        names += ["vae_decoder", "vocoder"] if self.output_type != "latent" else []
        return (*names, *(["audio_encoder"] if self.ranked and self.output_type != "latent" else []))

    def sizes(self, audio: AudioSpec, *, slicing: bool) -> dict[str, dict[str, int]]:
        """By engine the sizes of what it gets, by axis, as far as they are known. What takes longest comes first."""
        rows, _, height, _ = self.latent_shape
        texts: dict[str, dict[str, int]] = {name: {} for name in self.kind.text_engines if self.prompts is not None}
        known: dict[str, dict[str, int]] = {}
        if self.canvas is None:
            window = STREAMED_FRAMES if self.audio_callback is not None else audio.vocoder_window_frames
            frames = frames_at_once(height * audio.vae_scale_factor, audio, window)
            known |= {"unet": {"batch": 2 * rows if self.guided else rows, "height": height}, **texts}
            known["vae_decoder"] = {"batch": 1 if slicing else rows, "height": height}
            known["vocoder"] = {"batch": rows, "frames": frames}
        return known or texts

    def prompt(self, i: int) -> Prompt:
        """What there is of prompt number `i`."""
        return Prompt(
            text=None if self.prompts is None else self.prompts[i],
            spoken=None if self.transcriptions is None else self.transcriptions[i],
            embeds=None if self.embeds is None else self.embeds.row(i),
            negative=None if self.negative_prompts is None else self.negative_prompts[i],
            negative_embeds=self.negative_embeds.row(i) if self.guided and self.negative_embeds is not None else None,
            weights=self.prompt_weights,
        )

    def goes_on(self, i: int, latents: Array) -> bool:
        """Tell the callback that step number `i` of the plan is done. Whether it lets the next one come."""
        completed = self.plan.completed(i)
        if self.callback is not None and completed is not None and i % self.callback_steps == 0:
            try:
                self.callback(completed, self.plan.steps[i].timestep, latents)
            except StopDenoising:
                return False
        return True

    @property
    def guided(self) -> bool:
        """Whether the model runs on a negative half too."""
        return self.guidance_scale > 1.0

    @property
    def encoded(self) -> Edit | None:
        """What becomes of audio that is given, if something of it is left."""
        edit = self.edit
        return edit if edit is not None and (edit.strength < 1 or edit.mask is not None) else None

    @property
    def ranked(self) -> bool:
        """Whether there is a choice of waveforms, a text to rank them by, and a model that does."""
        return self.num_waveforms_per_prompt > 1 and self.prompts is not None and self.kind.ranks


def check_request(manifest: Manifest, given: Arguments) -> Request:
    """Check what a user passed to the checkpoint of a bundle.

    Raises InputError that says which argument, what came and what is accepted, or MissingDependencyError for an output
    type whose package is not installed.
    """
    audio, own = manifest.audio, manifest.defaults
    _check_family(manifest.kind, given)
    for name in ("num_inference_steps", "guidance_scale"):
        if getattr(given, name) is None:
            given = replace(given, **{name: getattr(own, name)})
    _check_the_rest(given)
    specs = embedding_specs(manifest.engines)
    embeds = positive_embeds(given, specs)
    prompts = None if embeds is not None else _texts("prompt", given.prompt)
    count = len(prompts) if prompts is not None else len(embeds)  # type: ignore[arg-type]
    waveforms = _integer("num_waveforms_per_prompt", given.num_waveforms_per_prompt)
    edit = check_edit(audio, given)
    samples = sample_count(audio, given.audio_length_in_s) if edit is None else edit.samples
    shape = latent_shape(audio, count * waveforms, samples)
    samples = shape[2] * audio.row_samples if given.loop is True else samples  # a ring has no piece of a row
    guidance_scale = number("guidance_scale", given.guidance_scale, high=MOST_GUIDANCE)
    negative = negative_embeds(given, specs, embeds, count)
    negatives = _negatives(count, given.prompt, given.negative_prompt) if guidance_scale > 1.0 else None
    return Request(
        kind=manifest.kind,
        prompts=prompts,
        negative_prompts=negatives if negative is None else None,
        prompt_weights=_prompt_weights(prompts, negatives, given, manifest),
        transcriptions=_transcriptions(prompts, given.transcription, manifest.speech is not None),
        embeds=embeds,
        negative_embeds=negative,
        guidance_scale=guidance_scale,
        guidance_interval=_interval(given.guidance_interval),
        feature_cache_interval=_integer("feature_cache_interval", given.feature_cache_interval),
        sample_rate_hz=audio.sample_rate_hz,
        samples=samples,
        edit=edit,
        canvas=canvas_of(manifest, shape, given, edit, guided=guidance_scale > 1.0),
        latent_shape=shape,
        num_waveforms_per_prompt=waveforms,
        seeds=_seeds(given, count, count * waveforms),
        latents=None if given.latents is None else own_latents(given.latents, shape),
        seed_device=given.seed_device,
        max_new_tokens=_new_tokens(given.max_new_tokens, embeds or negative) or manifest.max_new_tokens or 0,
        plan=_plan(manifest.scheduler, given, 1.0 if edit is None else edit.strength),
        callback=given.callback,
        callback_steps=_integer("callback_steps", given.callback_steps),
        audio_callback=given.audio_callback,
        output_type=given.output_type,
        return_dict=given.return_dict,
    )


def _check_family(kind: Family, given: Arguments) -> None:
    for name in kind.lacks:
        if (value := getattr(given, name)) is not None and value is not False:
            raise InputError(f"{name} is of AudioLDM2: {kind.pipeline}'s models have no use for it")


def _check_the_rest(given: Arguments) -> None:
    for name, known in (("output_type", OUTPUT_TYPES), ("seed_device", SEED_DEVICES)):
        value = getattr(given, name)
        if not isinstance(value, str) or value not in known:
            raise InputError(f"{name} has to be one of {', '.join(known)}, got {shown(value)}")
    if given.output_type == "pt" and find_spec("torch") is None:
        raise MissingDependencyError("output_type 'pt' needs torch: pip install torch")
    if not isinstance(given.return_dict, bool):
        raise InputError(f"return_dict has to be True or False, got {shown(given.return_dict)}")
    for name, form in (("callback", "(step, timestep, latents)"), ("audio_callback", "(audios)")):
        value = getattr(given, name)
        if value is not None and not callable(value):
            raise InputError(f"{name} has to be a function {form}, got {shown(value)}")
    if given.scheduler is not None and not isinstance(given.scheduler, str | Mapping):
        raise InputError(f"scheduler has to be the name of a class or a config, got {shown(given.scheduler)}")
    kwargs = given.cross_attention_kwargs
    if kwargs is not None and not (isinstance(kwargs, Mapping) and not kwargs):
        raise InputError("cross_attention_kwargs change the attention of a torch module: an engine has none to change")


def _plan(own: Mapping[str, Any], given: Arguments, strength: float) -> Plan:
    """The scheduler's plan: of the checkpoint's config `own`, of it with another class name, or of another config.

    With a strength below 1 it begins later: by diffusers' rule, `int(strength * steps)` steps are left.
    """
    steps, eta = _integer("num_inference_steps", given.num_inference_steps), number("eta", given.eta, 0.0, 1.0)
    config = given.scheduler if given.scheduler is not None else own
    if isinstance(config, str):
        config = {**own, "_class_name": scheduler_class(config)}
    left = int(strength * steps)
    if strength == 0:
        return replace(make_plan(config, steps, eta=eta), steps=())
    if left == 0:
        raise InputError(f"strength {strength:g} leaves none of {steps} steps: take more of either")
    return make_plan(config, steps, eta=eta, begin=steps - left)


def _texts(name: str, value: str | Sequence[str] | None) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else listed(value) or ()
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{name} has to be a str or a non-empty list of str, got {shown(value)}")
    for text in texts:
        check_text(name, text)
    return tuple(map(str, texts))


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


def _prompt_weights(
    prompts: tuple[str, ...] | None, negatives: tuple[str, ...] | None, given: Arguments, manifest: Manifest
) -> bool:
    if not isinstance(given.prompt_weights, bool):
        raise InputError(f"prompt_weights has to be True or False, got {shown(given.prompt_weights)}")
    if given.prompt_weights and (prompts is None or manifest.speech is not None):
        raise InputError("prompt_weights are of prompts that T5 reads: not of embeddings, nor of speech checkpoints")
    if given.prompt_weights:
        for text in (*(prompts or ()), *(negatives or ())):
            weighted(text)  # what it refuses is refused now
    return given.prompt_weights


def _interval(value: Any) -> tuple[float, float]:
    shares = listed(value)
    if shares is None or len(shares) != 2:
        raise InputError(f"guidance_interval has to be two numbers, (start, stop), got {shown(value)}")
    start, stop = (number("guidance_interval", share, 0.0, 1.0) for share in shares)
    if start >= stop:
        raise InputError(f"guidance_interval has to start before it stops, got {shown(value)}")
    return start, stop


def _integer(name: str, value: Any) -> int:
    """How many of something: at least one, and no more than sizes can be reckoned with."""
    return integer(name, value, 1, MOST)


def _new_tokens(value: Any, embeds: Conditioning | None) -> int | None:
    """How many states the language model makes of texts: as many as embeddings have that come in place of others."""
    wanted = None if value is None else _integer("max_new_tokens", value)
    if embeds is None or NEW_STATES not in embeds.feeds:
        return wanted
    length: int = embeds.feeds[NEW_STATES].shape[1]
    if wanted not in (None, length):
        raise InputError(f"max_new_tokens is {wanted}, but the embeddings given have {length} new tokens")
    return length


def _seeds(given: Arguments, prompts: int, rows: int) -> tuple[Seed, ...]:
    name, value = ("seed", given.seed) if given.generator is None else ("generator", given.generator)
    if given.seed is not None and given.generator is not None:
        raise InputError("give either seed or generator, not both")
    if value is None:
        return (secrets.randbelow(2**31),)
    items = listed(value)
    sources = (value,) if items is None else items
    if len(sources) not in (1, prompts, rows):
        raise InputError(
            f"{name} has {len(sources)} values for {rows} waveform{'s' if rows > 1 else ''}: give one, one a prompt or "
            "one a waveform"
        )
    if name == "generator" and not all(map(is_generator, sources)):
        raise InputError(f"generator has to be a torch.Generator or a TorchGenerator of ours, got {shown(value)}")
    if name == "seed" and not all(map(_is_seed, sources)):
        raise InputError(f"seed has to be an integer from 0 to 2**64 - 1, or a list of them, got {shown(value)}")
    return tuple(int(source) if name == "seed" else source for source in sources)


def _is_seed(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) < 2**64
