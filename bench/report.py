"""Timing in turns, and results with the machine, the versions and the commit they were measured on."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("trt-audioldm2", "torch", "diffusers", "transformers", "onnxruntime", "numpy")


def time_in_turns(
    functions: Mapping[str, Callable[[], Any]], runs: int, warmup: int = 2
) -> dict[str, dict[str, float]]:
    """Median and p90 seconds of each function, called A B A B so that a drifting machine is fair to all."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + runs):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {
        name: {"median_s": statistics.median(times), "p90_s": sorted(times)[int(0.9 * (len(times) - 1) + 0.5)]}
        for name, times in seconds.items()
    }


def write_result(folder: Path, name: str, result: Mapping[str, Any]) -> str:
    """Write the result with its circumstances as JSON; return it as one line."""
    record = {"benchmark": name, **result, **circumstances()}
    folder.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    (folder / f"{name}-{stamp}.json").write_text(json.dumps(record, indent=2) + "\n")
    return json.dumps(record)


def circumstances() -> dict[str, Any]:
    """Hardware, versions, commit and time."""
    model = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "machine": model[0].split(":")[1].strip() if model else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "commit": commit.stdout.strip() or None,
        "date": time.strftime("%Y-%m-%d"),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
