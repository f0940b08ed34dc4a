"""How much memory this process may still take."""

from pathlib import Path


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
