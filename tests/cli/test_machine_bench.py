"""`trt-audioldm2-bench`: bundles side by side, each in a process of its own."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.bench import cli, subject
from runtime.bench.contest import Row, Size, Start, contest
from runtime.bench.figures import figures, table
from runtime.bench.subject import Setup, Subject
from runtime.errors import BundleError, EngineError

QUICK = ("--steps", "2", "--runs", "2", "--duration", "0.3")


def test_two_backends_side_by_side(
    bundle: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file, picture = bundle("one_width"), tmp_path / "found.json", tmp_path / "found.png"
    sides = ("--engines", str(folder), "--backend", "openvino", "--backend", "onnxruntime", "--precision", "fp32")
    flags = ("--num-waveforms", "1,2", "--json", str(file), "--plot", str(picture))
    assert cli.main([*sides, *QUICK, *flags]) == 0
    found = json.loads(file.read_text())
    assert [row["name"] for row in found["starts"]] == ["one_width openvino", "one_width onnxruntime"]
    for start in found["starts"]:
        assert 0 < start["ready_s"] < start["sound_s"]
        assert 50 << 20 < start["peak_bytes"] < 4 << 30
    calls = found["calls"]
    assert [(row["name"].split()[1], row["waveforms"]) for row in calls] == [
        *(("openvino", 1), ("onnxruntime", 1), ("openvino", 2), ("onnxruntime", 2))
    ]
    for row in calls:
        assert row["label"].split()[0] == row["name"].split()[1]
        assert len(row["seconds"]) == 2
        assert min(row["seconds"]) <= row["p50_s"] <= row["p90_s"] <= row["p99_s"] <= max(row["seconds"])
        assert 0.9 * row["p50_s"] < sum(row["stages_s"].values()) < 1.1 * row["p50_s"]
        assert row["stages_s"]["encode"] > 1e-3  # no text was encoded before
        assert row["duration_s"] == pytest.approx(0.3, abs=0.1)
    assert ["ratio" in row for row in calls] == [False, True, False, True]
    assert picture.read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr()
    assert said.out.count("one_width onnxruntime") == 3
    assert said.err.count("one_width onnxruntime: 2 x 0.3") == 4  # the first, one to warm up, two that count


def test_figures_of_calls() -> None:
    def calls(*seconds: float) -> list[dict[str, Any]]:
        timings = {"load": 9.0, "encode": 0.5, "denoise": 1.0}
        return [{"seconds": s, "timings": timings, "audio_s": 2.0, "label": "x"} for s in seconds]

    size = Size(2, None)
    rows = [
        Row("a", size, calls(9.0)[0], calls(1.0, 2.0, 4.0)),
        Row("b", size, calls(9.0)[0], calls(2.0, 6.0, 8.0)),
        Row("c", size, failed="no memory"),
    ]
    found = figures([Start("a", 0.1, 2.0, 1 << 30), Start("b", 0.1), Start("c", 0.1)], rows)
    first, second, failed = found["calls"]
    assert first["real_time_factor"] == 2.0 / 2.0 / 2
    assert second["ratio"]["p50"] == 2.0
    assert second["ratio"]["p90"] == pytest.approx(2.8)
    assert failed["failed"] == "no memory"
    lines = table(found).splitlines()
    assert "1.00 GiB" in lines[1]
    assert "2.00 (2.00 to 2.80)" in lines[-2]
    assert lines[-1].endswith("failed: no memory")


def test_what_fails_ends_its_row_alone(bundle: Callable[[str], Path]) -> None:
    lines: list[str] = []
    setups = [Setup(str(bundle("one_width")), {"device": "cpu", "backend": "onnxruntime"})]
    call = {"prompt": "rain", "num_inference_steps": 1}
    sizes = [Size(1, -1.0), Size(1, 0.2)]
    starts, (wrong, right) = contest(setups, sizes, call, warm_up=0, runs=1, say=lines.append)
    assert wrong.failed is not None
    assert "audio_length_in_s" in wrong.failed
    assert starts[0].sound_s is None
    assert right.failed is None
    assert len(right.calls) == 1


def test_a_process_that_dies_is_told(bundle: Callable[[str], Path]) -> None:
    side = Subject(Setup(str(bundle("one_width")), {"device": "cpu"}))
    os.kill(side._process.pid or 0, signal.SIGKILL)
    side._process.join()  # nobody reads any more, so that asking fails before answering does
    with pytest.raises(EngineError, match=r"one_width: its process ended with -9"):
        side.render({"prompt": "rain"})
    with pytest.raises(EngineError, match=r"one_width: its process ended with -9"):
        side.peak_bytes()
    side.close()
    with pytest.raises(BundleError, match="nowhere"):
        Subject(Setup("nowhere", {}))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--engines", "nowhere"], "nowhere does not exist"),
        (["--runs", "0"], "--runs has to be at least 1"),
        (["--num-waveforms", "1.5"], "--num-waveforms has to be whole numbers"),
        (["--num-waveforms", "0"], "--num-waveforms has to be whole numbers"),
        (["--json", "nowhere/found.json"], "nowhere"),
    ],
)
def test_wrong_flags(flags: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(cli, "contest", lambda *_, **__: pytest.fail("it began"))
    assert cli.main(flags) == 1
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1


def test_memory_is_this_process_s() -> None:
    before = subject._peak_bytes()
    assert before is not None
    assert bytearray(before + (64 << 20))  # touches every page
    after = subject._peak_bytes()
    assert after is not None
    assert after >= before + (64 << 20)
