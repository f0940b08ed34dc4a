"""The first hour's items, rehearsed over the stand-in for CuPy: they run, and see what they are there to see."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.gpu import hour, items
from runtime.backends.cuda import CudaDevice, Scope
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
    assert asked == ["philox", "call"]
    assert main(["hour", "sleep", "--out", str(tmp_path)]) == 1
    assert "there is no item 'sleep'" in capsys.readouterr().err


def test_without_a_gpu_each_item_says_so(tmp_path: Path) -> None:
    assert main(["hour", "capture", "--file", str(tmp_path / "hour.json"), "--out", str(tmp_path)]) == 1
    assert "cupy" in json.loads((tmp_path / "hour.json").read_text())["capture"]["failed"]
