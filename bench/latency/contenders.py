"""The sides of the comparison, as one process has them: opened once, then called with prompts and latents."""

import importlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

SCHEDULER = "DPMSolverMultistepScheduler"
GUIDANCE = 3.5
TEXT = ("tokenize", "encode", "generate")  # the parts of encoding; tokenizing is what remains of it
TEXT_ENGINES = {
    "text_encoder": "encode",
    "text_encoder_2": "encode",
    "projection_model": "encode",
    "language_model": "generate",
}
TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}
OUR_MODULES = ("runtime.pipeline",)
THEIR_MODULES = ("torch", "diffusers.pipelines.audioldm2", "transformers.models.gpt2.modeling_gpt2")
EndOfStep = Callable[..., None]
Outcome = tuple[np.ndarray, dict[str, float]]  # audios (rows, samples), seconds by stage


class Contender(Protocol):
    """One side, open."""

    sample_rate_hz: int
    precision: str  # what its matrix products are in

    def render(self, prompts: list[str], latents: np.ndarray | None, steps: int, end_of_step: EndOfStep) -> Outcome:
        """Make a waveform of each prompt, from latents (rows, channels, height, width) or, if None, its own noise."""


class Clock:
    """Seconds spent in methods that are wrapped, by stage, and when each stage began and ended."""

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        self._wait = wait  # for the device, so that what it does counts where it is asked for
        self.seconds: dict[str, float] = {}
        self.begun: dict[str, float] = {}
        self.ended: dict[str, float] = {}

    def wrap(self, owner: Any, method: str, stage: str) -> None:
        """Time every call of a method from now on."""
        inner = getattr(owner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            self._wait()
            self.begun[stage] = time.perf_counter()
            result = inner(*arguments, **named)
            self._wait()
            self.ended[stage] = time.perf_counter()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + self.ended[stage] - self.begun[stage]
            return result

        setattr(owner, method, timed)

    def text(self, seconds: float) -> dict[str, float]:
        """The parts of `seconds` of encoding, if any of them is timed."""
        parts = {name: self.seconds[name] for name in TEXT if name in self.seconds}
        return {"tokenize": seconds - sum(parts.values()), **parts} if parts else {"encode": seconds}


def openvino_precision() -> str:
    """What OpenVINO's CPU plugin computes in by itself."""
    import openvino

    return "bf16" if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"


class Ours:
    """`runtime` over a bundle; its engines are loaded here, not by the first call."""

    def __init__(self, case: Mapping[str, Any]) -> None:
        from runtime import AudioLDM2Pipeline
        from runtime.pipeline import AUDIO_STAGE, TEXT_STAGE

        self._pipeline = AudioLDM2Pipeline.from_pretrained(
            case["engines"], device=case["device"], backend=case["backend"], precision=case["asked_precision"]
        )
        engines, self._clock = self._pipeline._engines, Clock()
        engines.open(*TEXT_STAGE, "unet", *AUDIO_STAGE)
        if case["device"] == "cpu":  # a GPU works later than it is asked to, and replays graphs of these runs
            for name, stage in TEXT_ENGINES.items():
                self._clock.wrap(engines[name], "run", stage)
        self.precision: str = case["precision"] or openvino_precision()
        self.sample_rate_hz = self._pipeline._audio.sample_rate_hz

    def render(self, prompts: list[str], latents: np.ndarray | None, steps: int, end_of_step: EndOfStep) -> Outcome:
        """As a Contender."""
        self._clock.seconds.clear()
        result = self._pipeline(
            prompts,
            **({"seed": 0} if latents is None else {"latents": latents}),
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            scheduler=SCHEDULER,
            callback=end_of_step,
        )
        stages = {name: result.timings[name] for name in ("load", "denoise", "decode", "vocode")}
        return result.audios, {**self._clock.text(result.timings["encode"]), **stages}


class Diffusers:
    """The reference pipeline; compiled, or with its modules swapped, as the case says."""

    def __init__(self, case: Mapping[str, Any]) -> None:
        import diffusers
        import torch

        from bench.rivals import load_reference

        checkpoint, self._torch, self.precision = Path(case["checkpoint"]), torch, case["precision"]
        torch.backends.cudnn.allow_tf32 = self.precision != "fp32"
        if case["swapped"]:
            from bench.latency import swapped

            self._pipe, self.precision = swapped.load(checkpoint, Path(case["swapped"])), openvino_precision()
        else:
            self._pipe = load_reference(checkpoint, TORCH_NAMES[self.precision], case["device"])
        if case["compiled"]:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = case["compiled"]  # a new folder: cold is cold
            for module in (self._pipe.unet, self._pipe.vae.decoder, self._pipe.vocoder):
                module.compile()
        self._pipe.scheduler = getattr(diffusers, SCHEDULER).from_config(self._pipe.scheduler.config)
        self.sample_rate_hz = self._pipe.vocoder.config.sampling_rate
        self._clock = self._wrapped(wait=case["device"] != "cpu")

    def _wrapped(self, wait: bool) -> Clock:
        pipe, clock = self._pipe, Clock(self._torch.cuda.synchronize if wait else lambda: None)
        clock.wrap(pipe, "encode_prompt", "text")
        clock.wrap(pipe.text_encoder, "get_text_features", "encode")
        clock.wrap(pipe.text_encoder_2, "forward", "encode")
        clock.wrap(pipe.projection_model, "forward", "encode")
        clock.wrap(pipe, "generate_language_model", "generate")
        clock.wrap(pipe.vae, "decode", "decode")
        clock.wrap(pipe, "mel_spectrogram_to_waveform", "vocode")
        return clock

    def render(self, prompts: list[str], latents: np.ndarray | None, steps: int, end_of_step: EndOfStep) -> Outcome:
        """As a Contender."""
        clock, torch, unet = self._clock, self._torch, self._pipe.unet
        clock.seconds.clear()
        given = None if latents is None else torch.from_numpy(latents).to(self._pipe.device, unet.dtype)
        made = self._pipe(
            prompts,
            latents=given,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            callback=end_of_step,
        )
        stages = {
            "denoise": clock.begun["decode"] - clock.ended["text"],
            "decode": clock.seconds["decode"],
            "vocode": clock.seconds["vocode"],
        }
        return made.audios, {**clock.text(clock.seconds["text"]), **stages}


def open_contender(case: Mapping[str, Any]) -> Contender:
    """The contender of a case, in this process."""
    return Ours(case) if case["ours"] else Diffusers(case)


def import_for(case: Mapping[str, Any]) -> None:
    """Import what a case needs, so that it can be timed apart from opening."""
    for name in OUR_MODULES if case["ours"] else THEIR_MODULES:
        importlib.import_module(name)
