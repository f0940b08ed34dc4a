"""How many cores this process may use: a container's quota and an affinity mask count, the machine's cores do not."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from runtime.backends.cgroups import read_text, v1_groups, v2_groups


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
    pairs = [read_text(folder / "cpu.max").split() for folder in v2_groups(root)]
    for folder in v1_groups(root, "cpu"):
        pairs.append([read_text(folder / f"cpu.cfs_{part}_us").strip() for part in ("quota", "period")])
    for quota, period in (pair for pair in pairs if len(pair) == 2):
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:  # "max" and "-1" are no quota
            yield int(quota) / int(period)
