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
from runtime.schedulers import State, advance, make_plan, model_input
from runtime.scoring import cosine_scores

Callback = Callable[[int, float, Array], None]
TEXT_STAGE = ("text_encoder", "text_encoder_2", "projection_model", "language_model")
AUDIO_STAGE = ("unet", "vae_decoder", "vocoder")
SCORING_STAGE = ("audio_encoder",)


@dataclass(frozen=True)
class AudioOutput:
    """What a call returns. Rows are waveforms; a prompt's own come together, the best first where they were ranked."""

    audios: npt.NDArray[np.float32]  # (rows, samples), nominally -1 to 1
    sampling_rate: int  # Hz
    seeds: tuple[int, ...]  # one for the whole batch, or one a row
    scores: npt.NDArray[np.float32] | None = None  # (rows,), CLAP cosine similarity; None if not ranked
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage


class AudioLDM2Pipeline:
    """Text to audio over the engines of a bundle. Source: diffusers' AudioLDM2Pipeline, same argument names."""

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        self._bundle, self._audio = bundle, bundle.manifest.audio
        self._engines = OpenEngines(bundle, "cpu" if device == "auto" else device)
        tokenizers = {name: TextTokenizer(bundle.path(t.file), t) for name, t in bundle.manifest.tokenizers.items()}
        self._encoder = PromptEncoder(self._engines, tokenizers)

    @classmethod
    def from_pretrained(cls, bundle: str | os.PathLike[str], device: str = "auto") -> "AudioLDM2Pipeline":
        """Open a bundle folder. Raises BundleError if it is damaged. Engines are loaded by the first call that needs them."""
        return cls(Bundle.read(bundle), device)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        audio_length_in_s: float | None = None,
        num_inference_steps: int = 200,
        guidance_scale: float = 3.5,
        negative_prompt: str | Sequence[str] | None = None,
        num_waveforms_per_prompt: int = 1,
        eta: float = 0.0,
        seed: int | Sequence[int] | None = None,
        latents: Array | None = None,
        callback: Callback | None = None,
    ) -> AudioOutput:
        """Make `num_waveforms_per_prompt` waveforms for each prompt.

        `seed`, one or one a waveform, gives the latents of `torch.Generator("cpu")` (it is drawn and returned if None);
        `latents` (rows, channels, height, width), float32, take their place. `callback(step, timestep, latents)` is
        called after each step, which some schedulers make of several model calls. Raises InputError, BundleError, EngineError or NumericsError, each with one line.
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
        )
        plan = make_plan(self._bundle.manifest.scheduler, request.num_inference_steps, eta=request.eta)
        ranked = request.num_waveforms_per_prompt > 1
        clock = Stopwatch()
        with clock("load"):
            self._engines.open(*TEXT_STAGE, *AUDIO_STAGE, *(SCORING_STAGE if ranked else ()))
            check_memory(self._bundle.manifest, request)
        with clock("encode"):
            conditioning = self._encode(request)
        with clock("denoise"):
            noise = SeededNoise(request.seeds)
            first = noise.randn(request.latent_shape) if request.latents is None else request.latents
            state = State(sample=first * np.float32(plan.init_noise_sigma))
            for i, step in enumerate(plan.steps):
                output = self._predict(model_input(step, state), step.timestep, conditioning, request)
                state = advance(plan, step, state, output, noise.randn)
                completed = plan.completed(i)
                if callback is not None and completed is not None:
                    callback(completed, step.timestep, state.sample)
        with clock("decode"):
            mel = self._decode(state.sample)  # (rows, frames, mel bins)
        with clock("vocode"):
            audios = self._vocode(mel)[:, : request.samples]  # (rows, samples)
        if not ranked:
            return AudioOutput(audios, self._audio.sample_rate_hz, request.seeds, None, clock.seconds)
        with clock("rank"):
            scores, order = self._rank(audios, request)
        seeds = request.seeds if len(request.seeds) == 1 else tuple(request.seeds[i] for i in order)
        return AudioOutput(audios[order], self._audio.sample_rate_hz, seeds, scores[order], clock.seconds)

    def close(self) -> None:
        """Free all engines."""
        self._engines.close()

    def _encode(self, request: Request) -> Conditioning:
        negatives = request.negative_prompts or (None,) * len(request.prompts)
        encoded = [
            self._encoder.encode(prompt, negative, self._bundle.manifest.max_new_tokens)
            for prompt, negative in zip(request.prompts, negatives, strict=True)
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
        scaled = latents / np.float32(self._audio.vae_scaling_factor)
        return ensure_finite("vae_decoder", self._engines["vae_decoder"].run({"latents": scaled})["mel"])

    def _vocode(self, mel: Array) -> Array:
        return ensure_finite("vocoder", self._engines["vocoder"].run({"mel": mel})["waveform"])

    def _rank(self, audios: Array, request: Request) -> tuple[Array, list[int]]:
        """CLAP scores, (rows,), and the order that puts each prompt's best first."""
        count = request.num_waveforms_per_prompt
        texts = np.repeat(self._encoder.text_embeds(list(request.prompts)), count, axis=0)
        extractor = self._bundle.manifest.feature_extractor
        scores = cosine_scores(self._engines["audio_encoder"], texts, audios, self._audio.sample_rate_hz, extractor)
        best = np.argsort(-scores.reshape(-1, count), axis=1, kind="stable")
        return scores, (best + np.arange(len(best))[:, None] * count).reshape(-1).tolist()


class Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start
