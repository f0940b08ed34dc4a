"""Prompt to audio: the whole story."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from runtime.bundle import Bundle, OpenEngines
from runtime.conditioning import Conditioning, PromptEncoder, TextTokenizer, ensure_finite
from runtime.engine import Array
from runtime.memory import check_memory
from runtime.noise import SeededNoise
from runtime.request import Request, check_request
from runtime.schedulers import State, advance, make_plan
from runtime.scoring import cosine_scores
from runtime.speech import VitsTokenizer
from runtime.vocode import vocode

Callback = Callable[[int, float, Array], None]
TEXT_STAGE = ("text_encoder", "text_encoder_2", "projection_model", "language_model")
AUDIO_STAGE = ("unet", "vae_decoder", "vocoder")
SCORING_STAGE = ("audio_encoder",)


@dataclass(frozen=True)
class AudioOutput:
    """What a call returns. Rows are waveforms; a prompt's own come together, the best first where they were ranked."""

    audios: npt.NDArray[np.float32]  # (rows, samples), nominally -1 to 1
    sampling_rate: int  # Hz
    seeds: tuple[int, ...]  # one for the whole batch, one a prompt, or one a row
    scores: npt.NDArray[np.float32] | None = None  # (rows,), CLAP cosine similarity; None if not ranked
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage


class AudioLDM2Pipeline:
    """Text to audio over the engines of a bundle. Source: diffusers' AudioLDM2Pipeline, same argument names."""

    def __init__(
        self, bundle: Bundle, device: str = "auto", *, low_memory: bool = False, vae_slicing: bool = False
    ) -> None:
        self._bundle, self._audio = bundle, bundle.manifest.audio
        self._low_memory, self._vae_slicing = low_memory, vae_slicing
        self._engines = OpenEngines(bundle, "cpu" if device == "auto" else device, one_at_a_time=low_memory)
        tokenizers = {name: TextTokenizer(bundle.path(t.file), t) for name, t in bundle.manifest.tokenizers.items()}
        speech = bundle.manifest.speech
        vits = None if speech is None else VitsTokenizer(bundle.path(speech.file), speech)
        self._encoder = PromptEncoder(self._engines, tokenizers, vits)

    @classmethod
    def from_pretrained(
        cls,
        bundle: str | os.PathLike[str],
        device: str = "auto",
        *,
        low_memory: bool = False,
        vae_slicing: bool = False,
    ) -> "AudioLDM2Pipeline":
        """Open a bundle folder; engines are loaded by the first call. Raises BundleError if it is damaged.

        With `low_memory` (the reference's `enable_model_cpu_offload`) each engine is loaded when it is needed and freed
        after, in every call. With `vae_slicing` (`enable_vae_slicing`) waveforms are decoded one by one.
        """
        return cls(Bundle.read(bundle), device, low_memory=low_memory, vae_slicing=vae_slicing)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        transcription: str | Sequence[str] | None = None,
        audio_length_in_s: float | None = None,
        num_inference_steps: int = 200,
        guidance_scale: float = 3.5,
        negative_prompt: str | Sequence[str] | None = None,
        num_waveforms_per_prompt: int = 1,
        eta: float = 0.0,
        seed: int | Sequence[int] | None = None,
        latents: Array | None = None,
        max_new_tokens: int | None = None,
        callback: Callback | None = None,
    ) -> AudioOutput:
        """Make `num_waveforms_per_prompt` waveforms for each prompt; a speech checkpoint speaks its `transcription`.

        `seed`, one or one a waveform, gives the latents of `torch.Generator("cpu")` (it is drawn and returned if None);
        `latents` (rows, channels, height, width), float32, take their place. `callback(step, timestep, latents)` is
        called after each step. `max_new_tokens` is how many embeddings GPT2 makes, by default as many as the checkpoint
        says. Raises InputError, BundleError, EngineError, MissingDependencyError or NumericsError, each with one line.
        """
        request = check_request(
            self._audio,
            prompt=prompt,
            negative_prompt=negative_prompt,
            audio_length_in_s=audio_length_in_s,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            num_waveforms_per_prompt=num_waveforms_per_prompt,
            eta=eta,
            seed=seed,
            latents=latents,
            transcription=transcription,
            max_new_tokens=max_new_tokens,
            speech=self._bundle.manifest.speech is not None,
        )
        plan = make_plan(self._bundle.manifest.scheduler, request.num_inference_steps, eta=request.eta)
        ranked = request.num_waveforms_per_prompt > 1
        stage = Stages(self._engines)
        with stage("load"):
            self._engines.open(*TEXT_STAGE, *AUDIO_STAGE, *(SCORING_STAGE if ranked else ()))
            check_memory(self._bundle.manifest, request, low_memory=self._low_memory, vae_slicing=self._vae_slicing)
        with stage("encode"):
            conditioning = self._encode(request)
        with stage("denoise"):
            noise = SeededNoise(request.seeds)
            first = noise.randn(request.latent_shape) if request.latents is None else request.latents
            state = State(sample=first * np.float32(plan.init_noise_sigma))
            for i, step in enumerate(plan.steps):
                scaled = state.sample * np.float32(step.input_scale)
                output = self._predict(scaled, step.timestep, conditioning, request)
                state = advance(plan, step, state, output, noise.randn)
                completed = plan.completed(i)
                if callback is not None and completed is not None:
                    callback(completed, step.timestep, state.sample)
        with stage("decode"):
            mel = self._decode(state.sample)  # (rows, frames, mel bins)
        with stage("vocode"):
            audios = vocode(self._engines["vocoder"], mel, self._audio)[:, : request.samples]  # (rows, samples)
        if not ranked:
            return AudioOutput(audios, self._audio.sample_rate_hz, request.seeds, None, stage.seconds)
        with stage("rank"):
            scores, order = self._rank(audios, request)
        seeds = tuple(request.seeds[i] for i in order) if len(request.seeds) == request.rows else request.seeds
        return AudioOutput(audios[order], self._audio.sample_rate_hz, seeds, scores[order], stage.seconds)

    def close(self) -> None:
        """Free all engines."""
        self._engines.close()

    def _encode(self, request: Request) -> Conditioning:
        negatives = request.negative_prompts or (None,) * len(request.prompts)
        transcriptions = request.transcriptions or (None,) * len(request.prompts)
        new_tokens = request.max_new_tokens or self._bundle.manifest.max_new_tokens
        encoded = [
            self._encoder.encode(prompt, negative, new_tokens, transcription)
            for prompt, negative, transcription in zip(request.prompts, negatives, transcriptions, strict=True)
        ]
        return Conditioning.batch(encoded, request.num_waveforms_per_prompt)

    def _predict(self, sample: Array, timestep: float, conditioning: Conditioning, request: Request) -> Array:
        """The model's output at `sample`, (rows, channels, height, width), guided if the request is."""
        guided = request.negative_prompts is not None
        unet = self._engines["unet"]
        feeds = {
            "sample": np.concatenate([sample, sample]) if guided else sample,
            "timestep": np.asarray([timestep], np.float32),
            "encoder_hidden_states": conditioning.generated_prompt_embeds,
            "encoder_hidden_states_1": conditioning.prompt_embeds,
            "encoder_attention_mask_1": conditioning.attention_mask,
        }
        outputs = unet.run({name: feeds[name] for name in unet.inputs})  # some UNets attend to the first states only
        output = ensure_finite(f"unet (timestep {timestep:g})", outputs["noise_pred"])
        if not guided:
            return output
        unconditional, text = np.split(output, 2)
        return unconditional + np.float32(request.guidance_scale) * (text - unconditional)

    def _decode(self, latents: Array) -> Array:
        """Mel (rows, frames, mel bins) of latents (rows, channels, height, width)."""
        decoder, scaled = self._engines["vae_decoder"], latents / np.float32(self._audio.vae_scaling_factor)
        slices = np.split(scaled, len(scaled)) if self._vae_slicing else [scaled]
        mels = [decoder.run({"latents": part})["mel"].copy() for part in slices]  # the engine reuses its output
        return ensure_finite("vae_decoder", np.concatenate(mels))

    def _rank(self, audios: Array, request: Request) -> tuple[Array, list[int]]:
        """CLAP scores, (rows,), and the order that puts each prompt's best first."""
        count = request.num_waveforms_per_prompt
        texts = np.repeat(self._encoder.text_embeds(list(request.prompts)), count, axis=0)
        extractor = self._bundle.manifest.feature_extractor
        scores = cosine_scores(self._engines["audio_encoder"], texts, audios, self._audio.sample_rate_hz, extractor)
        best = np.argsort(-scores.reshape(-1, count), axis=1, kind="stable")
        return scores, (best + np.arange(len(best))[:, None] * count).reshape(-1).tolist()


class Stages:
    """The stages of one call: times each, and tells the engines when it ends.

    Loading an engine counts as "load", in whichever stage it happens.
    """

    def __init__(self, engines: OpenEngines) -> None:
        self._engines = engines
        self.seconds = {"load": 0.0}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Run the block as stage `name`."""
        start, loading_s = time.perf_counter(), self._engines.loading_s
        try:
            yield
        finally:
            self._engines.end_stage()
        loaded_s = self._engines.loading_s - loading_s
        self.seconds["load"] += loaded_s
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start - loaded_s
