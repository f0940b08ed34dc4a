"""The control groups that this process is in, by which containers and services are limited: Linux, versions 1 and 2."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

V2_MOUNTS = ("sys/fs/cgroup", "sys/fs/cgroup/unified")  # alone, or beside v1
V1_MOUNT = "sys/fs/cgroup"


def v2_groups(root: Path) -> Iterator[Path]:
    """The folders of this process's group in version 2 and of all that it lies in, as far as they can be seen.

    `root` is the folder that holds `proc` and `sys`. Not all of the folders that are named need exist.
    """
    path = next((path for number, controllers, path in _memberships(root) if number == "0" and not controllers), "/")
    for mount in V2_MOUNTS:
        yield from _upwards(root / mount, path)


def v1_groups(root: Path, controller: str) -> Iterator[Path]:
    """The same in version 1, where each controller, such as "memory", has a tree of its own."""
    found = ((names, path) for _, names, path in _memberships(root) if controller in names.split(","))
    names, path = next(found, (controller, "/"))
    for name in dict.fromkeys((names, controller)):  # a tree that serves two is called "cpu,cpuacct"
        yield from _upwards(root / V1_MOUNT / name, path)


def read_text(path: Path) -> str:
    """What a file of the kernel's says; nothing where it is absent, unreadable or no text."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def _memberships(root: Path) -> Iterator[tuple[str, str, str]]:
    """The tree's number, its controllers and the path of the group in it, for each tree that this process is in."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        yield number, controllers, path


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """In a container the path may be the host's, of which only the end is mounted: then the mount is the group."""
    inside = PurePosixPath(*(part for part in PurePosixPath(path).parts if part not in ("/", "..")))
    for part in (inside, *inside.parents):
        yield mount / part
