"""Whole calls on a GPU at base size: our engines against diffusers FP16, eager and compiled, all in one run.

10.24 s of audio. Each contender and batch size has a process of its own, so that its memory is its own. Each call has
prompts of its own, because ours keeps the conditioning of those it has seen.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.processes import in_a_process, report_to, run_python
from bench.report import gpu, time_in_turns
from bench.rivals import DECODE_FLOP, UNET_FLOP, load_reference, matmul_flops, prompts, random_checkpoint
from bench.rivals import compare as compare_waveforms

OURS, EAGER, COMPILED, EXACT, RATE = "ours", "eager", "compile", "fp32", "matmul"
RIVALS = (EAGER, COMPILED, EXACT)
COMPILE_MODE = "reduce-overhead"  # with CUDA graphs, as in Hugging Face's post on a faster AudioLDM 2
LATENTS = (1, 8, 256, 16)
ACCURACY_STEPS = 20
GIB = 2**30
WARMUP = 2
Outcome = tuple[np.ndarray, dict[str, float]]  # audios (rows, samples), seconds by stage


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every contender. The result's `failed` is true when ours could not run in some case."""
    if gpu() is None:
        raise SystemExit("error: no NVIDIA GPU was found here: this benchmark needs one and its driver")
    names = [name for name in (OURS, *RIVALS) if name not in options.without]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        checkpoint = options.checkpoint or random_checkpoint(work / "checkpoint")
        engines, build = _engines(options, checkpoint, work / "engines")
        common = {"checkpoint": str(checkpoint), "engines": str(engines)}
        rate = in_a_process("bench.gpu", {"name": RATE}, work)

        def measure(name: str, **case: Any) -> dict[str, Any]:
            if name == OURS and "failed" in build:
                return build
            return in_a_process("bench.gpu", {**common, "name": name, **case}, work)

        rows = []
        for name, batch in ((name, batch) for name in names if name != EXACT for batch in options.batch):
            found = measure(name, batch=batch, steps=options.steps, runs=options.runs)
            measured = found.get("rows") or [{"steps": steps, "failed": found["failed"]} for steps in options.steps]
            rows += [{"name": name, "batch": batch, **row} for row in measured]
        waveforms = {name: measure(name, waveform=str(work / f"{name}.npy")) for name in names if name != COMPILED}
        accuracy = {name: compare(waveforms, name) for name in (OURS, EAGER) if name in names}
    for row in rows:
        add_figures(row, rows, rate.get("flops"))
    print(table(rows, rate, accuracy))
    settings = {"runs": options.runs, "without": options.without, "compile_mode": COMPILE_MODE}
    result = {"settings": settings, "build": build, "rate": rate, "cases": rows}
    ours = [waveforms[OURS], *(row for row in rows if row["name"] == OURS)]
    return {**result, "accuracy": accuracy, "failed": any("failed" in found for found in ours)}


def add_figures(row: dict[str, Any], rows: list[dict[str, Any]], flops: float | None) -> None:
    """Add what follows from the times: ms a UNet step, shares of the matrix rate, and times ours is faster."""
    if "failed" in row:
        return
    unet = row["batch"] * row["steps"] * UNET_FLOP
    row["unet_step_ms"] = 1e3 * row["stages"]["denoise"] / row["steps"]
    if flops:
        row["share_of_rate"] = (unet + row["batch"] * DECODE_FLOP) / row["median_s"] / flops
        row["unet_share_of_rate"] = unet / row["stages"]["denoise"] / flops
    case = (OURS, row["steps"], row["batch"])
    ours = [other for other in rows if (other["name"], other["steps"], other["batch"]) == case]
    if ours and "failed" not in ours[0]:
        row["ours_is_faster"] = row["median_s"] / ours[0]["median_s"]


def table(rows: list[dict[str, Any]], rate: dict[str, Any], accuracy: dict[str, dict[str, Any]]) -> str:
    """The figures as text, one line a case; what failed has its error there."""
    columns = {  # heading: key and format
        "first s": ("first_s", ".2f"),
        "median s": ("median_s", ".3f"),
        "p90 s": ("p90_s", ".3f"),
        "UNet ms": ("unet_step_ms", ".2f"),
        "GPU GiB": ("device_gib", ".2f"),
        "alloc GiB": ("allocated_gib", ".2f"),
        "of rate": ("share_of_rate", ".1%"),
        "ours is": ("ours_is_faster", ".2f"),
    }
    lines = [f"{'':8} steps batch" + "".join(f"{heading:>10}" for heading in columns)]
    for row in rows:
        figures = (format(row[key], form) if row.get(key) is not None else "-" for key, form in columns.values())
        text = "  failed: " + row["failed"] if "failed" in row else "".join(f"{figure:>10}" for figure in figures)
        lines.append(f"{row['name']:8} {row['steps']:5} {row['batch']:5}{text}")
    lines.append(f"matmul rate: {rate['flops'] / 1e12:.0f} TFLOP/s" if "flops" in rate else f"matmul: {rate['failed']}")
    for name, found in accuracy.items():
        error = "relative error {relative_error:.1e}, log-spectral distance {log_spectral_distance_db:.2f} dB"
        text = f"failed: {found['failed']}" if "failed" in found else error.format(**found)
        lines.append(f"{name} against diffusers fp32, {ACCURACY_STEPS} steps: {text}")
    return "\n".join(lines)


def compare(waveforms: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """Error of a contender's waveform against diffusers FP32 from the same latents."""
    for side in (name, EXACT):
        found = waveforms.get(side, {"failed": "left out"})
        if "failed" in found:
            return {"failed": f"{side}: {found['failed']}"}
    actual, expected = (Path(waveforms[side]["waveform"]) for side in (name, EXACT))
    return compare_waveforms(actual, expected)


def scheduler_of(steps: int) -> str:
    """DPM-Solver++ for few steps, the checkpoints' own DDIM for many."""
    return "DPMSolverMultistepScheduler" if steps < 100 else "DDIMScheduler"


def _engines(options: argparse.Namespace, checkpoint: Path, out: Path) -> tuple[Path, dict[str, Any]]:
    """The bundle, and how it was come by: seconds to build, or the error."""
    if options.engines:
        return options.engines, {"given": str(options.engines)}
    flags = ["--backend", options.backend, "--precision", options.precision]
    start = time.perf_counter()
    failed = run_python("-m", "export", "build", "--checkpoint", str(checkpoint), "--out", str(out), *flags)
    found = {"failed": f"build: {failed}"} if failed else {"seconds": time.perf_counter() - start}
    return out, {"backend": options.backend, "precision": options.precision, **found}


@dataclass
class Contender:
    """One side, in its own process."""

    call: Callable[..., Outcome]  # of prompts, steps and, maybe, latents
    free_bytes: Callable[[], int] | None  # of the whole GPU
    allocated_bytes: Callable[[], int] | None = None  # most that torch's allocator gave out


def _found(case: dict[str, Any]) -> dict[str, Any]:
    """In the process of a case: what it finds."""
    if case["name"] == RATE:
        return {"flops": matmul_flops("float16", "cuda", size=8192, runs=20, warmup=20)}
    free_bytes = _free_bytes(case["name"])
    free_at_start = free_bytes() if free_bytes else 0
    start = time.perf_counter()
    contender = _ours(case, free_bytes) if case["name"] == OURS else _rival(case, free_bytes)
    load_s = time.perf_counter() - start
    if "waveform" in case:
        latents = np.random.default_rng(0).standard_normal(LATENTS, np.float32)
        np.save(case["waveform"], contender.call(prompts(0, 1), ACCURACY_STEPS, latents)[0])
        return {"waveform": case["waveform"]}
    numbers = itertools.count()  # of calls
    rows = [_time(contender, case, steps, numbers, free_at_start) for steps in case["steps"]]
    for row in rows[1:]:
        row["first_s"] = None  # only a process's first call is cold
    rows[0]["load_s"] += load_s
    return {"rows": rows}


def _time(
    contender: Contender, case: dict[str, Any], steps: int, numbers: Iterator[int], free_at_start: int
) -> dict[str, Any]:
    """Times of a case's calls of `steps`, medians by stage, and the most GPU memory that one took."""
    stages: list[dict[str, float]] = []

    def call() -> None:
        stages.append(contender.call(prompts(next(numbers), case["batch"]), steps)[1])

    start = time.perf_counter()
    call()
    load_s = stages[0].get("load", 0.0)  # ours loads its engines in the first call
    first_s = time.perf_counter() - start - load_s
    times = time_in_turns({"call": call}, case["runs"], WARMUP)["call"]
    warm = stages[1 + WARMUP :]
    with _lowest(contender.free_bytes) as lowest:  # around a call that is not timed: asking takes time
        call()
    return {
        "steps": steps,
        "scheduler": scheduler_of(steps),
        "load_s": load_s,
        "first_s": first_s,
        **times,
        "stages": {name: statistics.median(stage[name] for stage in warm) for name in warm[0]},
        "device_gib": (free_at_start - lowest[0]) / GIB if lowest else None,
        "allocated_gib": contender.allocated_bytes() / GIB if contender.allocated_bytes else None,
    }


@contextmanager
def _lowest(free_bytes: Callable[[], int] | None) -> Iterator[list[int]]:
    """A list with the least that was free while the block ran; empty if that cannot be asked."""
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
    """Asks the driver, through what the contender has anyway; None if our backend came without CuPy."""
    if name != OURS:
        import torch

        return lambda: torch.cuda.mem_get_info()[0]
    try:
        import cupy
    except ImportError:
        return None
    return lambda: int(cupy.cuda.runtime.memGetInfo()[0])


def _ours(case: dict[str, Any], free_bytes: Callable[[], int] | None) -> Contender:
    from runtime import AudioLDM2Pipeline

    pipeline = AudioLDM2Pipeline.from_pretrained(case["engines"], device="cuda")

    def call(texts: list[str], steps: int, latents: np.ndarray | None = None) -> Outcome:
        source = {"seed": 0} if latents is None else {"latents": latents}
        result = pipeline(texts, num_inference_steps=steps, scheduler=scheduler_of(steps), **source)
        return np.asarray(result.audios), dict(result.timings)

    return Contender(call, free_bytes)


def _rival(case: dict[str, Any], free_bytes: Callable[[], int] | None) -> Contender:
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

    return Contender(call, free_bytes, torch.cuda.max_memory_allocated)


if __name__ == "__main__":
    sys.exit(report_to(Path(sys.argv[2]), lambda: _found(json.loads(sys.argv[1]))))
