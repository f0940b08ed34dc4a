"""Who used the processors while a load was on: this program, the server, and other work on the machine."""

import os
import time
from pathlib import Path

from bench.serve.subjects import Subject


class Usage:
    """Processor time from now on, as Linux counts it; of other systems this program's alone."""

    def __init__(self, subject: Subject) -> None:
        self._pid = None if subject.process is None else subject.process.pid
        self._own_s, self._server_s, self._busy_s = time.process_time(), self._server(), _machine()

    def since(self, seconds: float, requests: int) -> dict[str, float | None]:
        """Seconds a request of the load generator and the server, and the share of all cores that others used."""
        own_s, server_s, busy_s = time.process_time() - self._own_s, self._server(), _machine()
        found: dict[str, float | None] = {"generator_cpu_s": own_s / requests if requests else None}
        if server_s is None or self._server_s is None or busy_s is None or self._busy_s is None or not requests:
            return {**found, "server_cpu_s": None, "others_share": None}
        server_s, busy_s = server_s - self._server_s, busy_s - self._busy_s
        others = (busy_s - own_s - server_s) / (seconds * (os.cpu_count() or 1))
        return {**found, "server_cpu_s": server_s / requests, "others_share": max(0.0, others)}

    def _server(self) -> float | None:
        """Processor time of the server's processes so far; None of one that the user started."""
        return None if self._pid is None else _tree(str(self._pid))


def _tree(pid: str) -> float | None:
    """Processor time of a process and of all that it started; None where it cannot be told."""
    ticks = (
        _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[11:15]
    )  # its own, and of those that ended: see proc(5)
    if not ticks:
        return None
    started = [child for task in Path(f"/proc/{pid}/task").glob("*/children") for child in _read(task).split()]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") + sum(_tree(child) or 0.0 for child in started)


def _machine() -> float | None:
    """Time that all cores were busy so far, or taken by another machine on the same host."""
    ticks = [int(text) for text in _read("/proc/stat").partition("\n")[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK") if len(ticks) == 8 else None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
