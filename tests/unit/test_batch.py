"""A batch over a stand-in for the pipeline: whatever fails, and wherever, loses its own lines only."""

import logging
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime import batch
from runtime.batch import Line, Outcome, run_file
from runtime.errors import EngineError, InputError
from runtime.sound import plot, saving

RATE = 16_000
FOREIGN = [
    OSError(28, "No space left on device"),
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    RuntimeError("a library's own\nin two lines"),
    KeyError("unet"),
    ValueError(),
    EngineError("one of ours"),
]


class Pipeline:
    """Renders a constant for each prompt; a prompt for which `fails` has an exception raises it."""

    def __init__(self, fails: dict[str, BaseException] | None = None) -> None:
        self.fails, self.calls = fails or {}, []

    def __call__(self, prompt: list[str], **_: Any) -> Any:
        self.calls.append(list(prompt))
        for text in prompt:
            if text in self.fails:
                raise self.fails[text]
        audios = np.full((len(prompt), RATE), 0.5, np.float32)
        return SimpleNamespace(audios=audios, sampling_rate=RATE, scores=None)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list[Outcome]]:
    def run_lines(pipeline: Pipeline, lines: list[str], size: int = 2, **options: Any) -> list[Outcome]:
        file = tmp_path / "prompts.txt"
        file.write_text("\n".join(lines))
        pattern = str(tmp_path / "{line}.wav")
        given = {"as_float": False, **options}
        return list(run_file(file, pattern, Line(prompt="", seed=1), lambda _: pipeline, size, **given))  # type: ignore[arg-type]

    return run_lines


def lost(outcomes: list[Outcome]) -> dict[int, str]:
    return {outcome.number: outcome.error for outcome in outcomes if outcome.error is not None}


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("size", [1, 3, 10])
def test_a_render_that_raises_loses_its_own_line(
    error: Exception, size: int, run: Callable[..., list[Outcome]], tmp_path: Path
) -> None:
    lines = [f"prompt {i}" for i in range(6)]
    bad = random.randrange(6)
    outcomes = run(Pipeline({lines[bad]: error}), lines, size)
    assert list(lost(outcomes)) == [bad + 1]
    assert lost(outcomes)[bad + 1].strip()
    assert "\n" not in lost(outcomes)[bad + 1]
    assert {path.stem for path in tmp_path.glob("*.wav")} == {str(n) for n in range(1, 7)} - {str(bad + 1)}


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
def test_a_file_that_cannot_be_written_renders_nothing_again(
    error: Exception, run: Callable[..., list[Outcome]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = saving.write_audio

    def full(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "2.wav":
            raise error
        write(path, *arguments, **options)

    monkeypatch.setattr(saving, "write_audio", full)
    pipeline = Pipeline()
    outcomes = run(pipeline, ["a", "b", "c"], 3)
    assert list(lost(outcomes)) == [2]
    assert pipeline.calls == [["a", "b", "c"]]
    assert {path.stem for path in tmp_path.glob("*.wav")} == {"1", "3"}
    assert batch.summary_of(outcomes, 1.0)["written"] == 2


def test_a_picture_that_fails_is_a_warning_on_a_line_that_is_written(
    run: Callable[..., list[Outcome]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plot, "plot_spectrogram", broken)
    outcomes = run(Pipeline(), ["a", "b"], plot=True)
    assert lost(outcomes) == {}
    assert [record.getMessage().count("No space left on device") for record in caplog.records] == [1, 1]


def test_ctrl_c_stops(run: Callable[..., list[Outcome]], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Pipeline({"c": KeyboardInterrupt()}), ["a", "b", "c", "d"])
    assert {path.stem for path in tmp_path.glob("*.wav")} == {"1", "2"}


def test_the_traceback_of_each_is_logged(run: Callable[..., list[Outcome]], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "runtime")
    run(Pipeline({"b": KeyError("x")}), ["a", "b"], 1)
    (record,) = caplog.records
    assert "line 2" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


def test_no_pipeline_is_opened_for_lines_that_cannot_run(run: Callable[..., list[Outcome]], tmp_path: Path) -> None:
    def refuse(_: int) -> Any:
        raise InputError("opened")

    file = tmp_path / "bad.txt"
    file.write_text("{\n[")
    pattern = str(tmp_path / "{line}.wav")
    outcomes = list(run_file(file, pattern, Line(prompt=""), refuse, 1, as_float=False))
    assert list(lost(outcomes)) == [1, 2]


def test_a_blank_prompt_is_a_warning(run: Callable[..., list[Outcome]], caplog: pytest.LogCaptureFixture) -> None:
    assert lost(run(Pipeline(), ["a", '{"prompt": "  "}'])) == {}
    assert [record.getMessage() for record in caplog.records] == ["line 2: the prompt is blank"]
