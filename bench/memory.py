"""Peak memory of one call, each in a process of its own: ours, its ways to save, and the reference pipeline."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.processes import status_gib
from bench.rivals import load_reference
from runtime import AudioLDM2Pipeline, InputError
from runtime.arguments import Arguments
from runtime.backends.host_memory import free_memory_bytes
from runtime.bundle import Bundle
from runtime.memory import peak_bytes
from runtime.request import check_request

GIB = 2**30
REFERENCE = "diffusers"
OPTIONS: dict[str, dict[str, bool]] = {  # of from_pretrained, by the name in the table
    "ours": {},
    "ours, vae_slicing": {"vae_slicing": True},
    "ours, low_memory": {"low_memory": True},
    "ours, low_memory and vae_slicing": {"low_memory": True, "vae_slicing": True},
}
CALL = {
    "prompt": "The sound of a hammer hitting a wooden surface.",
    "num_inference_steps": 1,  # memory does not depend on it
}


def run(checkpoint: Path, engines: Path, durations_s: list[float], waveforms: int) -> dict[str, Any]:
    """Peak resident memory of every case; one that does not fit here is named and left out."""
    names = [name for name, options in OPTIONS.items() if waveforms > 1 or "vae_slicing" not in options]
    rows = []
    for duration_s in durations_s:
        for name in (*names, REFERENCE):
            case = {"name": name, "duration_s": duration_s, "waveforms": waveforms}
            needed, free = _needed_bytes(checkpoint, engines, case), free_memory_bytes()
            if free is not None and needed > free:
                found = {"skipped": f"may need {needed / GIB:.1f} GiB, {free / GIB:.1f} GiB are free"}
            else:
                found = _in_a_process(case, checkpoint, engines)
            rows.append({**case, **found})
            figures = ", ".join(f"{key} {value}" for key, value in found.items())
            print(f"{name:32} {duration_s:5.1f} s x {waveforms}: {figures}", flush=True)
    return {"steps": CALL["num_inference_steps"], "cases": rows}


def _needed_bytes(checkpoint: Path, engines: Path, case: dict[str, Any]) -> float:
    """Upper estimate: all weights of a side, and the activations of our graphs."""
    manifest = Bundle.read(engines).manifest
    given = Arguments(**CALL, audio_length_in_s=case["duration_s"], num_waveforms_per_prompt=case["waveforms"])
    request = check_request(manifest, given)
    options = OPTIONS.get(case["name"], {})
    low_memory, vae_slicing = options.get("low_memory", False), options.get("vae_slicing", False)
    peak = peak_bytes(manifest, request, request.latent_shape[2], low_memory=low_memory, vae_slicing=vae_slicing)
    if case["name"] == REFERENCE:
        return peak + sum(file.stat().st_size for file in checkpoint.rglob("*.safetensors"))
    return peak + (0 if low_memory else sum(file.size_bytes for file in manifest.files()))


def _in_a_process(case: dict[str, Any], checkpoint: Path, engines: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.memory", json.dumps(case), str(checkpoint), str(engines)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        return {"failed": (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def _measure(case: dict[str, Any], checkpoint: Path, engines: Path) -> dict[str, float | str]:
    """Make one sound; resident memory of this process, highest and after the call. Mapped weights count."""
    arguments = {**CALL, "audio_length_in_s": case["duration_s"], "num_waveforms_per_prompt": case["waveforms"]}
    start = time.perf_counter()
    if case["name"] == REFERENCE:
        reference = load_reference(checkpoint, "float32", "cpu")  # kept until the end, as ours is
        reference(**arguments)
    else:
        pipeline = AudioLDM2Pipeline.from_pretrained(engines, **OPTIONS[case["name"]])
        try:
            pipeline(**arguments)
        except InputError as error:
            return {"refused": str(error)}
    return {
        "peak_gib": round(status_gib("VmHWM"), 2),
        "after_gib": round(status_gib("VmRSS"), 2),
        "seconds": round(time.perf_counter() - start, 1),
    }


if __name__ == "__main__":
    print(json.dumps(_measure(json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))))
