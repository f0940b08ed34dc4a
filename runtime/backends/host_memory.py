"""How much memory this process may still take, whoever limits it: the machine, a container or the shell."""

from collections.abc import Iterator
from pathlib import Path

from runtime.backends.cgroups import read_text, v1_groups, v2_groups

UNLIMITED_BYTES = 1 << 60  # what cgroup v1 shows for no limit is just under 2 ** 63
V2_RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")
V1_RECLAIMABLE = ("total_inactive_file", "total_active_file")


def free_memory_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take; None where no limit can be read, as on macOS and Windows.

    The tightest of: what the kernel calls available, the limit of each control group that the process is in, from its
    own up to the outermost one that can be seen, and the limit on its address space. Memory that holds copies of files
    counts as free: the kernel gives it up when it is asked for. Swap does not count. `root` is the folder that holds
    `proc` and `sys`.
    """
    limits = [*_available(root), *_group_limits(root), *_address_space(root)]
    return max(min(limits), 0) if limits else None


def _available(root: Path) -> Iterator[int]:
    """The kernel's own estimate for the whole machine."""
    for line in read_text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        kibibytes = value.removesuffix("kB").strip()
        if name == "MemAvailable" and kibibytes.isdecimal():
            yield int(kibibytes) * 1024


def _group_limits(root: Path) -> Iterator[int]:
    """What each control group leaves: limit minus usage, plus what can be reclaimed."""
    for folder in v2_groups(root):
        # above `high` the kernel slows a process down until it hardly moves: a limit like `max`
        for limit in _limits(folder, "memory.max", "memory.high"):
            yield limit - _held(folder, "memory.current", V2_RECLAIMABLE)
    for folder in v1_groups(root, "memory"):
        for limit in _limits(folder, "memory.limit_in_bytes"):
            yield limit - _held(folder, "memory.usage_in_bytes", V1_RECLAIMABLE)


def _limits(folder: Path, *names: str) -> Iterator[int]:
    for name in names:
        limit = _number(folder / name)  # "max" is no number
        if limit is not None and limit < UNLIMITED_BYTES:
            yield limit


def _held(folder: Path, usage: str, reclaimable: tuple[str, ...]) -> int:
    """Bytes of a group that the kernel cannot take back."""
    fields = (line.split() for line in read_text(folder / "memory.stat").splitlines())
    back = sum(
        int(field[1]) for field in fields if len(field) == 2 and field[0] in reclaimable and field[1].isdecimal()
    )
    return max((_number(folder / usage) or 0) - back, 0)


def _address_space(root: Path) -> Iterator[int]:
    """What `ulimit -v` leaves."""
    try:
        import resource  # not on Windows
    except ImportError:
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = read_text(root / "proc/self/statm").split()[:1]
    if limit != resource.RLIM_INFINITY and pages and pages[0].isdecimal():
        yield limit - int(pages[0]) * resource.getpagesize()


def _number(path: Path) -> int | None:
    text = read_text(path).strip()
    return int(text) if text.isdecimal() else None
