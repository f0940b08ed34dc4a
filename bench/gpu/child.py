"""`python -m bench.gpu.child CASE OUT`: one contender in a process of its own, for `bench.processes.in_a_process`.

Each call has prompts of its own, because ours keeps the conditioning of the prompts that it has seen.
"""

import itertools
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.processes import report_to
from bench.report import time_in_turns
from bench.rivals import load_reference, matmul_flops, prompts

OURS, EAGER, COMPILED, EXACT, RATE = "ours", "eager", "compile", "fp32", "matmul"
RIVALS = (EAGER, COMPILED, EXACT)
COMPILE_MODE = "reduce-overhead"  # with CUDA graphs, as in Hugging Face's post on a faster AudioLDM 2
LATENTS = (1, 8, 256, 16)
ACCURACY_STEPS = 20
GIB = 2**30
WARMUP = 2
Outcome = tuple[np.ndarray, dict[str, float]]  # audios (rows, samples), seconds by stage


def scheduler_of(steps: int) -> str:
    """The scheduler that suits a number of steps: DPM-Solver++ for few, DDIM, which the checkpoints name, for many."""
    return "DPMSolverMultistepScheduler" if steps < 100 else "DDIMScheduler"


@dataclass
class GpuPipeline:
    """Ours or the reference pipeline, loaded onto the GPU, with functions that tell how much memory is in use."""

    call: Callable[..., Outcome]  # takes prompts and steps, and latents where the noise has to be the same everywhere
    free_bytes: Callable[[], int] | None  # what is free of the whole GPU's memory
    allocated_bytes: Callable[[], int] | None = None  # the most that torch's allocator had given out
    close: Callable[[], None] = lambda: None  # at the end: ours keeps what RTX compiled for the next process


def _found(case: dict[str, Any]) -> dict[str, Any]:
    """Run in the process of a case: measure it, and return what was found."""
    if case["name"] == RATE:
        return {"flops": matmul_flops("float16", "cuda", size=8192, runs=20, warmup=20)}
    free_bytes = _free_bytes(case["name"])
    free_at_start = free_bytes() if free_bytes else 0
    start = time.perf_counter()
    pipeline = _ours(case, free_bytes) if case["name"] == OURS else _rival(case, free_bytes)
    load_s = time.perf_counter() - start
    if "waveform" in case:
        latents = np.random.default_rng(0).standard_normal(LATENTS, np.float32)
        np.save(case["waveform"], pipeline.call(prompts(0, 1), ACCURACY_STEPS, latents)[0])
        return {"waveform": case["waveform"]}
    numbers = itertools.count()  # of calls
    rows = [_time(pipeline, case, steps, numbers, free_at_start) for steps in case["steps"]]
    for row in rows[1:]:
        row["first_s"] = None  # only a process's first call is cold
    rows[0]["load_s"] += load_s
    pipeline.close()
    return {"rows": rows}


def _time(
    pipeline: GpuPipeline, case: dict[str, Any], steps: int, numbers: Iterator[int], free_at_start: int
) -> dict[str, Any]:
    """Time the calls of a case with `steps` steps: medians by stage, and the most GPU memory that one call took."""
    stages: list[dict[str, float]] = []

    def call() -> None:
        stages.append(pipeline.call(prompts(next(numbers), case["batch"]), steps)[1])

    start = time.perf_counter()
    call()
    load_s = stages[0].get("load", 0.0)  # ours loads its engines in the first call
    first_s = time.perf_counter() - start - load_s
    times = time_in_turns({"call": call}, case["runs"], WARMUP)["call"]
    warm = stages[1 + WARMUP :]
    with _lowest(pipeline.free_bytes) as lowest:  # around a call that is not timed: asking takes time
        call()
    return {
        "steps": steps,
        "scheduler": scheduler_of(steps),
        "load_s": load_s,
        "first_s": first_s,
        **times,
        "stages": {name: statistics.median(stage[name] for stage in warm) for name in warm[0]},
        "device_gib": (free_at_start - lowest[0]) / GIB if lowest else None,
        "allocated_gib": pipeline.allocated_bytes() / GIB if pipeline.allocated_bytes else None,
    }


@contextmanager
def _lowest(free_bytes: Callable[[], int] | None) -> Iterator[list[int]]:
    """Yield a list with the least memory that was free while the block ran. It stays empty if nobody can be asked."""
    lowest, done = ([free_bytes()] if free_bytes else []), threading.Event()

    def sample() -> None:
        while free_bytes and not done.wait(0.002):
            lowest[0] = min(lowest[0], free_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield lowest
    finally:
        done.set()
        thread.join()


def _free_bytes(name: str) -> Callable[[], int] | None:
    """A function that asks the driver for free bytes, through a library that the contender loads anyway.

    None if that is not possible: our backend for ONNX Runtime needs no CuPy.
    """
    if name != OURS:
        import torch

        return lambda: torch.cuda.mem_get_info()[0]
    try:
        import cupy
    except ImportError:
        return None
    return lambda: int(cupy.cuda.runtime.memGetInfo()[0])


def _ours(case: dict[str, Any], free_bytes: Callable[[], int] | None) -> GpuPipeline:
    from runtime import AudioLDM2Pipeline

    pipeline = AudioLDM2Pipeline.from_pretrained(case["engines"], device="cuda")

    def call(texts: list[str], steps: int, latents: np.ndarray | None = None) -> Outcome:
        source = {"seed": 0} if latents is None else {"latents": latents}
        result = pipeline(texts, num_inference_steps=steps, scheduler=scheduler_of(steps), **source)
        return np.asarray(result.audios), dict(result.timings)

    return GpuPipeline(call, free_bytes, close=pipeline.close)


def _rival(case: dict[str, Any], free_bytes: Callable[[], int] | None) -> GpuPipeline:
    import diffusers
    import torch

    exact = case["name"] == EXACT
    torch.backends.cudnn.allow_tf32 = not exact
    pipe = load_reference(Path(case["checkpoint"]), "float32" if exact else "float16", "cuda")
    config = pipe.scheduler.config
    if case["name"] == COMPILED:
        for module in (pipe.unet, pipe.vae.decoder, pipe.vocoder):
            module.compile(mode=COMPILE_MODE)

    def call(texts: list[str], steps: int, latents: np.ndarray | None = None) -> Outcome:
        pipe.scheduler = getattr(diffusers, scheduler_of(steps)).from_config(config)
        given = None if latents is None else torch.from_numpy(latents).to(pipe.device, pipe.dtype)
        ends: list[float] = []

        def end_of_step(step: int, *_: object) -> None:
            if step in (0, steps - 1):  # twice a call: to wait at every step would slow it down
                torch.cuda.synchronize()
                ends.append(time.perf_counter())

        start = time.perf_counter()
        audios = pipe(texts, num_inference_steps=steps, latents=given, callback=end_of_step).audios
        total = time.perf_counter() - start
        denoise = (ends[-1] - ends[0]) * steps / (steps - 1)
        return np.asarray(audios), {"denoise": denoise, "other": total - denoise}

    return GpuPipeline(call, free_bytes, torch.cuda.max_memory_allocated)


if __name__ == "__main__":
    sys.exit(report_to(Path(sys.argv[2]), lambda: _found(json.loads(sys.argv[1]))))
