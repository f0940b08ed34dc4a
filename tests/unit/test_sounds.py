"""The sounds are what their captions say, as far as that can be measured; training never sees what evaluation draws."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from export.demo.sounds import (
    CLASSES,
    SAMPLE_RATE_HZ,
    SPLITS,
    SYNTHESISED_CLASSES,
    Clip,
    Split,
    draw,
    generator,
    programs,
)
from export.demo.sounds.__main__ import main
from export.demo.sounds.captions import ADJECTIVES, TEMPLATES, true_adjectives
from export.demo.sounds.clip import SOUNDS
from export.demo.sounds.settings import BANDS, HELD_OUT, HIGH_BANDS, LOW_BANDS, band, draw_quantile
from runtime.errors import InputError, MissingDependencyError
from tests.unit.helpers import ROOT, raises_line

SECONDS = 2.56
NEEDS_ESPEAK = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not here")
NEEDS_FLUIDSYNTH = pytest.mark.skipif(
    shutil.which("fluidsynth") is None or not programs.SOUND_FONT.exists(), reason="fluidsynth or its font is not here"
)
SCATTERED = ("fire",)  # crackles at random times: more of them are denser, not quicker
BUZZING = ("engine", "pulse_train", "helicopter")  # too fast for frames
Signal = npt.NDArray[np.float64]


@cache
def clips(name: str, split: Split = "train") -> tuple[Clip, ...]:
    rng = generator(name, seed=1)
    return tuple(draw(name, rng, split) for _ in range(16 if split == "train" else 5))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for cached in (programs.notes, programs.spoken):
        cached.cache_clear()
    yield tmp_path
    for cached in (programs.notes, programs.spoken):
        cached.cache_clear()


def spectrogram(audio: npt.NDArray[np.float32], hop: int = 80) -> Signal:
    """(frames, 257) power, frames of 32 ms."""
    frames = np.lib.stride_tricks.sliding_window_view(audio.astype(np.float64), 512)[::hop]
    return np.abs(np.fft.rfft(frames * np.hanning(512))) ** 2


def centroid_hz(power: Signal) -> float:
    """Of (frames, bins) or (bins,): the mean frequency, in octaves as pitch is heard, weighed by amplitude."""
    weights = np.sqrt(power.reshape(-1, power.shape[-1]).mean(axis=0))[1:]
    octaves = np.log2(np.arange(1, len(weights) + 1) * SAMPLE_RATE_HZ / 2 / len(weights))
    return float(2 ** np.average(octaves, weights=weights))


def modulation_hz(audio: npt.NDArray[np.float32]) -> float:
    """How fast the loudness in the bands of the spectrum changes: the centroid of its fluctuation."""
    bands = np.log(spectrogram(audio)[:, 1:].reshape(-1, 32, 8).mean(axis=2) + 1e-4)
    moving = (np.abs(np.fft.rfft(bands - bands.mean(axis=0), axis=0)) ** 2).sum(axis=1)
    hz = np.fft.rfftfreq(len(bands), 80 / SAMPLE_RATE_HZ)
    return float(2 ** np.average(np.log2(hz[1:]), weights=moving[1:]))


def sounding_s(audio: npt.NDArray[np.float32]) -> float:
    """From the first to the last moment that is not 40 dB below the peak."""
    heard = np.flatnonzero(np.abs(audio) > 0.01 * np.abs(audio).max())
    return float(heard[-1] - heard[0]) / SAMPLE_RATE_HZ


def repeats_hz(audio: npt.NDArray[np.float32]) -> float:
    """The strongest frequency, from 5 to 90 Hz, of the envelope."""
    envelope = np.square(audio.astype(np.float64))
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean(), 2**18))
    hz = np.arange(len(spectrum)) * SAMPLE_RATE_HZ / 2**18
    return float(hz[np.argmax(spectrum * ((hz > 5) & (hz < 90)))])


def crackling(audio: npt.NDArray[np.float32]) -> float:
    """The share of frames of 5 ms that are 6 dB above the median one."""
    power = np.square(audio[: len(audio) // 80 * 80]).reshape(-1, 80).mean(axis=1)
    return float(np.mean(power > 4 * np.median(power)))


def rms(audio: npt.NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(audio.astype(np.float64) ** 2)))


def said(clip: Clip) -> set[str]:
    """The words of a caption that are adjectives of the class."""
    own = {**ADJECTIVES, **SOUNDS[clip.name].adjectives}
    return set(re.findall(r"[a-z-]+", clip.caption)) & {word for pair in own.values() for side in pair for word in side}


def low_and_high(name: str, setting: str) -> tuple[list[Clip], list[Clip]]:
    """Clips of a class for which the low and the high adjectives of a setting are true."""
    bands = [(band(clip.quantiles[setting]), clip) for clip in clips(name)]
    return [c for b, c in bands if b < LOW_BANDS], [c for b, c in bands if b >= HIGH_BANDS]


def having(setting: str) -> list[str]:
    return [name for name in SYNTHESISED_CLASSES if getattr(SOUNDS[name], setting) is not None]


def test_there_are_enough_classes() -> None:
    assert len(CLASSES) >= 40
    assert len(set(CLASSES)) == len(CLASSES)
    assert set(SYNTHESISED_CLASSES) < set(CLASSES)


@pytest.mark.parametrize("name", SYNTHESISED_CLASSES)
def test_clips_are_audible_and_of_the_right_length(name: str) -> None:
    for clip in clips(name) + clips(name, "held_out"):
        check_clip(clip)
    assert len({clip.caption for clip in clips(name)}) > 10


def check_clip(clip: Clip, seconds: float = SECONDS) -> None:
    assert clip.audio.shape == (round(seconds * SAMPLE_RATE_HZ),)
    assert clip.audio.dtype == np.float32
    assert np.isfinite(clip.audio).all()
    assert np.abs(clip.audio).max() < 1
    assert rms(clip.audio) > 0.02
    assert rms(clip.audio) == pytest.approx(clip.settings["level_rms"], rel=1e-4)
    assert "{" not in clip.caption
    assert "  " not in clip.caption
    assert not re.search(r"\ba [aeio]|\ban [^aeiou]", clip.caption)


@pytest.mark.parametrize("name", SYNTHESISED_CLASSES)
def test_a_seed_gives_the_same_clip_again_and_another_seed_another(name: str) -> None:
    first, again, other = (draw(name, generator(name, seed)) for seed in (5, 5, 6))
    assert np.array_equal(first.audio, again.audio)
    assert (first.caption, first.settings) == (again.caption, again.settings)
    assert not np.array_equal(first.audio, other.audio)


@pytest.mark.parametrize("seconds", [2.0, 5.0])
def test_other_lengths(seconds: float) -> None:
    for name in SYNTHESISED_CLASSES:
        check_clip(draw(name, generator(name, 2), seconds=seconds), seconds)


@pytest.mark.parametrize("name", having("pitch_hz"))
def test_high_is_higher_than_low(name: str) -> None:
    low, high = ([centroid_hz(spectrogram(c.audio)) for c in side] for side in low_and_high(name, "pitch_hz"))
    assert np.mean(np.log(high)) > np.mean(np.log(low)) + 0.1


@pytest.mark.parametrize("name", [name for name in having("rate_hz") if name not in SCATTERED + BUZZING])
def test_fast_is_faster_than_slow(name: str) -> None:
    slow, fast = ([modulation_hz(c.audio) for c in side] for side in low_and_high(name, "rate_hz"))
    assert np.mean(np.log(fast)) > np.mean(np.log(slow)) + 0.1


@pytest.mark.parametrize("name", BUZZING)
def test_fast_machines_repeat_faster_than_slow(name: str) -> None:
    slow, fast = ([repeats_hz(c.audio) for c in side] for side in low_and_high(name, "rate_hz"))
    assert np.mean(np.log(fast)) > np.mean(np.log(slow)) + 0.3


@pytest.mark.parametrize("name", SCATTERED)
def test_many_crackles_are_heard_more_often_than_few(name: str) -> None:
    few, many = ([crackling(c.audio) for c in side] for side in low_and_high(name, "rate_hz"))
    assert np.mean(many) > 1.3 * np.mean(few)


@pytest.mark.parametrize("name", having("length_s"))
def test_long_lasts_longer_than_short(name: str) -> None:
    short, long = ([sounding_s(c.audio) for c in side] for side in low_and_high(name, "length_s"))
    assert min(long) > max(short)


@pytest.mark.parametrize("name", SYNTHESISED_CLASSES)
def test_loud_is_louder_than_soft(name: str) -> None:
    soft, loud = ([rms(c.audio) for c in side] for side in low_and_high(name, "level_rms"))
    assert min(loud) > max(soft)


@pytest.mark.parametrize(("name", "sign"), [("rising_chirp", 1), ("falling_chirp", -1)])
def test_chirps_go_where_they_say(name: str, sign: int) -> None:
    for clip in clips(name):
        power = spectrogram(clip.audio)
        sounding = power[power.sum(axis=1) > 0.1 * power.sum(axis=1).max()]
        pitch = np.array([centroid_hz(frame) for frame in sounding])
        steps = sign * np.diff(np.log(pitch[:: max(1, len(pitch) // 8)]))
        assert (steps > 0).all()


@pytest.mark.parametrize(("name", "sign"), [("rising_arpeggio", 1), ("falling_arpeggio", -1)])
def test_arpeggios_go_where_they_say(name: str, sign: int) -> None:
    for clip in clips(name):
        period = round(SAMPLE_RATE_HZ / float(clip.settings["rate_hz"]))
        peaks = [np.abs(np.fft.rfft(clip.audio[k * period : (k + 1) * period], 16_384)).argmax() for k in range(4)]
        assert (sign * np.diff(peaks) > 0).all()


def test_colours_of_noise_differ_in_their_slope() -> None:
    centroids = [
        np.mean([centroid_hz(spectrogram(c.audio)) for c in clips(name)])
        for name in ("brown_noise", "pink_noise", "white_noise", "steam")
    ]
    assert centroids == sorted(centroids)
    assert centroids[0] * 4 < centroids[3]


def test_a_sine_has_the_pitch_that_its_settings_give() -> None:
    for clip in clips("sine_tone"):
        peak_hz = np.abs(np.fft.rfft(clip.audio)).argmax() * SAMPLE_RATE_HZ / len(clip.audio)
        assert peak_hz == pytest.approx(clip.settings["pitch_hz"], abs=3)


@pytest.mark.parametrize("pitch_hz", [93.0, 207.3, 655.5])
def test_a_plucked_string_is_in_tune(pitch_hz: float) -> None:
    from export.demo.sounds.synth import plucked

    string = plucked(np.random.default_rng(0), pitch_hz, 2.0, 3.0)
    spectrum = np.abs(np.fft.rfft(string * np.hanning(len(string)), 2**18))
    near = np.abs(np.arange(len(spectrum)) * SAMPLE_RATE_HZ / 2**18 - pitch_hz) < 0.2 * pitch_hz
    assert np.argmax(spectrum * near) * SAMPLE_RATE_HZ / 2**18 == pytest.approx(pitch_hz, rel=2e-3)


def test_every_adjective_that_is_said_is_true() -> None:
    heard = 0
    for name in SYNTHESISED_CLASSES:
        for clip in clips(name):
            true = {word for words in true_adjectives(SOUNDS[name], clip.quantiles).values() for word in words}
            assert said(clip) <= true, clip.caption
            heard += len(said(clip))
    assert heard > 1000


def test_splits_share_no_setting() -> None:
    for name in SYNTHESISED_CLASSES:
        for split in SPLITS:
            for clip in clips(name, split):
                assert {band(q) in HELD_OUT for q in clip.quantiles.values()} == {split == "held_out"}


@pytest.mark.parametrize("stepped", [False, True])
def test_quantiles_stay_in_their_split(stepped: bool) -> None:
    rng = np.random.default_rng(0)
    for split in SPLITS:
        drawn = {band(draw_quantile(rng, split, stepped)) for _ in range(2000)}
        assert drawn == (set(HELD_OUT) if split == "held_out" else set(range(BANDS)) - set(HELD_OUT))
    assert any(b < LOW_BANDS for b in HELD_OUT)
    assert any(b >= HIGH_BANDS for b in HELD_OUT)


def test_splits_share_no_caption() -> None:
    captions = {split: {c.caption for name in SYNTHESISED_CLASSES for c in clips(name, split)} for split in SPLITS}
    assert not captions["train"] & captions["held_out"]
    begins = tuple(template.partition("{")[0] for template in TEMPLATES["held_out"])
    assert all(begins)
    assert not [caption for caption in captions["train"] if caption.startswith(begins)]
    assert all(caption.startswith(begins) for caption in captions["held_out"])


def test_wrong_arguments_are_named() -> None:
    rng = np.random.default_rng(0)
    with raises_line(InputError, "'unicorn'", "sine_tone"):
        draw("unicorn", rng)
    with raises_line(InputError, "'test'", "train", "held_out"):
        draw("siren", rng, split="test")  # type: ignore[arg-type]
    with raises_line(InputError, "0.5", "2 to 30"):
        draw("siren", rng, seconds=0.5)


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


def test_sounds_need_neither_torch_nor_scipy() -> None:
    code = "import sys, export.demo.sounds; print(*({'torch', 'diffusers', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
