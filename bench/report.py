"""Timing in turns, and writing results with the machine, the versions and the commit that they were measured on."""

import ctypes
import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.install import installed_versions

PACKAGES = (
    *("trt-audioldm2", "torch", "diffusers", "transformers", "onnxruntime", "numpy"),
    *("openvino", "nncf"),
    *("onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "cupy-cuda12x", "cupy-cuda13x"),
)


def time_in_turns(
    functions: Mapping[str, Callable[[], Any]], runs: int, warmup: int = 2
) -> dict[str, dict[str, float]]:
    """Median and p90 seconds of each function. They are called A B A B, so that a drifting machine is fair to all."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + runs):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: spread(times) for name, times in seconds.items()}


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """The median and the 90th percentile of some times."""
    return {"median_s": statistics.median(seconds), "p90_s": sorted(seconds)[int(0.9 * (len(seconds) - 1) + 0.5)]}


def write_result(folder: Path, name: str, result: Mapping[str, Any], file: Path | None = None) -> str:
    """Write the result with its circumstances as JSON, to `file` or a new one in `folder`; return it as one line."""
    record = {"benchmark": name, **result, **circumstances()}
    file = file or folder / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=2) + "\n")
    return json.dumps(record)


def circumstances() -> dict[str, Any]:
    """What a result depends on: the hardware, the versions of packages, the commit and the date."""
    model = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "machine": model[0].split(":")[1].strip() if model else platform.processor(),
        "cores": os.cpu_count(),
        "gpu": gpu(),
        "python": platform.python_version(),
        "versions": installed_versions(*PACKAGES),
        "commit": commit.stdout.strip() or None,
        "date": time.strftime("%Y-%m-%d"),
    }


def gpu() -> dict[str, Any] | None:
    """The first GPU's name, compute capability and memory, and the driver; None without any."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, version, name, size = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(128), ctypes.c_size_t()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetName(name, 128, 0)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(size), 0)
    capability = [ctypes.c_int(), ctypes.c_int()]
    for value, attribute in zip(capability, (75, 76), strict=True):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0)
    driver = re.search(r"\d{3,}\.\d+(\.\d+)?", _read("/proc/driver/nvidia/version"))
    return {
        "name": name.value.decode(),
        "compute_capability": ".".join(str(value.value) for value in capability),
        "memory_gib": round(size.value / 2**30, 1),
        "driver": driver[0] if driver else None,
        "cuda": f"{version.value // 1000}.{version.value % 1000 // 10}",  # the newest that the driver takes
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
