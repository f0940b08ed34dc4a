"""Refusing a call that cannot fit in memory before it starts, with the longest duration that can."""

import logging
from pathlib import Path

from runtime.bundle import Manifest
from runtime.errors import InputError
from runtime.request import Request

logger = logging.getLogger(__name__)


def check_memory(manifest: Manifest, request: Request, available_bytes: int | None = None) -> None:
    """Raise InputError if the call's activations are larger than the memory that is free.

    Activations come from the manifest: measured when the bundle was built, as a polynomial of the latent height.
    """
    available = free_memory_bytes() if available_bytes is None else available_bytes
    if available is None:
        return
    height = request.latent_shape[2]
    needed = activation_bytes(manifest, request, height)
    if needed <= available:
        return
    low, high = 0, height  # the largest height that fits, by bisection
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if activation_bytes(manifest, request, middle) <= available else (low, middle)
    audio = manifest.audio
    seconds = audio.hop_samples * audio.vae_scale_factor / audio.sample_rate_hz
    fits = f"about {low * seconds:.1f} s fit" if low else "not even the shortest fits"
    raise InputError(
        f"{request.rows} waveforms of {height * seconds:.1f} s need about {needed / 2**30:.1f} GiB, "
        f"{available / 2**30:.1f} GiB are free: {fits} (or make fewer waveforms at once)"
    )


def activation_bytes(manifest: Manifest, request: Request, height: int) -> float:
    """Peak bytes of activations over the engines whose size grows with the latent height."""
    rows = {"unet": request.rows * (1 if request.negative_prompts is None else 2)}
    peaks = [
        rows.get(name, request.rows) * sum(c * height**power for power, c in enumerate(spec.activation_bytes))
        for name, spec in manifest.engines.items()
    ]
    return max(peaks, default=0.0)


def free_memory_bytes() -> int | None:
    """Bytes that this process may still take: the kernel's estimate and the cgroup's limit; None if unknown."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # another system, or no cgroup v2: what was found so far counts
    return min(found, default=None)
