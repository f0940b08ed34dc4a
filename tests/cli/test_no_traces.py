"""A run tells nobody of itself: it opens no socket, and writes its output and its own cache and nothing else."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_run_leaves_no_trace(backend: str, bundle: Callable[[str], Path], tmp_path: Path) -> None:
    home, out, trace = tmp_path / "home", tmp_path / "out.wav", tmp_path / "trace"
    home.mkdir()
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "ORT_", "CI", "GITHUB_"))
    }
    environment |= {"HOME": str(home), "TMPDIR": str(tmp_path / "home")}
    arguments = ["rain", "--engines", str(bundle("plain")), "--backend", backend, "--steps", "1", "--duration", "0.5"]
    render = [sys.executable, "-m", "runtime.cli", *arguments, "--output", str(out), "-q"]
    strace = ["strace", "-f", "-qq", "-e", "trace=socket,connect", "-o", str(trace)]
    subprocess.run([*strace, *render], env=environment, check=True, timeout=300)
    assert out.stat().st_size > 16_000
    assert "AF_INET" not in trace.read_text()
    left = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    ours = {name for name in left if name.startswith(".cache/trt-audioldm2/")}
    assert left == ours
    assert bool(ours) is (backend == "openvino")
