"""The first hour's items that run whole calls of a bundle: how right, how long, in what memory and which kernels."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from runtime import AudioLDM2Pipeline
from runtime.backends.device import Array

Found = dict[str, Any]
PROMPT = "a church bell"
CALL = {"scheduler": "DPMSolverMultistepScheduler", "seed": 1}
WARM = 3  # runs, of which the second captures and the third is the first to replay all
AIMS_S = {(1, 20): 0.09, (1, 200): 0.7}  # for an H100, by waveforms and steps
MOST_KERNELS = 40


def call(case: Mapping[str, Any]) -> Found:
    """On the GPU against the CPU, on the same latents: parity, then time by stage, with CUDA graphs and without."""
    cpu = AudioLDM2Pipeline.from_pretrained(case["engines"], device="cpu", backend="onnxruntime")
    expected = cpu(PROMPT, num_inference_steps=20, **CALL).audios
    found: Found = {}
    for graphs in (True, False):
        pipe = _on_device(case, cuda_graphs=graphs)
        made = [pipe(PROMPT, num_inference_steps=20, **CALL) for _ in range(WARM + 5)]
        apart = [apart_by(each.audios, expected) for each in made]
        row = {"apart": max(apart), "stages_s": _stages(made[WARM:]), "label": pipe.label}
        found["graphs" if graphs else "plain"] = row
        pipe.close()
    worst = max(row["apart"] for row in found.values())
    return {**found, "aim": case.get("aim", 1e-3), "ok": worst <= case.get("aim", 1e-3)}


def times(case: Mapping[str, Any]) -> Found:
    """Seconds of a call by stage, first and later ones, at 1 and 4 waveforms, 20 and 200 steps; the memory taken."""
    pipe, rows = _on_device(case), list[Found]()
    for waveforms, steps in case.get("sizes", ((1, 20), (4, 20), (1, 200), (4, 200))):
        options = {"num_inference_steps": steps, "num_waveforms_per_prompt": waveforms, **CALL}
        made = [pipe(PROMPT, **options) for _ in range(WARM + 5)]
        whole = [sum(_stages([each]).values()) for each in made]
        rows.append(
            {
                "waveforms": waveforms,
                "steps": steps,
                "first_s": whole[0],
                "median_s": statistics.median(whole[WARM:]),
                "aim_s": AIMS_S.get((waveforms, steps)),
                "stages_s": _stages(made[WARM:]),
                "gpu_gib": _taken_gib(),
                "finite": all(bool(np.isfinite(each.audios).all()) for each in made),
            }
        )
    pipe.close()
    return {"label": pipe.label, "rows": rows, "ok": all(row["finite"] for row in rows)}


def kernels(case: Mapping[str, Any]) -> Found:
    """The kernels of one replayed call by time, as torch's profiler sees all of a process (CUPTI)."""
    from torch.profiler import ProfilerActivity, profile

    pipe = _on_device(case)
    for _ in range(WARM):
        pipe(PROMPT, num_inference_steps=20, **CALL)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        pipe(PROMPT, num_inference_steps=20, **CALL)
    pipe.close()
    rows = by_time((event.name, event.device_time_total) for event in seen.events())
    return {**rows, "ok": rows["kernels"] > 0}


def by_time(events: Iterable[tuple[str, float]]) -> Found:
    """How many kernels there were, their microseconds, and those that took the most: name, runs, microseconds."""
    total: dict[str, list[float]] = {}
    for name, microseconds in events:
        total.setdefault(name, []).append(microseconds)
    longest = sorted(total, key=lambda name: -sum(total[name]))[:MOST_KERNELS]
    return {
        "kernels": sum(map(len, total.values())),
        "us": sum(map(sum, total.values())),
        "longest": [(name, len(total[name]), sum(total[name])) for name in longest],
    }


def _on_device(case: Mapping[str, Any], **options: Any) -> AudioLDM2Pipeline:
    return AudioLDM2Pipeline.from_pretrained(case["engines"], device=case.get("device", "cuda"), **options)


def _stages(made: Iterable[Any]) -> dict[str, float]:
    """Median seconds of each stage, but for what loading takes."""
    timings = [each.timings for each in made]
    return {name: statistics.median(each[name] for each in timings) for name in timings[0] if name != "load"}


def _taken_gib() -> float | None:
    """GPU memory that is not free, of whoever it is; None without a GPU."""
    try:
        import cupy
    except ImportError:
        return None
    free, whole = cupy.cuda.runtime.memGetInfo()
    return float((whole - free) / 2**30)


def apart_by(ours: Array, theirs: Array) -> float:
    """Relative L2. The project's own stands beside torch, which need not be here."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
