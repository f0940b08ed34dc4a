"""Threads: as many as this process has cores, in containers of both kinds of control groups."""

import os
from pathlib import Path

import onnxruntime
import pytest

from runtime.backends.host_cores import usable_cores_if_fewer
from runtime.backends.open_device import open_device
from runtime.errors import InputError
from tests.unit.helpers import raises_line


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 cores, all of which this process may use."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "9900000 100000\n"}, None),
        # the limit is the group's above, and the path is not to be seen from inside
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "400000 100000\n"}, 4),
        ({"proc/self/cgroup": "0::/host/abc\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "800000 100000\n",
            },
            4,
        ),
        # version 1
        (
            {
                "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/docker/x\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        # nonsense
        ({"proc/self/cgroup": "rubbish\n", "sys/fs/cgroup/cpu.max": "rubbish\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"}, None),
    ],
)
def test_quotas(files: dict[str, str], cores: int | None, tmp_path: Path) -> None:
    assert usable_cores_if_fewer(write(tmp_path, files)) == cores


def test_the_mask_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 7, 8}, raising=False)
    assert usable_cores_if_fewer(tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # not Linux
    assert usable_cores_if_fewer(tmp_path) is None


def test_what_is_asked_for_counts_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.backends.open_device.usable_cores_if_fewer", lambda: 3)
    assert open_device("cpu").cpu_threads == 3
    assert open_device("cpu", cpu_threads=5).cpu_threads == 5
    for wrong in (0, -1, True, 2.0, "2", 10**9):
        with raises_line(InputError, "threads has to be an integer from 1 to", repr(wrong)):
            open_device("cpu", cpu_threads=wrong)  # type: ignore[arg-type]


def test_a_session_takes_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from runtime.backends.onnxruntime import open_session

    seen: list[int] = []

    class Library:
        SessionOptions = onnxruntime.SessionOptions

        def InferenceSession(self, _: str, options: onnxruntime.SessionOptions, **__: object) -> None:  # noqa: N802
            seen.append(options.intra_op_num_threads)

    for threads in (None, 3):
        monkeypatch.setattr("runtime.backends.open_device.usable_cores_if_fewer", lambda threads=threads: threads)
        open_session(Library(), tmp_path / "x.onnx", open_device("cpu"))
    assert seen == [0, 3]
