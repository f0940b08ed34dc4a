"""How much memory this process may still take, whoever limits it: the machine, a container or the shell."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

UNLIMITED_BYTES = 1 << 60  # what cgroup v1 shows for no limit is just under 2 ** 63
V2_MOUNTS = ("sys/fs/cgroup", "sys/fs/cgroup/unified")  # alone, or beside v1
V1_MOUNT = "sys/fs/cgroup/memory"
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
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        kibibytes = value.removesuffix("kB").strip()
        if name == "MemAvailable" and kibibytes.isdecimal():
            yield int(kibibytes) * 1024


def _group_limits(root: Path) -> Iterator[int]:
    """What each control group leaves: limit minus usage, plus what can be reclaimed."""
    v2, v1 = _group_paths(root)
    for mount in V2_MOUNTS:
        for folder in _upwards(root / mount, v2):
            # above `high` the kernel slows a process down until it hardly moves: a limit like `max`
            for limit in _limits(folder, "memory.max", "memory.high"):
                yield limit - _held(folder, "memory.current", V2_RECLAIMABLE)
    for folder in _upwards(root / V1_MOUNT, v1):
        for limit in _limits(folder, "memory.limit_in_bytes"):
            yield limit - _held(folder, "memory.usage_in_bytes", V1_RECLAIMABLE)


def _group_paths(root: Path) -> tuple[str, str]:
    """The process's own group in version 2, and the one that limits memory in version 1."""
    v2 = v1 = "/"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            v2 = path
        elif "memory" in controllers.split(","):
            v1 = path
    return v2, v1


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The folders of a group and of all that it lies in, as far as they can be seen.

    In a container the path may be the host's, of which only the end of it is mounted: then the mount is the group.
    """
    inside = PurePosixPath(*(part for part in PurePosixPath(path).parts if part not in ("/", "..")))
    for part in (inside, *inside.parents):
        yield mount / part


def _limits(folder: Path, *names: str) -> Iterator[int]:
    for name in names:
        limit = _number(folder / name)  # "max" is no number
        if limit is not None and limit < UNLIMITED_BYTES:
            yield limit


def _held(folder: Path, usage: str, reclaimable: tuple[str, ...]) -> int:
    """Bytes of a group that the kernel cannot take back."""
    fields = (line.split() for line in _text(folder / "memory.stat").splitlines())
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
    pages = _text(root / "proc/self/statm").split()[:1]
    if limit != resource.RLIM_INFINITY and pages and pages[0].isdecimal():
        yield limit - int(pages[0]) * resource.getpagesize()


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    """What a file of the kernel's says; nothing where it is absent, unreadable or no text."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
