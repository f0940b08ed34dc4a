"""Where the sound goes: files of every format, links, standard output; and a picture that never costs the sound."""

import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from runtime.cli import main

FAST = ["--steps", "2", "--duration", "0.5", "--seed", "3"]


@pytest.fixture
def say(bundle: Callable[[str], Path]) -> list[str]:
    return ["rain", "--engines", str(bundle("plain")), *FAST]


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str], *words: str) -> None:
    assert main(arguments) == 1
    output = capfd.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(("name", "subtype"), [("a.ogg", "VORBIS"), ("a.opus", "OPUS"), ("a.MP3", "MPEG_LAYER_III")])
def test_the_extension_picks_a_lossy_format(say: list[str], tmp_path: Path, name: str, subtype: str) -> None:
    assert main([*say, "-q", "-o", str(tmp_path / name)]) == 0
    info = soundfile.info(tmp_path / name)
    assert (info.subtype, info.frames, info.samplerate) == (subtype, 8_000, 16_000)


@pytest.mark.parametrize("json_line", [False, True])
def test_a_pipe_gets_the_sound_and_nothing_else(
    say: list[str], tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], json_line: bool
) -> None:
    assert main([*say, "-q", "-o", str(tmp_path / "a.wav")]) == 0
    capfdbinary.readouterr()
    assert main([*say, "-o", "-", *(["--json"] if json_line else [])]) == 0
    data, words = capfdbinary.readouterr()
    assert data == (tmp_path / "a.wav").read_bytes()
    last = words.decode().splitlines()[-1]
    assert "rain" in last
    if json_line:
        assert json.loads(last)["seed"] == 3


def test_a_pipe_takes_floats(say: list[str], capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main([*say, "-q", "-o", "-", "--float"]) == 0
    data, words = capfdbinary.readouterr()
    assert soundfile.info(io.BytesIO(data)).subtype == "FLOAT"
    assert words == b""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-o", ""], ["not the name of a file"]),
        (["-o", "x.wav/"], ["not the name of a file"]),
        (["-o", "/dev/full.wav"], ["/dev/full.wav", "the system's own"]),
        (["-o", "fifo.wav"], ["fifo.wav", "--output -"]),
        (["-o", "x.ogg", "--float"], ["floating point"]),
        (["-o", "-", "--plot"], ["--plot", "--output -"]),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(
    flags: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.wav")
    refused(["rain", "--engines", "no-such-bundle", *flags], capfd, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["fifo.wav"]
    assert stat.S_ISFIFO(Path("fifo.wav").stat().st_mode)


@pytest.mark.parametrize("pattern", ["-", "", "{prompt}.wav/"])
def test_many_prompts_need_names(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("rain\n")
    assert main(["--prompts-file", "prompts.txt", "--engines", "no-such-bundle", "-o", pattern]) == 1
    first = capfd.readouterr().err.splitlines()[0]
    assert first.startswith("error: ")
    assert ("--prompts-file" if pattern == "-" else "not the name of a file") in first
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


def test_links_are_followed_and_modes_kept(say: list[str], tmp_path: Path) -> None:
    (tmp_path / "there.wav").write_bytes(b"earlier")
    (tmp_path / "there.wav").chmod(0o600)
    (tmp_path / "link.wav").symlink_to("there.wav")
    assert main([*say, "-q", "-o", str(tmp_path / "link.wav")]) == 0
    assert (tmp_path / "link.wav").is_symlink()
    assert soundfile.info(tmp_path / "there.wav").frames == 8_000
    assert stat.S_IMODE((tmp_path / "there.wav").stat().st_mode) == 0o600


def test_a_full_disk_is_named(
    say: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    refused([*say, "-q", "-o", str(tmp_path / "a.wav")], capfd, "a.wav", "no space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("many", [False, True])
def test_a_picture_that_cannot_be_written_costs_no_sound(
    say: list[str], tmp_path: Path, many: bool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rain.png").mkdir()
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("rain\n")
    asked = ["--prompts-file", str(prompts), *say[1:]] if many else say
    assert main([*asked, "-o", str(tmp_path / "rain.wav"), "--plot"]) == 0
    assert soundfile.info(tmp_path / "rain.wav").frames == 8_000
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "rain.png' is a folder" in warning
    assert ".png" not in capfd.readouterr().out
