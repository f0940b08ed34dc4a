"""The pipelines that are compared, as their own process has them: opened once, then called with prompts and latents."""

import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
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
Arrays = Mapping[str, Any]  # of an engine, by name
EndOfStep = Callable[..., None]
Outcome = tuple[np.ndarray, dict[str, float]]  # audios (rows, samples), seconds by stage


class StagedPipeline(Protocol):
    """A pipeline that is open, and whose calls tell how long each of their stages took."""

    sample_rate_hz: int
    precision: str  # of its matrix products

    def render(self, prompts: list[str], latents: np.ndarray | None, steps: int, end_of_step: EndOfStep) -> Outcome:
        """Make a waveform of each prompt from latents (rows, channels, height, width); from noise of its own if None.

        `end_of_step` is called whenever a denoising step has ended.
        """


class Clock:
    """Adds up the seconds that are spent in stages, and knows when each stage last began and ended."""

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        self._wait = wait  # for the device, so that what it does counts where it is asked for
        self.seconds: dict[str, float] = {}
        self.begun: dict[str, float] = {}
        self.ended: dict[str, float] = {}

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Count the time that the block takes as time of a stage."""
        self._wait()
        self.begun[stage] = time.perf_counter()
        yield
        self._wait()
        self.ended[stage] = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + self.ended[stage] - self.begun[stage]

    def wrap(self, owner: Any, method: str, stage: str) -> None:
        """Time every call of a method of the reference pipeline from now on: it has no hook of its own."""
        inner = getattr(owner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            with self.timing(stage):
                return inner(*arguments, **named)

        setattr(owner, method, timed)

    def timed_run(self, stage: str, run: Callable[[Arrays], Arrays], feeds: Arrays) -> Arrays:
        """Run one of our engines as a part of a stage; see `OpenEngines.intercept`."""
        with self.timing(stage):
            return run(feeds)

    def text(self, seconds: float) -> dict[str, float]:
        """`seconds` of encoding, split into its parts if any was timed. What no part took was spent on tokenizing."""
        parts = {name: self.seconds[name] for name in TEXT if name in self.seconds}
        return {"tokenize": seconds - sum(parts.values()), **parts} if parts else {"encode": seconds}


def openvino_precision() -> str:
    """The precision in which OpenVINO's CPU plugin computes if it is left to choose."""
    import openvino

    return "bf16" if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"


class OurPipeline:
    """Our pipeline over a bundle. Its engines are loaded when it is opened, not by the first call."""

    def __init__(self, case: Mapping[str, Any]) -> None:
        from runtime import AudioLDM2Pipeline
        from runtime.bundle import Bundle

        bundle, self._clock = Bundle.read(case["engines"]), Clock()
        options = {"backend": case["backend"] or "auto", "precision": case["asked_precision"]}
        self._pipeline = AudioLDM2Pipeline(bundle, case["device"], **options)
        self._pipeline.engines.open(*TEXT_ENGINES, "unet", "vae_decoder", "vocoder")
        if case["device"] == "cpu":  # a GPU works later than it is asked to, and replays graphs of these runs
            for name, stage in TEXT_ENGINES.items():
                self._pipeline.engines.intercept(name, partial(self._clock.timed_run, stage))
        self._guidance = GUIDANCE if case["guided"] else 1.0
        self.precision: str = case["precision"] or openvino_precision()
        self.sample_rate_hz = bundle.manifest.audio.sample_rate_hz

    def render(self, prompts: list[str], latents: np.ndarray | None, steps: int, end_of_step: EndOfStep) -> Outcome:
        """As StagedPipeline says."""
        self._clock.seconds.clear()
        result = self._pipeline(
            prompts,
            **({"seed": 0} if latents is None else {"latents": latents}),
            num_inference_steps=steps,
            guidance_scale=self._guidance,
            scheduler=SCHEDULER,
            callback=end_of_step,
        )
        stages = {name: result.timings[name] for name in ("load", "denoise", "decode", "vocode")}
        return result.audios, {**self._clock.text(result.timings["encode"]), **stages}


class ReferencePipeline:
    """The reference pipeline, from diffusers; compiled, or with its modules swapped for others, as the case says."""

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
        """As StagedPipeline says."""
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


def open_pipeline(case: Mapping[str, Any]) -> StagedPipeline:
    """Open the pipeline of a case in this process."""
    return OurPipeline(case) if case["ours"] else ReferencePipeline(case)


def import_for(case: Mapping[str, Any]) -> None:
    """Import the modules that a case needs, so that importing is timed apart from opening."""
    for name in OUR_MODULES if case["ours"] else THEIR_MODULES:
        importlib.import_module(name)
