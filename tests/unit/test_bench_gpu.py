import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import report
from bench.__main__ import main
from bench.gpu import contest
from bench.gpu.child import COMPILED, EAGER, OURS, RATE
from bench.processes import in_a_process
from bench.rivals import log_spectral_distance, prompts

STAGES = {"denoise": 0.06, "decode": 0.02}


def measured(steps: int, median_s: float) -> dict[str, Any]:
    memory = {"device_gib": 3.5, "allocated_gib": None}
    return {"steps": steps, "first_s": 1.5, "median_s": median_s, "p90_s": median_s, "stages": STAGES, **memory}


def fake_process(_: str, case: dict[str, Any], *__: object) -> dict[str, Any]:
    """Ours in 0.1 s, eager in 0.4 s; what is compiled fails."""
    if case["name"] == RATE:
        return {"flops": 500e12}
    if case["name"] == COMPILED:
        return {"failed": "RuntimeError: no compiler"}
    if "waveform" in case:
        np.save(case["waveform"], np.sin(np.arange(4096, dtype=np.float32))[None])
        return {"waveform": case["waveform"]}
    return {"rows": [measured(steps, 0.1 if case["name"] == OURS else 0.4) for steps in case["steps"]]}


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A GPU, a checkpoint and processes that are none; the arguments that use them."""
    monkeypatch.setattr(contest, "gpu", lambda: {"name": "pretended"})
    monkeypatch.setattr(contest, "in_a_process", fake_process)
    monkeypatch.setattr(contest, "run_python", lambda *_: None)
    return ["gpu", "--checkpoint", str(tmp_path), "--out", str(tmp_path / "results"), "--steps", "20", "--batch", "1"]


def result(arguments: list[str]) -> dict[str, Any]:
    (file,) = Path(arguments[arguments.index("--out") + 1]).iterdir()
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engines", "bundle"], "--engines needs --checkpoint"),
        (["--steps", "1"], "1 is less than 2"),
        (["--batch", "0"], "0 is less than 1"),
        (["--without", "ours"], "invalid choice: 'ours'"),
        (["--backend", "openvino"], "invalid choice: 'openvino'"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["gpu", *arguments])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_a_contender_that_fails_is_in_table_and_json(pretended: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(pretended) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["ours", "20", "1", "1.50", "0.100", "0.100", "3.00", "3.50", "-", "15.0%", "1.00"]
    assert lines[2].split()[-1] == "4.00"
    assert lines[3].split(maxsplit=3) == ["compile", "20", "1", "failed: RuntimeError: no compiler"]
    assert "relative error 0.0e+00, log-spectral distance 0.00 dB" in lines[5]
    found = result(pretended)
    assert [row.get("failed") for row in found["cases"]] == [None, None, "RuntimeError: no compiler"]
    assert found["cases"][0]["unet_share_of_rate"] == pytest.approx(20 * 293e9 / 0.06 / 500e12)


def test_ours_failing_is_the_exit_status(pretended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "run_python", lambda *_: "error: no such backend")
    assert main([*pretended, "--without", "compile"]) == 1
    found = result(pretended)
    assert [row.get("failed") for row in found["cases"]] == ["build: error: no such backend", None]
    assert found["accuracy"][OURS]["failed"] == "ours: build: error: no such backend"
    assert "failed" not in found["accuracy"][EAGER]


def test_a_process_that_dies_says_why(tmp_path: Path) -> None:
    found = in_a_process("bench.gpu.child", {"name": "nobody", "checkpoint": str(tmp_path / "none")}, tmp_path)
    assert found["failed"].split(":")[0].endswith(("Error", "Exception"))
    assert "\n" not in found["failed"]


def test_log_spectral_distance() -> None:
    audio = np.random.default_rng(0).standard_normal((2, 8000)).astype(np.float32)
    assert log_spectral_distance(audio, audio) == 0
    assert log_spectral_distance(audio / 10, audio) == pytest.approx(20, abs=0.01)


def test_no_call_repeats_a_prompt() -> None:
    drawn = [text for call in range(100) for text in prompts(call, 4)]
    assert len(set(drawn)) == len(drawn)
    assert len({tuple(sorted(text.split())) for text in drawn}) == 1  # as many tokens


def test_circumstances_without_packages_or_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "PACKAGES", ("numpy", "no-such-package"))
    monkeypatch.setattr(report.ctypes, "CDLL", lambda _: (_ for _ in ()).throw(OSError("no driver")))
    found = report.circumstances()
    assert found["gpu"] is None
    assert found["versions"] == {"numpy": np.__version__}
