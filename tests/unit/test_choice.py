"""What `build --backend auto` takes, by what the machine has."""

from types import SimpleNamespace

import pytest

from export import choice
from export.choice import choose


@pytest.mark.parametrize(
    ("capability", "installed", "backend", "words"),
    [
        (None, {"tensorrt"}, "onnx", "no GPU here"),
        ("9.0", {"tensorrt", "tensorrt_rtx"}, "tensorrt", "TensorRT 11.4"),
        ("9.0", {"tensorrt_rtx"}, "onnx", "does not run on"),
        ("8.9", {"tensorrt_rtx"}, "tensorrt-rtx", "TensorRT-RTX 11.4"),
        ("8.9", set(), "onnx", "[tensorrt]"),
    ],
)
def test_it_takes_what_runs_here(
    capability: str | None, installed: set[str], backend: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = SimpleNamespace(__members__={"CURRENT": 0, "SM89": 1, "SM120": 2})
    trt = SimpleNamespace(__version__="11.4", ComputeCapability=known)
    monkeypatch.setattr(choice, "gpu_capability", lambda: capability)
    monkeypatch.setattr(choice, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.setattr(choice, "library", lambda name: (trt, name))
    chosen = choose()
    assert chosen.backend == backend
    assert chosen.precision == ("fp32" if backend == "onnx" else "fp16")
    assert words in chosen.why
