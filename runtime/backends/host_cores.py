"""How many cores this process may use: a container's quota and an affinity mask count, the machine's cores do not."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores_if_fewer(root: Path = Path("/")) -> int | None:
    """The cores that this process may use where they are fewer than the machine has; None where it may use all.

    ONNX Runtime and OpenVINO start a thread for each core of the machine. Where a quota or a mask allows fewer, those
    threads wait for each other. `root` is where `proc` and `sys` are.
    """
    cores = os.cpu_count() or 1
    allowed = [cores]
    if hasattr(os, "sched_getaffinity"):  # Linux
        allowed.append(len(os.sched_getaffinity(0)))
    allowed += [max(1, math.ceil(quota)) for quota in _quotas(root)]
    return min(allowed) if min(allowed) < cores else None


def _quotas(root: Path) -> Iterator[float]:
    """Cores that each control group above this process allows it, in version 2 and in version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    mount = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        for top in (mount, mount / controllers, mount / "cpu") if controllers else (mount,):
            for folder in _up(top, path):
                yield from _quota(folder)


def _up(top: Path, path: str) -> Iterator[Path]:
    """The folder of a group, and those above it. In a container the path may be the host's: only the top is there."""
    group = top / path.strip("/")
    yield top
    while group != top and top in group.parents:
        yield group
        group = group.parent


def _quota(folder: Path) -> Iterator[float]:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        elif (folder / "cpu.cfs_quota_us").is_file():
            quota, period = ((folder / f"cpu.cfs_{part}_us").read_text().strip() for part in ("quota", "period"))
        else:
            return
        if quota not in ("max", "-1") and float(period) > 0:
            yield float(quota) / float(period)
    except (OSError, ValueError):
        return
