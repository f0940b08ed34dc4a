"""How much memory is free, over folders that look as Linux's own files do in containers and outside of them."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.backends.host_memory import free_memory_bytes

GIB = 1 << 30
NO_LIMIT = "9223372036854771712"  # as cgroup v1 writes it
Group = dict[str, Any]


def write(folder: Path, files: Group) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        text = (
            "".join(f"{key} {number}\n" for key, number in value.items()) if isinstance(value, dict) else f"{value}\n"
        )
        (folder / name).write_text(text)


def machine(root: Path, available_bytes: int | None, cgroup: str | None) -> None:
    """The files of /proc."""
    write(root / "proc/self", {} if cgroup is None else {"cgroup": cgroup})
    if available_bytes is not None:
        text = f"MemTotal:  99999999 kB\nMemFree:  1 kB\nMemAvailable:   {available_bytes // 1024} kB"
        write(root / "proc", {"meminfo": text})


def v2(limit: object, current: int, **stat: int) -> Group:
    stat = {"anon": 1, "file": 10**12, "inactive_anon": 10**12, "active_anon": 10**12, "slab": 10**12, **stat}
    return {"memory.max": limit, "memory.current": current, "memory.stat": stat}


def v1(limit: object, usage: int, **stat: int) -> Group:
    stat = {"cache": 10**12, "inactive_file": 10**12, "total_inactive_anon": 10**12, **stat}
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": usage, "memory.stat": stat}


def test_without_groups_it_is_the_kernels_estimate(tmp_path: Path) -> None:
    machine(tmp_path, 5 * GIB, "0::/user.slice")
    assert free_memory_bytes(tmp_path) == 5 * GIB


def test_page_cache_of_a_container_is_free(tmp_path: Path) -> None:
    """A container that has read large files looks full: what it holds of them is given back when memory is wanted."""
    rng = np.random.default_rng()
    inactive, active, slab = (int(number) for number in rng.integers(1, GIB, 3))
    machine(tmp_path, 64 * GIB, "0::/")
    stat = {"inactive_file": inactive, "active_file": active, "slab_reclaimable": slab, "slab_unreclaimable": GIB}
    write(tmp_path / "sys/fs/cgroup", v2(8 * GIB, 8 * GIB - 1000, **stat))
    assert free_memory_bytes(tmp_path) == 1000 + inactive + active + slab


@pytest.mark.parametrize("tightest", [0, 1, 2])
def test_the_tightest_of_nested_limits_counts(tmp_path: Path, tightest: int) -> None:
    machine(tmp_path, 64 * GIB, "0::/outer/inner")
    for i, name in enumerate(("", "outer", "outer/inner")):
        limit = 2 * GIB if i == tightest else ("max" if i == 0 else 32 * GIB)
        write(tmp_path / "sys/fs/cgroup" / name, v2(limit, GIB, inactive_file=i))
    assert free_memory_bytes(tmp_path) == GIB + tightest


def test_other_groups_do_not_count(tmp_path: Path) -> None:
    machine(tmp_path, 64 * GIB, "0::/outer/inner")
    for name in ("outer/inner/below", "outer/other", "other"):
        write(tmp_path / "sys/fs/cgroup" / name, v2(GIB, 0))
    assert free_memory_bytes(tmp_path) == 64 * GIB


def test_a_limit_that_only_slows_down(tmp_path: Path) -> None:
    machine(tmp_path, 64 * GIB, "0::/a")
    write(tmp_path / "sys/fs/cgroup/a", {**v2(8 * GIB, GIB), "memory.high": 3 * GIB})
    assert free_memory_bytes(tmp_path) == 2 * GIB


@pytest.mark.parametrize("path", ["/docker/0123", "/../..", "/../../docker/0123", "/"])
def test_a_path_that_is_not_visible_in_the_container(tmp_path: Path, path: str) -> None:
    machine(tmp_path, 64 * GIB, f"0::{path}")
    write(tmp_path / "sys/fs/cgroup", v2(4 * GIB, GIB))
    assert free_memory_bytes(tmp_path) == 3 * GIB


@pytest.mark.parametrize("controllers", ["memory", "cpuset,memory", "memory,hugetlb"])
def test_version_1(tmp_path: Path, controllers: str) -> None:
    machine(tmp_path, 64 * GIB, f"11:cpu,cpuacct:/elsewhere\n4:{controllers}:/docker/0123\n1:name=systemd:/\n0::/")
    mount = tmp_path / "sys/fs/cgroup/memory"
    write(mount, v1(NO_LIMIT, 60 * GIB))
    write(mount / "docker", v1(NO_LIMIT, 20 * GIB))
    write(mount / "docker/0123", v1(4 * GIB, 4 * GIB, total_inactive_file=GIB, total_active_file=5))
    assert free_memory_bytes(tmp_path) == GIB + 5
    write(mount / "docker", v1(6 * GIB, 6 * GIB - 100))  # of the containers together
    assert free_memory_bytes(tmp_path) == 100


def test_version_1_in_a_container_that_sees_itself_as_the_root(tmp_path: Path) -> None:
    machine(tmp_path, 64 * GIB, "4:memory:/docker/0123")
    write(tmp_path / "sys/fs/cgroup/memory", v1(4 * GIB, GIB))
    assert free_memory_bytes(tmp_path) == 3 * GIB


def test_version_1_without_a_limit_and_without_meminfo(tmp_path: Path) -> None:
    machine(tmp_path, None, "4:memory:/")
    write(tmp_path / "sys/fs/cgroup/memory", v1(NO_LIMIT, GIB))
    assert free_memory_bytes(tmp_path) is None


def test_both_versions_at_once(tmp_path: Path) -> None:
    machine(tmp_path, 64 * GIB, "4:memory:/a\n0::/b")
    write(tmp_path / "sys/fs/cgroup/memory/a", v1(4 * GIB, GIB))
    write(tmp_path / "sys/fs/cgroup/unified/b", {"cgroup.procs": ""})
    assert free_memory_bytes(tmp_path) == 3 * GIB
    write(tmp_path / "sys/fs/cgroup/unified/b", v2(2 * GIB, GIB))
    assert free_memory_bytes(tmp_path) == GIB


def test_never_less_than_nothing_nor_more_than_the_limit(tmp_path: Path) -> None:
    machine(tmp_path, 64 * GIB, "0::/")
    write(tmp_path / "sys/fs/cgroup", v2(GIB, 2 * GIB))
    assert free_memory_bytes(tmp_path) == 0
    write(tmp_path / "sys/fs/cgroup", v2(GIB, 10, inactive_file=100))
    assert free_memory_bytes(tmp_path) == GIB


def test_where_there_is_nothing_to_read(tmp_path: Path) -> None:
    assert free_memory_bytes(tmp_path) is None
    assert free_memory_bytes(tmp_path / "nowhere") is None


@pytest.mark.parametrize("garbage", ["", "none", "-1", "1e9", "\x00\xff", "12 13", "\u0663"])
@pytest.mark.parametrize("name", ["memory.max", "memory.current", "memory.stat"])
def test_garbage_is_no_limit(tmp_path: Path, name: str, garbage: str) -> None:
    machine(tmp_path, 3 * GIB, "garbage\n::::\n0::/")
    write(tmp_path / "sys/fs/cgroup", {**v2(16 * GIB, GIB, inactive_file=1), name: garbage})
    assert free_memory_bytes(tmp_path) == 3 * GIB
    (tmp_path / "proc/meminfo").write_text(f"MemAvailable: {garbage} kB\nMemAvailable\n\n:::")
    found = free_memory_bytes(tmp_path)
    assert found is None if name == "memory.max" else found is not None and 15 * GIB <= found <= 16 * GIB


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    machine(tmp_path, 3 * GIB, "0::/")
    for name in ("memory.max", "memory.current", "memory.stat"):
        (tmp_path / "sys/fs/cgroup" / name).mkdir(parents=True)
    assert free_memory_bytes(tmp_path) == 3 * GIB


def test_a_limit_on_the_address_space() -> None:
    """In a process of its own, since such a limit cannot be taken back."""
    script = (
        "import json, resource; from pathlib import Path\n"
        "from runtime.backends.host_memory import free_memory_bytes\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({2 * GIB}, resource.RLIM_INFINITY))\n"
        "print(json.dumps([free_memory_bytes(), free_memory_bytes(Path('/nowhere'))]))"
    )
    if resource.getrlimit(resource.RLIMIT_AS)[1] != resource.RLIM_INFINITY:
        script = script.replace("resource.RLIM_INFINITY", str(2 * GIB))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    free, elsewhere = json.loads(done.stdout)
    assert 0 < free < 2 * GIB
    assert elsewhere is None  # no statm says what is taken already


def test_without_the_module_of_unix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    machine(tmp_path, 3 * GIB, None)
    assert free_memory_bytes(tmp_path) == 3 * GIB
