"""Prompt to audio: the whole story."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from runtime.arguments import arguments_of, options_of
from runtime.backends.device import Array
from runtime.backends.graphs import Graphs
from runtime.bundle import Bundle, OpenEngines, choose_backend, open_bundle_device
from runtime.codec import Codec
from runtime.diffusion.denoise import Denoiser, Known
from runtime.diffusion.noise import SeededNoise
from runtime.embeddings import check_language_model_inputs
from runtime.errors import NumericsError
from runtime.memory import check_memory, freed_engines
from runtime.output import AudioOutput, make_output
from runtime.request import Request, check_request
from runtime.sound.scoring import clap_scores
from runtime.text.conditioning import Conditioning
from runtime.text.families import open_encoder


class AudioLDM2Pipeline:
    """Text to audio over the engines of a bundle. Source: diffusers' AudioLDM2Pipeline, same argument names.

    One pipeline may be shared between threads: its calls wait for each other and run one after the other. Pipelines of
    one bundle that are open at the same time share the weights of its graphs, so that a second one is cheap.
    """

    def __init__(self, bundle: Bundle, device: str = "auto", **options: Any) -> None:
        self._options, self._manifest = options_of({"device": device, **options}), bundle.manifest
        self._device = open_bundle_device(bundle, device, self._options.precision, self._options.threads)
        backend = choose_backend(bundle, self._device, self._options.backend)
        freed, slicing = freed_engines(self._manifest, self._options), self._options.vae_slicing
        multiple, captures = self._manifest.token_multiple, self._options.cuda_graphs and not freed
        self._engines = engines = OpenEngines(bundle, self._device, backend=backend, freed=freed)
        self._graphs = Graphs(engines, self._device, token_multiple=multiple, enabled=captures)
        self._encoder = open_encoder(bundle, engines, self._device, self._graphs)
        self._denoiser = Denoiser(engines, self._device, self._graphs)
        self._codec = Codec(engines, self._device, self._graphs, self._manifest.audio, slicing=slicing)
        self._turn = threading.RLock()

    @classmethod
    def from_pretrained(
        cls, bundle: str | os.PathLike[str], device: str = "auto", **options: Any
    ) -> "AudioLDM2Pipeline":
        """Open a bundle folder on a device; engines are loaded by the first call. See `Options` for all options.

        Raises BundleError if it is damaged, InputError for a wrong option, EngineError where it cannot run here.
        """
        return cls(Bundle.read(bundle), device, **options)

    def __call__(self, prompt: str | Sequence[str] | None = None, **arguments: Any) -> AudioOutput:
        """Make `num_waveforms_per_prompt` waveforms for each prompt; see `Arguments` for all that a call takes.

        Raises InputError, BundleError, EngineError, MissingDependencyError or NumericsError, each with one line.
        """
        return self.render(self.check(prompt, **arguments))

    def check(self, prompt: str | Sequence[str] | None = None, **arguments: Any) -> Request:
        """A call that is checked and not yet run: for `render`, alone or joined with others (see runtime.joining)."""
        return check_request(self._manifest, arguments_of({"prompt": prompt, **arguments}))

    def render(self, request: Request) -> AudioOutput:
        """Run a checked call: prompt to audio, on the device's stream. Raises as a call does, but for InputError."""
        with self._in_turn():
            stage, scores, rate = self._engines.stages(), None, self._manifest.audio.sample_rate_hz
            conditioning = None
            if self._options.free_text:
                with stage("encode"):  # when the other engines come those of texts are gone
                    conditioning = self._encode(request)
            with stage("load"):
                self._engines.open(*request.engines)
                check_memory(self._manifest, request, self._device.free_bytes(), self._options)
                self._engines.prepare(request.sizes(self._manifest.audio, slicing=self._options.vae_slicing))
            noise = SeededNoise(request.seeds, request.seed_device, self._device.xp, **self._device.threads())
            with stage("encode"):
                conditioning = conditioning or self._encode(request)
                known = self._codec.encode(request, noise)
            with stage("denoise"):
                latents = self._denoise(conditioning, request, noise, known)
            if request.output_type == "latent":
                return make_output(self._finished(latents), request, rate, stage.seconds())
            with stage("decode"):
                mel = self._codec.decode(latents, request.canvas)
            with stage("vocode"):
                audios = self._finished(self._codec.waveforms(mel, request)[:, : request.samples])  # (rows, samples)
            if request.edit is not None:
                audios = request.edit.finished(audios)
            if request.ranked:
                with stage("rank"):
                    scores = self._scores(audios, request)
            return make_output(audios, request, rate, stage.seconds(), scores)

    def warm_up(self, *durations_s: float | None, rows: int = 1, **arguments: Any) -> None:
        """Load and compile what calls of these durations (default: the checkpoint's), rows and arguments will need."""
        texts = dict.fromkeys(["prompt", *(["transcription"] if self._manifest.speech else [])], ["a"] * rows)
        for duration in (durations_s or (None,)) * (2 if self._device.gpu else 1):  # graphs: at the second run
            self(**{**texts, "num_inference_steps": 2, "audio_length_in_s": duration, **arguments})

    def _encode(self, request: Request) -> Conditioning:
        prompts = map(request.prompt, range(request.prompt_count))
        each = [self._encoder.conditioning(prompt, request.max_new_tokens) for prompt in prompts]
        return Conditioning.batch(each, request.num_waveforms_per_prompt)

    def _denoise(self, conditioning: Conditioning, request: Request, noise: SeededNoise, known: Array | None) -> Array:
        """Latents (rows, channels, height, width) from noise to clean; `callback` sees every step and may end it.

        With `known` latents of a sound that is given they start from these and noise, and keep what is to be kept.
        """
        plan, edit, xp = request.plan, request.edit, self._device.xp
        first = noise.randn(request.latent_shape) if request.latents is None else xp.asarray(request.latents)
        latents, kept = first * np.float32(plan.init_noise_sigma), None
        if edit is not None and known is not None:
            latents = latents if edit.strength == 1 else plan.noised(0, known, first)
            kept = None if edit.mask is None else Known(known, xp.asarray(edit.mask), first)
        scale, view = request.guidance_scale if request.guided else None, request.canvas
        lossy, texts = (request.guidance_interval, request.feature_cache_interval), conditioning.feeds
        steps = self._denoiser.steps(plan, latents, texts, scale, noise.randn, *lossy, canvas=view, known=kept)
        for i, latents in enumerate(steps):
            if not request.goes_on(i, latents):
                break
        return latents

    def _scores(self, audios: Array, request: Request) -> Array:
        """How well each waveform of (rows, samples) on the host fits its prompt: CLAP's cosine similarity, (rows,)."""
        count = request.num_waveforms_per_prompt
        texts = np.repeat(self._finished(self._encoder.text_embeds(list(request.prompts or ()))), count, axis=0)
        rate, extractor = self._manifest.audio.sample_rate_hz, self._manifest.ranking_features
        return clap_scores(self._engines["audio_encoder"], texts, audios, rate, extractor, self._device)

    def _finished(self, array: Array) -> Array:
        """On the host, and free of NaN and Inf in every stage so far: the only time that a call waits for a result."""
        host = self._device.to_host(array)
        self._device.verify()
        return host

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """One call at a time, its work on the device's stream; at its end nothing is left that was to be freed."""
        with self._turn, self._device.active():
            try:
                yield
            except NumericsError:
                self._encoder.encode.cache_clear()  # what a broken text engine made is not to be heard again
                raise
            finally:
                self._engines.end_stage()

    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        num_waveforms_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        **arguments: Any,
    ) -> tuple[Array, ...]:
        """The reference's `encode_prompt`: prompt_embeds, attention_mask, generated_prompt_embeds, or the first alone.

        Takes the text and embedding arguments of a call. With guidance the negative rows come first. A call takes the
        positive rows as `prompt_embeds` and so on, the negative ones as `negative_prompt_embeds` and so on.
        """
        arguments |= {"prompt": prompt, "num_waveforms_per_prompt": num_waveforms_per_prompt, "num_inference_steps": 1}
        arguments["guidance_scale"] = 2.0 if do_classifier_free_guidance else 1.0
        request = check_request(self._manifest, arguments_of(arguments))
        with self._in_turn():
            return tuple(map(self._finished, self._encode(request).arguments()))

    def generate_language_model(
        self, inputs_embeds: Array, max_new_tokens: int | None = None, *, attention_mask: Array | None = None
    ) -> Array:
        """The reference's `generate_language_model`: GPT2's next embeddings, (rows, max_new_tokens, width).

        `inputs_embeds` (rows, length, width), float32; `attention_mask` (rows, length), all ones if None.
        """
        embeds, mask, count = check_language_model_inputs(self._manifest, inputs_embeds, attention_mask, max_new_tokens)
        with self._in_turn():
            embeds, mask = map(self._device.xp.asarray, (embeds, mask))
            return self._finished(self._encoder.generate(embeds, mask, count))

    @property
    def engines(self) -> OpenEngines:
        """The engines that calls run: a caller may load them ahead, or intercept their runs to record or time them."""
        return self._engines

    @property
    def label(self) -> str:
        """What ran the UNet, such as "openvino bf16"; empty before the first call."""
        return self._engines.labels.get("unet", "")

    def close(self) -> None:
        """Free all engines. A later call loads them again."""
        with self._in_turn():
            self._graphs.clear()
            self._engines.close()
