"""Notes by fluidsynth and words by espeak-ng, their cache, and the command that writes clips."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from export.demo.sounds import SAMPLE_RATE_HZ, SPLITS, draw, generator, programs
from export.demo.sounds.__main__ import main
from export.demo.sounds.settings import BANDS
from runtime.errors import MissingDependencyError
from tests.unit.hearing import check_clip, rms, sounding_s
from tests.unit.helpers import raises_line

NEEDS_ESPEAK = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not here")
NEEDS_FLUIDSYNTH = pytest.mark.skipif(
    shutil.which("fluidsynth") is None or not programs.SOUND_FONT.exists(), reason="fluidsynth or its font is not here"
)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for cached in (programs.notes, programs.spoken):
        cached.cache_clear()
    yield tmp_path
    for cached in (programs.notes, programs.spoken):
        cached.cache_clear()


@pytest.mark.parametrize(("name", "program"), [("piano", "fluidsynth"), ("male_speech", "espeak-ng")])
def test_a_missing_program_is_named(
    name: str, program: str, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with raises_line(MissingDependencyError, program, f"apt-get install {program}"):
        draw(name, generator(name, 0))


def test_a_missing_sound_font_is_named(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(programs, "SOUND_FONT", empty_cache / "none.sf2")
    with raises_line(MissingDependencyError, "none.sf2", "fluid-soundfont-gm"):
        draw("violin", generator("violin", 0))


@NEEDS_ESPEAK
@pytest.mark.parametrize("name", ["male_speech", "female_speech"])
def test_speech(name: str, empty_cache: Path) -> None:
    rng = generator(name, 0)
    made = [draw(name, rng, SPLITS[k % 2]) for k in range(8)]
    for clip in made:
        check_clip(clip)
        assert str(clip.settings["word"]) in clip.caption
        assert 0.1 < sounding_s(clip.audio) < 1.5
    kept = list(empty_cache.rglob("*.wav"))
    assert 1 <= len(kept) <= 8
    programs.spoken.cache_clear()
    again = draw(name, generator(name, 0))
    assert np.array_equal(again.audio, made[0].audio)
    assert sorted(empty_cache.rglob("*.wav")) == sorted(kept)


@NEEDS_ESPEAK
def test_speech_is_high_and_fast_as_asked(empty_cache: Path) -> None:
    slow, fast = (programs.spoken("en-us+m3", "goodbye", 40, rate) for rate in (100, 280))
    assert len(fast) < 0.7 * len(slow)
    for pitch, expected_hz in ((0, 80), (99, 172)):
        voice = programs.spoken("en-us+m3", "mama mama mama", pitch, 120)[2000:10_000]
        spectrum = np.abs(np.fft.rfft(voice, 2**16)) ** 2
        echo = np.fft.irfft(spectrum)[SAMPLE_RATE_HZ // 250 : SAMPLE_RATE_HZ // 60]
        assert SAMPLE_RATE_HZ / (np.argmax(echo) + SAMPLE_RATE_HZ // 250) == pytest.approx(expected_hz, rel=0.15)


@NEEDS_FLUIDSYNTH
@pytest.mark.parametrize("name", ["flute", "piano"])
def test_instruments_are_in_tune(name: str, empty_cache: Path) -> None:
    rng = generator(name, 0)
    for k in range(6):
        clip = draw(name, rng, SPLITS[k % 2])
        check_clip(clip)
        spectrum = np.abs(np.fft.rfft(clip.audio, 2**17))
        harmonic = np.argmax(spectrum) * SAMPLE_RATE_HZ / 2**17 / float(clip.settings["pitch_hz"])
        assert harmonic == pytest.approx(round(harmonic), rel=0.015)
    assert len(list(empty_cache.rglob("*.wav"))) == 1


def test_a_midi_file_has_a_note_a_band() -> None:
    song = programs.midi(40, 57)
    assert song.startswith(b"MThd")
    assert int.from_bytes(song[18:22], "big") == len(song) - 22
    assert [song.count(bytes((0x90, 57 + k, 100))) for k in range(BANDS)] == [1] * BANDS


def test_the_command_writes_files_and_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--out", str(tmp_path), "--per-class", "2", "--seed", "3", "--only", "siren", "rain"]
    assert main(command) == 0
    assert "4 clips" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [line["class"] for line in lines] == ["siren", "siren", "rain", "rain"]
    for line in lines:
        audio, rate_hz = soundfile.read(tmp_path / line["file"], dtype="float32")
        assert rate_hz == SAMPLE_RATE_HZ
        assert rms(audio) == pytest.approx(line["settings"]["level_rms"], rel=0.01)
    first = (tmp_path / lines[0]["file"]).read_bytes()
    assert main(command) == 0
    assert (tmp_path / lines[0]["file"]).read_bytes() == first


def test_the_command_says_what_is_missing(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert main(["--out", str(tmp_path), "--only", "piano"]) == 1
    assert capsys.readouterr().err.strip().endswith("apt-get install fluidsynth fluid-soundfont-gm")
