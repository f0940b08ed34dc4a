"""Prompt to audio: the whole story."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from runtime.arguments import Arguments, StopDenoising
from runtime.backends.device import Array, Device
from runtime.backends.graphs import Graphs
from runtime.bundle import Bundle, OpenEngines, choose_backend, open_bundle_device
from runtime.bundle.choice import BACKEND_VARIABLE
from runtime.diffusion.denoise import Denoiser
from runtime.diffusion.noise import SeededNoise
from runtime.diffusion.schedulers import Plan, make_plan
from runtime.errors import MissingDependencyError, NumericsError
from runtime.memory import check_memory
from runtime.request import Request, check_request
from runtime.sound.scoring import clap_scores
from runtime.sound.vocode import vocode
from runtime.text.conditioning import Conditioning, PromptEncoder, TextTokenizer
from runtime.text.speech import VitsTokenizer

TEXT_STAGE = ("text_encoder", "text_encoder_2", "projection_model", "language_model")
CACHE_STAGE = ("unet_shallow",)
AUDIO_STAGE = ("vae_decoder", "vocoder")
SCORING_STAGE = ("audio_encoder",)


@dataclass(frozen=True)
class AudioOutput:
    """What a call returns. Rows are waveforms; a prompt's own come together, the best first where they were ranked."""

    audios: npt.NDArray[np.float32]  # (rows, samples), nominally -1 to 1; or latents, or a tensor: see output_type
    sampling_rate: int  # Hz
    seeds: tuple[int, ...]  # one for the whole batch, one a prompt, or one a row
    scores: npt.NDArray[np.float32] | None = None  # (rows,), CLAP cosine similarity; None if not ranked
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage


class AudioLDM2Pipeline:
    """Text to audio over the engines of a bundle. Source: diffusers' AudioLDM2Pipeline, same argument names."""

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        *,
        backend: str | None = None,
        precision: str = "auto",
        low_memory: bool = False,
        vae_slicing: bool = False,
    ) -> None:
        self._bundle, self._audio = bundle, bundle.manifest.audio
        self._low_memory, self._vae_slicing = low_memory, vae_slicing
        self._device = open_bundle_device(bundle, device, precision)
        preferred = None if bundle.needs_gpu() else os.environ.get(BACKEND_VARIABLE)  # compiled engines have no choice
        chosen = choose_backend(bundle, self._device, backend or preferred or "auto")
        self._engines = OpenEngines(bundle, self._device, backend=chosen, one_at_a_time=low_memory)
        tokenizers = {name: TextTokenizer(bundle.path(t.file), t) for name, t in bundle.manifest.tokenizers.items()}
        speech = bundle.manifest.speech
        vits = None if speech is None else VitsTokenizer(bundle.path(speech.file), speech)
        self._graphs = Graphs(self._engines, self._device, enabled=not low_memory)
        self._encoder = PromptEncoder(self._engines, tokenizers, self._device, vits, self._graphs)
        self._denoiser = Denoiser(self._engines, self._device, replay=not low_memory)

    @classmethod
    def from_pretrained(
        cls,
        bundle: str | os.PathLike[str],
        device: str = "auto",
        *,
        backend: str | None = None,
        precision: str = "auto",
        low_memory: bool = False,
        vae_slicing: bool = False,
    ) -> "AudioLDM2Pipeline":
        """Open a bundle folder; engines are loaded by the first call. Raises BundleError if it is damaged.

        `backend` is what runs graphs: onnxruntime, openvino, or auto, the latter on a CPU where it is installed; None:
        as the environment's TRT_AUDIOLDM2_BACKEND says, else auto. `precision` is openvino's: fp32, bf16, or auto: it
        is bf16 then, where the CPU has it, but for the vocoder.

        With `low_memory` (the reference's `enable_model_cpu_offload`) each engine is loaded when it is needed and freed
        after, in every call. With `vae_slicing` (`enable_vae_slicing`) waveforms are decoded one by one.
        """
        options = {"low_memory": low_memory, "vae_slicing": vae_slicing}
        return cls(Bundle.read(bundle), device, backend=backend, precision=precision, **options)

    def __call__(self, prompt: str | Sequence[str] | None = None, **arguments: Any) -> AudioOutput:
        """Make `num_waveforms_per_prompt` waveforms for each prompt; see `Arguments` for all that a call takes.

        With `return_dict=False` the result is a tuple of the audios alone. Raises InputError, BundleError, EngineError,
        MissingDependencyError or NumericsError, each with one line.
        """
        given = Arguments(prompt=prompt, **arguments)
        request = check_request(self._audio, given, speech=self._bundle.manifest.speech is not None)
        plan = make_plan(self._scheduler(given.scheduler), request.num_inference_steps, eta=request.eta)
        try:
            with self._device.active():
                return self._render(plan, request, given)
        except NumericsError:
            self._encoder.encode.cache_clear()  # what a broken text engine made is not to be heard again
            raise

    def _render(self, plan: Plan, request: Request, given: Arguments) -> AudioOutput:
        """Prompt to audio, on the device's stream."""
        to_latents = given.output_type == "latent"
        stage = Stages(self._engines, self._device)
        with stage("load"):
            self._engines.open(*TEXT_STAGE, "unet", *(CACHE_STAGE if request.feature_cache_interval > 1 else ()))
            self._engines.open(*(() if to_latents else AUDIO_STAGE), *(SCORING_STAGE if request.ranked else ()))
            limits = {"low_memory": self._low_memory, "vae_slicing": self._vae_slicing}
            check_memory(self._bundle.manifest, request, self._device.free_bytes(), **limits)
        with stage("encode"):
            conditioning = self._encode(request)
        with stage("denoise"):
            latents = self._denoise(plan, conditioning, request, given)
        if to_latents:
            return self._output(self._finished(latents), request, given, stage)
        with stage("decode"):
            (mel,) = self._graphs.run("decode", "vae_decoder", self._decode, latents)
        with stage("vocode"):
            (rows,) = self._graphs.run("vocode", "vocoder", self._vocode, mel)
            audios = self._finished(rows[:, : request.samples])  # (rows, samples)
        if not request.ranked:
            return self._output(audios, request, given, stage)
        with stage("rank"):
            scores, order = self._rank(audios, request)
        return self._output(audios[order], request, given, stage, scores[order], order)

    def _denoise(self, plan: Plan, conditioning: Conditioning, request: Request, given: Arguments) -> Array:
        """Latents (rows, channels, height, width) from noise to clean; `callback` sees every step and may end it."""
        xp = self._device.xp
        noise = SeededNoise(request.seeds, given.seed_device, xp, **self._device.threads())
        first = noise.randn(request.latent_shape) if request.latents is None else xp.asarray(request.latents)
        latents, scale = first * np.float32(plan.init_noise_sigma), request.guidance_scale if request.guided else None
        lossy = request.guidance_interval, request.feature_cache_interval
        steps = self._denoiser.steps(plan, latents, conditioning, scale, noise.randn, *lossy)
        for i, latents in enumerate(steps):
            completed = plan.completed(i)
            if given.callback is not None and completed is not None and i % given.callback_steps == 0:
                try:
                    given.callback(completed, plan.steps[i].timestep, latents)
                except StopDenoising:
                    break
        return latents

    def _finished(self, array: Array) -> Array:
        """On the host, and free of NaN and Inf in every stage so far: the only time that a call waits for a GPU."""
        host = self._device.to_host(array)
        self._device.verify()
        return host

    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        num_waveforms_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        **arguments: Any,
    ) -> tuple[Array, Array, Array]:
        """The reference's `encode_prompt`: prompt_embeds, attention_mask, generated_prompt_embeds for a call.

        Takes the text and embedding arguments of a call. With guidance the negative rows come first. A call takes the
        positive rows as `prompt_embeds` and so on, the negative ones as `negative_prompt_embeds` and so on.
        """
        given = Arguments(
            prompt=prompt,
            num_waveforms_per_prompt=num_waveforms_per_prompt,
            guidance_scale=2.0 if do_classifier_free_guidance else 1.0,
            **arguments,
        )
        request = check_request(self._audio, given, speech=self._bundle.manifest.speech is not None)
        with self._device.active():
            both = self._encode(request)
            arrays = both.prompt_embeds, both.attention_mask, both.generated_prompt_embeds
            embeds, mask, generated = map(self._finished, arrays)
            return embeds, mask, generated

    def generate_language_model(
        self, inputs_embeds: Array, max_new_tokens: int | None = None, *, attention_mask: Array | None = None
    ) -> Array:
        """The reference's `generate_language_model`: GPT2's next embeddings, (rows, max_new_tokens, width).

        `inputs_embeds` (rows, length, width), float32; `attention_mask` (rows, length), all ones if None.
        """
        embeds = np.ascontiguousarray(inputs_embeds, np.float32)
        mask = np.ones(embeds.shape[:2], np.int64) if attention_mask is None else np.asarray(attention_mask, np.int64)
        xp, new_tokens = self._device.xp, max_new_tokens or self._bundle.manifest.max_new_tokens
        with self._device.active():
            return self._finished(self._encoder.generate(xp.asarray(embeds), xp.asarray(mask), new_tokens))

    @property
    def engines(self) -> OpenEngines:
        """The engines that calls run: a caller may load them ahead, or intercept their runs to record or time them."""
        return self._engines

    @property
    def label(self) -> str:
        """What runs the engines, such as "openvino bf16"."""
        return self._engines["unet"].label

    def close(self) -> None:
        """Free all engines."""
        self._denoiser.clear()
        self._graphs.clear()
        self._engines.close()

    def _scheduler(self, override: str | Mapping[str, Any] | None) -> Mapping[str, Any]:
        """The checkpoint's scheduler config, with another class name, or another config in its place."""
        if isinstance(override, str):
            return {**self._bundle.manifest.scheduler, "_class_name": override}
        return self._bundle.manifest.scheduler if override is None else override

    def _encode(self, request: Request) -> Conditioning:
        pairs = [self._encode_one(request, i) for i in range(request.prompt_count)]
        return Conditioning.batch(pairs, request.num_waveforms_per_prompt)

    def _encode_one(self, request: Request, i: int) -> Conditioning:
        """Conditioning of prompt number `i`: with guidance two rows, the negative one first."""
        new_tokens = request.max_new_tokens or self._bundle.manifest.max_new_tokens
        negative = None if request.negative_prompts is None else request.negative_prompts[i]
        if request.prompts is not None:
            spoken = None if request.transcriptions is None else request.transcriptions[i]
            encoded = self._encoder.encode(request.prompts[i], negative, new_tokens, spoken)
        else:
            assert request.embeds is not None
            encoded = request.embeds.row(i).on(self._device.xp)
            if negative is not None:
                encoded = Conditioning.pair(self._encoder.encode_negative(negative, encoded, new_tokens), encoded)
        if request.guided and request.negative_embeds is not None:
            encoded = Conditioning.pair(request.negative_embeds.row(i).on(self._device.xp), encoded)
        return encoded

    def _vocode(self, mel: Array) -> tuple[Array]:
        return (vocode(self._engines["vocoder"], mel, self._audio, self._device),)

    def _decode(self, latents: Array) -> tuple[Array]:
        """Mel (rows, frames, mel bins) of latents (rows, channels, height, width)."""
        decoder, scaled = self._engines["vae_decoder"], latents / np.float32(self._audio.vae_scaling_factor)
        slices = np.split(scaled, len(scaled)) if self._vae_slicing else [scaled]
        mels = [decoder.run({"latents": part})["mel"].copy() for part in slices]  # the engine reuses its output
        return (self._device.watch("vae_decoder", np.concatenate(mels)),)

    def _rank(self, audios: Array, request: Request) -> tuple[Array, list[int]]:
        """CLAP scores, (rows,), and the order that puts each prompt's best first."""
        count = request.num_waveforms_per_prompt
        texts = np.repeat(self._finished(self._encoder.text_embeds(list(request.prompts or ()))), count, axis=0)
        rate_hz, extractor = self._audio.sample_rate_hz, self._bundle.manifest.feature_extractor
        scores = clap_scores(self._engines["audio_encoder"], texts, audios, rate_hz, extractor, self._device)
        best = np.argsort(-scores.reshape(-1, count), axis=1, kind="stable")
        return scores, (best + np.arange(len(best))[:, None] * count).reshape(-1).tolist()

    def _output(
        self,
        audios: Array,
        request: Request,
        given: Arguments,
        stage: "Stages",
        scores: Array | None = None,
        order: Sequence[int] | None = None,
    ) -> AudioOutput:
        """The result in the form that was asked for; `order` is where each row was before ranking."""
        seeds = request.seeds
        if order is not None and len(seeds) == request.rows:
            seeds = tuple(seeds[i] for i in order)
        if given.output_type == "pt":
            audios = as_tensor(audios)
        if not given.return_dict:
            return cast(AudioOutput, (audios,))  # asked for: a tuple, as the reference's
        numbers = tuple(seed if isinstance(seed, int) else int(seed.initial_seed()) for seed in seeds)
        return AudioOutput(audios, self._audio.sample_rate_hz, numbers, scores, stage.seconds())


def as_tensor(array: Array) -> Any:
    """The same memory as a torch tensor. Raises MissingDependencyError where torch is not installed."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("output_type 'pt' needs torch: pip install torch") from error
    return torch.utils.dlpack.from_dlpack(np.ascontiguousarray(array))


class Stages:
    """The stages of one call: times each on the device, and tells the engines when it ends.

    Loading an engine counts as "load", in whichever stage it happens.
    """

    def __init__(self, engines: OpenEngines, device: Device) -> None:
        self._engines, self._device = engines, device
        self._marks: list[tuple[str, Any, Any, float]] = []  # name, start, stop, seconds of loading in it

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Run the block as stage `name`."""
        start, loading_s = self._device.mark(), self._engines.loading_s
        try:
            yield
        finally:
            self._engines.end_stage()
        self._marks.append((name, start, self._device.mark(), self._engines.loading_s - loading_s))

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, when all of them are done."""
        seconds = {"load": 0.0}
        for name, start, stop, loading_s in self._marks:
            seconds["load"] += loading_s
            seconds[name] = seconds.get(name, 0.0) + self._device.seconds_between(start, stop) - loading_s
        return seconds
