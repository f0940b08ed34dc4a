"""Peak memory of one call, each in a process of its own: ours, its ways to save memory, and the reference pipeline."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.processes import in_a_process, report_to, status_gib
from bench.rivals import load_reference, weight_bytes
from runtime import Arguments, AudioLDM2Pipeline, InputError
from runtime.backends.host_memory import free_memory_bytes
from runtime.bundle import Bundle
from runtime.memory import peak_bytes
from runtime.request import check_request

GIB = 2**30
REFERENCE = "diffusers"
OPTIONS: dict[str, dict[str, Any]] = {  # of from_pretrained, by the name in the table
    "ours": {},
    "ours, vae_slicing": {"vae_slicing": True},
    "ours, low_memory": {"low_memory": True},
    "ours, low_memory and vae_slicing": {"low_memory": True, "vae_slicing": True},
}
CALL: dict[str, Any] = {
    "prompt": "The sound of a hammer hitting a wooden surface.",
    "num_inference_steps": 1,  # memory does not depend on it
}
Case = dict[str, Any]


def run(checkpoint: Path, engines: Path, durations_s: list[float], waveforms: int) -> dict[str, Any]:
    """Measure the peak resident memory of every case. A case that does not fit here is named and left out."""
    names = [name for name, options in OPTIONS.items() if waveforms > 1 or "vae_slicing" not in options]
    rows = []
    for duration_s in durations_s:
        for name in (*names, REFERENCE):
            case = {"name": name, "duration_s": duration_s, "waveforms": waveforms}
            found = _found(case, checkpoint, engines)
            rows.append({**case, **found})
            figures = ", ".join(f"{key} {value}" for key, value in found.items())
            print(f"{name:32} {duration_s:5.1f} s x {waveforms}: {figures}", flush=True)
    return {"steps": CALL["num_inference_steps"], "cases": rows}


def _found(case: Case, checkpoint: Path, engines: Path) -> dict[str, Any]:
    """What a process of its own finds of the case, unless the call may need more memory than is free."""
    needed, free = _needed_bytes(checkpoint, engines, case), free_memory_bytes()
    if free is not None and needed > free:
        return {"skipped": f"may need {needed / GIB:.1f} GiB, {free / GIB:.1f} GiB are free"}
    with tempfile.TemporaryDirectory() as work:
        told = {**case, "checkpoint": str(checkpoint), "engines": str(engines)}
        return in_a_process("bench.memory", told, Path(work))


def _needed_bytes(checkpoint: Path, engines: Path, case: Case) -> float:
    """An upper estimate of what the call needs: all weights of a side, and the activations of our graphs."""
    manifest = Bundle.read(engines).manifest
    request = check_request(manifest, Arguments(**_arguments(case)))
    options = OPTIONS.get(case["name"], {})
    low_memory, vae_slicing = options.get("low_memory", False), options.get("vae_slicing", False)
    peak = peak_bytes(manifest, request, request.latent_shape[2], low_memory=low_memory, vae_slicing=vae_slicing)
    if case["name"] == REFERENCE:
        return peak + weight_bytes(checkpoint)
    return peak + (0 if low_memory else sum(file.size_bytes for file in manifest.files()))


def _arguments(case: Case) -> dict[str, Any]:
    """What both pipelines are called with."""
    return {**CALL, "audio_length_in_s": case["duration_s"], "num_waveforms_per_prompt": case["waveforms"]}


def _measure(case: Case) -> dict[str, float | str]:
    """Make one sound: the highest resident memory of this process, and what it has after the call.

    Weights that are mapped from files count.
    """
    start = time.perf_counter()
    if case["name"] == REFERENCE:
        reference = load_reference(Path(case["checkpoint"]), "float32", "cpu")  # kept until the end, as ours is
        reference(**_arguments(case))
    else:
        pipeline = AudioLDM2Pipeline.from_pretrained(case["engines"], **OPTIONS[case["name"]])
        try:
            pipeline(**_arguments(case))
        except InputError as error:
            return {"refused": str(error)}
    return {
        "peak_gib": round(status_gib("VmHWM"), 2),
        "after_gib": round(status_gib("VmRSS"), 2),
        "seconds": round(time.perf_counter() - start, 1),
    }


if __name__ == "__main__":
    sys.exit(report_to(Path(sys.argv[2]), lambda: _measure(json.loads(sys.argv[1]))))
