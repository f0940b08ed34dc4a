"""The first hour's items, rehearsed over the stand-in for CuPy: they run, and see what they are there to see."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import to_array

from bench.__main__ import main
from bench.gpu import calls, hollow, hour, items
from runtime.backends.cuda import CudaDevice, Scope
from runtime.bundle import Bundle
from runtime.diffusion.schedulers import scheduler_names
from tests.fake_cupy import FakeCupy


def test_what_graphs_do() -> None:
    found = items.capture({"limit_bytes": 1 << 20}, FakeCupy())
    assert found.pop("ok"), found
    assert len(found) == 7


def test_a_rule_that_does_not_hold_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scope, "note", lambda self, stage, finite: self.stages.append(stage))
    found = items.capture({"limit_bytes": 1 << 20}, FakeCupy())
    assert not found["ok"]
    assert not found["NaN is seen after a later replay that is finite"]


def test_every_scheduler_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    found = items.steps({}, FakeCupy())
    assert found["ok"], found
    assert list(found["schedulers"]) == list(scheduler_names())
    capture = CudaDevice.capture

    def off(self: CudaDevice, work: Any, *more: Any) -> Any:
        def worse() -> Any:
            (sample,) = work()
            sample[...] = sample * 1.001
            return (sample,)

        return capture(self, worse, *more)

    monkeypatch.setattr(CudaDevice, "capture", off)
    monkeypatch.setattr(items, "scheduler_names", lambda: ("DDIMScheduler",))
    assert not items.steps({}, FakeCupy())["ok"]


def test_what_a_launch_costs() -> None:
    found = items.launches({}, FakeCupy())
    assert found["plain_us"] > 0
    assert found["host_us_a_launch"] > 0


def test_what_was_found_is_kept_and_the_rest_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def process(module: str, case: dict[str, Any], work: Path) -> dict[str, Any]:
        asked.append(case["name"])
        return {"failed": "no GPU"} if case["name"] == "philox" else {"ok": True}

    monkeypatch.setattr(hour, "in_a_process", process)
    file = tmp_path / "hour.json"
    assert main(["hour", "--file", str(file), "--out", str(tmp_path)]) == 1
    assert asked == ["host", "capture", "steps", "launches", "philox"]
    assert json.loads(file.read_text())["steps"]["ok"]
    asked.clear()
    assert main(["hour", "--file", str(file), "--engines", "demo", "--out", str(tmp_path)]) == 1
    assert asked == ["philox", "call", "times", "kernels"]
    assert main(["hour", "sleep", "--out", str(tmp_path)]) == 1
    assert "there is no item 'sleep'" in capsys.readouterr().err


def test_times_of_a_bundle_that_was_carried_without_its_weights(
    bundle: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, thin, filled = bundle("one_width"), tmp_path / "thin", tmp_path / "filled"
    monkeypatch.setattr("sys.argv", ["hollow", "strip", str(source), str(thin)])
    hollow.main()
    size, whole = (sum(path.stat().st_size for path in folder.iterdir()) for folder in (thin, source))
    assert size < 0.4 * whole
    hollow.fill(thin, filled, seed=1)
    assert Bundle.read(filled).manifest.engines.keys() == Bundle.read(source).manifest.engines.keys()
    for name in ("unet.onnx", "vocoder.onnx"):
        before, after = ({t.name: to_array(t) for t in onnx.load(f / name).graph.initializer} for f in (source, filled))
        assert before.keys() == after.keys()
        for key, values in before.items():
            assert (after[key].shape, after[key].dtype) == (values.shape, values.dtype)
            if values.size > 5000 and values.dtype == np.float32:
                assert np.isclose(after[key].std(), values.std(), rtol=0.1)
                assert not np.allclose(after[key], values)
    case = {"engines": str(filled), "device": "cpu", "sizes": ((1, 2), (2, 3))}
    found = calls.times(case)
    assert found["ok"], found
    assert [(row["waveforms"], row["steps"]) for row in found["rows"]] == [(1, 2), (2, 3)]
    for row in found["rows"]:
        assert 0 < row["stages_s"]["denoise"] < row["median_s"]


def test_kernels_by_time() -> None:
    found = calls.by_time([("gemm", 5.0), ("norm", 2.0), ("gemm", 7.0), ("copy", 13.0)])
    assert found == {"kernels": 4, "us": 27.0, "longest": [("copy", 1, 13.0), ("gemm", 2, 12.0), ("norm", 1, 2.0)]}


def test_without_a_gpu_each_item_says_so(tmp_path: Path) -> None:
    assert main(["hour", "capture", "--file", str(tmp_path / "hour.json"), "--out", str(tmp_path)]) == 1
    assert "cupy" in json.loads((tmp_path / "hour.json").read_text())["capture"]["failed"]
