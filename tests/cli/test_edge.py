"""The program's edge: streams that are closed, full or narrow, signals, bytes that are no text, foreign exceptions.

The program runs with a stand-in for the pipeline: no engine is loaded, and what it renders is a constant.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from runtime.cli import main

STAND_IN = """
import os, sys, time
from types import SimpleNamespace
import numpy as np
from runtime import commands

class Pipeline:
    label = "stand-in"
    def check(self, prompt, **arguments):
        return SimpleNamespace(call=(prompt, arguments), steps=1, result_s=0.5)
    def render(self, request):
        return self(request.call[0], **request.call[1])
    def __call__(self, prompt, callback=None, **arguments):
        prompts = [prompt] if isinstance(prompt, str) else prompt
        for text in prompts:
            if text == "stop":
                print("rendering", file=sys.stderr, flush=True)
                time.sleep(60)
            if text == "fail":
                raise KeyError("of a library")
            if text == "memory":
                raise MemoryError
        audios = np.full((len(prompts), 8000), 0.5, np.float32)
        return SimpleNamespace(audios=audios, sampling_rate=16000, scores=None, seeds=(5,), timings={"denoise": 0.1})

commands._open_pipeline = lambda *_: Pipeline()
"""
PROGRAM = [sys.executable, "-c", STAND_IN + "from runtime.cli import main\nsys.exit(main())"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same stand-in in this process."""
    from runtime import commands

    monkeypatch.setattr(commands, "_open_pipeline", commands._open_pipeline)
    exec(STAND_IN, {})


def run(*arguments: str | bytes, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = ["bash", "-c", f'"$@" {shell}', "bash", *PROGRAM, *arguments] if shell else [*PROGRAM, *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


def made(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.wav") if soundfile.info(path).frames == 8000)


def write(folder: Path, *lines: str) -> str:
    (folder / "prompts.txt").write_text("\n".join(lines))
    return "prompts.txt"


@pytest.mark.parametrize(
    ("shell", "status", "said"),
    [
        (">/dev/full", 1, "No space left on device"),
        ("2>/dev/full", 0, ""),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("| true; exit ${PIPESTATUS[0]}", 141, ""),
    ],
)
def test_words_that_cannot_be_said_cost_no_sound(shell: str, status: int, said: str, here: Path) -> None:
    file = write(here, "rain", "wind", "fog", "hail")
    for arguments, files in ((["rain"], 1), (["--prompts-file", file, "-o", "{index}.wav"], 4)):
        done = run(*arguments, shell=shell)
        assert done.returncode == status, done.stderr
        assert b"Traceback" not in done.stderr
        assert b"Exception ignored" not in done.stderr
        assert said in done.stderr.decode()
        assert len(done.stderr.splitlines()) <= 1
        assert len(made(here)) >= files
    assert len(made(here)) == 5


def test_a_reader_that_takes_one_line_gets_all_files(here: Path) -> None:
    done = run("--prompts-file", write(here, "rain", "wind", "fog"), shell="| head -1")
    assert len(done.stdout.splitlines()) == 1
    assert len(made(here)) == 3
    assert done.stderr == b""


def test_a_failed_line_is_the_status_even_if_nobody_reads(here: Path) -> None:
    done = run("--prompts-file", write(here, "rain", "fail"), shell="| true; exit ${PIPESTATUS[0]}")
    assert done.returncode == 1


@pytest.mark.parametrize("shell", [">/dev/full", "| true; exit ${PIPESTATUS[0]}"])
def test_help_that_nobody_reads(shell: str) -> None:
    done = run("--help", shell=shell)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C.UTF-8"},
    ],
    ids=lambda environment: " ".join(environment.values()),
)
def test_a_narrow_console_shows_what_it_can(environment: dict[str, str], here: Path) -> None:
    done = run("naïve 雨 🌧", **environment)
    assert done.returncode == 0, done.stderr
    assert b"s, seed 5" in done.stdout
    assert done.stderr == b""
    assert made(here) == ["output.wav"]


def test_utf_8_prompts_are_whole_whatever_the_locale(here: Path) -> None:
    done = run("naïve 雨 🌧", "--json", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert json.loads(done.stdout)["prompt"] == "naïve 雨 🌧"


@pytest.mark.parametrize("flag", ["PROMPT", "--negative-prompt", "--transcription"])
def test_bytes_that_are_no_text(flag: str, here: Path) -> None:
    arguments = [b"caf\xe9 noise"] if flag == "PROMPT" else ["rain", flag, b"caf\xe9 noise"]
    done = run(*arguments)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line == f"error: {flag} is no UTF-8 text: byte 0xe9 at position 4"
    assert made(here) == []


def test_standard_output_that_is_closed_takes_no_sound(here: Path) -> None:
    done = run("rain", "-o", "-", shell=">&-")
    assert done.returncode == 1
    assert done.stderr == b"error: standard output is closed: --output - has nowhere to write to\n"


def test_a_sound_in_a_pipe_has_its_words_beside_it(here: Path) -> None:
    done = run("rain", "-o", "-", "--json", shell="| cat")
    assert done.stdout.startswith(b"RIFF")
    assert json.loads(done.stderr)["file"] == "-"


def test_an_output_that_is_no_text_is_a_name_all_the_same(here: Path) -> None:
    done = run("rain", "-o", b"caf\xe9.wav")
    assert done.returncode == 0, done.stderr
    assert (here / os.fsdecode(b"caf\xe9.wav")).is_file()


def test_a_long_prompt_with_control_characters_is_shown_short(
    stand_in: None, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["start\x1b[31m\n" + "drum " * 2000 + "end"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "start\\x1b[31m\\n" in line
    assert "end" in line
    assert len(line) < 400


@pytest.mark.parametrize(("prompt", "word"), [("fail", "KeyError: 'of a library'"), ("memory", "out of memory")])
def test_an_error_has_always_words(
    prompt: str, word: str, stand_in: None, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([prompt]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {word}")
    assert main([prompt, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    file = write(here, "rain", prompt, "wind")
    assert main(["--prompts-file", file, "--batch-size", "3", "--debug"]) == 1
    output = capsys.readouterr()
    assert f"error: line 2: {word}" in output.err
    assert "Traceback" in output.err
    assert output.out.splitlines()[-1].startswith("2 of 3 written, 1.00 s of audio")


@pytest.mark.parametrize("prompt", ["", "  ", "\t\n"], ids=repr)
def test_a_blank_prompt_is_a_warning(
    prompt: str, stand_in: None, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([prompt]) == 0
    assert "the prompt is blank" in capsys.readouterr().err


def test_a_prompt_may_start_with_a_dash_after_two(
    stand_in: None, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--json", "--", "-rain"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "-rain"


def test_a_picture_that_cannot_be_drawn_is_a_warning(
    stand_in: None, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "rain.png").mkdir()
    assert main(["rain", "-o", "rain.wav", "--plot", "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["picture"] is None
    assert output.err.startswith("WARNING: the spectrogram was not drawn: ")
    assert made(here) == ["rain.wav"]


def stop(arguments: list[str], number: signal.Signals) -> tuple[int, str, str]:
    with subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "rendering" not in (line := process.stderr.readline()):
            assert line, "it ended before it rendered"
        process.send_signal(number)
        process.send_signal(number)  # somebody who does not wait
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_cleanly_and_says_what_was_written(number: signal.Signals, status: int, here: Path) -> None:
    assert stop(["stop"], number) == (status, "", "interrupted: no file was written\n")
    file = write(here, "rain", "wind", "stop", "fog")
    returned, out, err = stop(["--prompts-file", file], number)
    assert (returned, err) == (status, "interrupted: 2 files were written\n")
    assert out.splitlines()[-1].startswith("2 of 2 written, 1.00 s of audio")
    assert len(made(here)) == 2
    assert not list(here.glob(".partial*"))


def test_ctrl_c_while_modules_are_imported(here: Path) -> None:
    """From our own first line on there is no traceback, whenever the signal comes."""
    code = "import runtime.cli, sys; print('ready', flush=True); sys.exit(runtime.cli.main(['rain']))"
    for delay_s in (0.0, 0.02, 0.05, 0.1, 0.2):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay_s)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert b"Traceback" not in err, err
        assert process.returncode in (130, 1), err  # 1: it had ended before, for want of a bundle


def test_nothing_heavy_is_imported_for_help() -> None:
    code = "import sys, runtime.cli\ntry: runtime.cli.main(['--help'])\nexcept SystemExit: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("numpy", "msgspec", "soundfile", "tqdm", "onnxruntime", "runtime.pipeline"):
        assert f"'{name}'" not in done.stdout.splitlines()[-1]


def test_before_the_guard_next_to_nothing_is_imported() -> None:
    code = "import sys; before = set(sys.modules); import runtime.cli; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"argparse", "json", "logging", "runtime.errors"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("flags", "steps", "scheduler"),
    [
        ([], None, None),  # the bundle's own
        (["--fast"], 20, "DPMSolverMultistepScheduler"),
        (["--fastest"], 5, "DPMSolverMultistepScheduler"),
        (["--fast", "--steps", "7"], 7, "DPMSolverMultistepScheduler"),
        (["--fast", "--scheduler", "euler_a"], 20, "EulerAncestralDiscreteScheduler"),
        (["--scheduler", "UniPC"], None, "UniPCMultistepScheduler"),
        (["--scheduler", "ddimscheduler"], None, "DDIMScheduler"),
    ],
    ids=str,
)
def test_fast_sets_what_is_not_said(
    flags: list[str],
    steps: int | None,
    scheduler: str | None,
    stand_in: None,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from runtime import commands

    seen: dict[str, Any] = {}
    open_stand_in: Callable[..., Any] = commands._open_pipeline

    def spy(*given: Any) -> Any:
        pipeline = open_stand_in(*given)

        def check(_: Any, *texts: str, **call: Any) -> Any:
            seen.update(call)
            return pipeline.check(*texts)

        return type("Spy", (), {"label": "", "check": check, "render": lambda _, request: pipeline.render(request)})()

    monkeypatch.setattr(commands, "_open_pipeline", spy)
    assert main(["rain", *flags, "-q"]) == 0
    assert (seen["num_inference_steps"], seen["scheduler"]) == (steps, scheduler)
