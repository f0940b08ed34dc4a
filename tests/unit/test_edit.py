"""What is checked of audio that is given, and which of it is rendered."""

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from runtime.arguments import Arguments
from runtime.bundle.manifest import MelSpec
from runtime.edit import PEAK, check_edit
from runtime.errors import InputError
from tests.unit.helpers import AUDIO, raises_line

RATE, ROW = 16_000, 640
SPEC = AUDIO.__class__(
    **{name: getattr(AUDIO, name) for name in AUDIO.__struct_fields__ if name != "mel"},
    mel=MelSpec(fft_samples=1024, min_frequency_hz=0, max_frequency_hz=8000),
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng()


def noise(rng: np.random.Generator, seconds: float) -> np.ndarray:
    return (rng.standard_normal(round(seconds * RATE)) * 0.1 + 0.02).astype(np.float32)


def edit(audio: Any, rate: int | None = RATE, **given: Any) -> Any:
    return check_edit(SPEC, Arguments(audio=audio, sampling_rate=rate, **given))


def test_no_audio_is_no_edit() -> None:
    assert check_edit(SPEC, Arguments()) is None


def test_what_the_model_sees_is_centred_and_as_loud_as_it_knows(rng: np.random.Generator) -> None:
    wave = noise(rng, 1.01)
    seen = edit(wave).waveform(ROW)
    assert len(seen) == 26 * ROW
    assert np.abs(seen).max() == pytest.approx(PEAK, rel=1e-5)
    assert abs(seen[: len(wave)].mean()) < 1e-6
    assert not seen[len(wave) :].any()


@pytest.mark.parametrize("strength", [0, 0.3, 1])
def test_strengths(strength: float, rng: np.random.Generator) -> None:
    assert edit(noise(rng, 1), strength=strength).strength == strength
    assert edit(noise(rng, 1)).strength == 0.8
    assert edit(noise(rng, 1), inpaint_seconds=[(0.1, 0.2)]).strength == 1


def test_ranges_become_rows_that_cover_them(rng: np.random.Generator) -> None:
    found = edit(noise(rng, 2.0), inpaint_seconds=[(1.5, 1.6), (0.5, 0.75)])
    assert found.fills == ((8_000, 12_000), (24_000, 25_600))
    assert found.canvas == (0, 32_000)
    rows = np.flatnonzero(found.mask[0, 0, :, 0])
    assert rows.tolist() == [*range(12, 19), *range(37, 40)]


def test_one_range_needs_no_list(rng: np.random.Generator) -> None:
    assert edit(noise(rng, 2.0), inpaint_seconds=(0.5, 1.0)).fills == ((8_000, 16_000),)


def test_frequencies_become_columns(rng: np.random.Generator) -> None:
    found = edit(noise(rng, 1.0), inpaint_hz=(4_000, 8_000))
    assert found.fills == ((0, RATE),)
    columns = np.flatnonzero(found.mask[0, 0].all(axis=0))
    assert columns[-1] == 15
    assert 10 <= columns[0] <= 12  # 4 kHz is mel bin 46 or so of 64
    both = edit(noise(rng, 1.0), inpaint_hz=(4_000, 8_000), inpaint_seconds=[(0.2, 0.4)])
    assert both.fills == ((3_200, 6_400),)
    assert both.mask[0, 0].sum() == len(columns) * 5


@pytest.mark.parametrize(("before", "after"), [(0.0, 1.0), (0.37, 0.0), (0.21, 0.4)])
def test_extension_begins_what_is_encoded_with_a_row(before: float, after: float, rng: np.random.Generator) -> None:
    wave = noise(rng, 1.3)
    found = edit(wave, extend_s=(before, after))
    added = int(before * RATE), int(after * RATE)
    assert len(found.audio) == len(wave) + sum(added)
    assert (found.encoded[0] - found.canvas[0]) % ROW == 0
    assert (found.canvas[1] - found.canvas[0]) % ROW == 0
    assert found.canvas[0] <= 0
    assert found.canvas[1] >= len(found.audio)
    np.testing.assert_array_equal(found.audio[added[0] : added[0] + len(wave)], wave)
    kept = np.zeros(len(found.audio) + ROW, bool)
    for row in np.flatnonzero(found.mask[0, 0, :, 0] == 0):
        kept[max(found.canvas[0] + row * ROW, 0) : found.canvas[0] + (row + 1) * ROW] = True
    assert not kept[: added[0]].any()
    assert not kept[added[0] + len(wave) : len(found.audio)].any()


def test_of_long_audio_only_what_is_near_is_rendered(rng: np.random.Generator) -> None:
    wave, usual = noise(rng, 60.0), 256 * ROW
    for given, fill in (
        ({"inpaint_seconds": [(30.01, 31.0)]}, (30.01, 31.0)),
        ({"inpaint_seconds": [(0.0, 0.5)]}, (0.0, 0.5)),
        ({"inpaint_seconds": [(59.0, 60.0)]}, (59.0, 60.0)),
        ({"extend_s": 3.0}, (60.0, 63.0)),
        ({"extend_s": (3.0, 0.0)}, (0.0, 3.0)),
    ):
        found = edit(wave, **given)
        assert usual <= found.canvas[1] - found.canvas[0] <= usual + 2 * ROW
        assert found.canvas[0] <= round(fill[0] * RATE)
        assert found.canvas[1] >= round(fill[1] * RATE)
    found = edit(wave, inpaint_seconds=[(10.0, 40.0)])
    assert (found.canvas[1] - found.canvas[0]) == pytest.approx((30 + 5.12) * RATE, abs=2 * ROW)


def test_masks(rng: np.random.Generator) -> None:
    mask = np.zeros((50, 16))
    mask[10:20, 3] = 0.5
    mask[40:] = 1
    found = edit(noise(rng, 1.99), inpaint_mask=mask)
    assert found.fills == ((6_400, 12_800), (25_600, 31_840))
    whole = edit(noise(rng, 1.99), inpaint_mask=np.ones((2, 8, 50, 16)) * mask)
    assert whole.fills == found.fills
    assert whole.mask.shape == (2, 8, 50, 16)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 192_000])
def test_files_of_any_kind_and_rate(kind: str, rate: int, tmp_path: Path) -> None:
    if kind == "MP3" and rate == 192_000:
        return  # the format ends at 48 kHz
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate) * 0.3
    stereo, path = np.stack([tone, tone * 0.5], axis=1), tmp_path / "sound"
    soundfile.write(path, stereo, rate, format=kind)
    for source in (str(path), path, path.read_bytes()):
        found = edit(source, None)
        assert found.audio.dtype == np.float32
        assert len(found.audio) == pytest.approx(RATE, abs=300)  # formats for the ear add some
        spectrum = np.abs(np.fft.rfft(found.audio))
        assert abs(np.argmax(spectrum) * RATE / len(found.audio) - 1000) < 3
        loose = 0.02 if kind in ("WAV", "FLAC") else 0.1  # the others are for the ear
        assert np.abs(found.audio[4000:12000]).max() == pytest.approx(0.225, rel=loose)


def test_arrays_of_channels_and_rates(rng: np.random.Generator) -> None:
    wave = noise(rng, 0.5)
    np.testing.assert_array_equal(edit(np.stack([wave, wave])).audio, wave)
    assert len(edit(np.repeat(wave[None], 8, 0), 192_000).audio) == pytest.approx(0.5 * RATE / 12, abs=2)
    assert edit((wave * 1000).astype(np.int16)).audio.dtype == np.float32


@pytest.mark.parametrize(
    ("audio", "rate", "given", "fragments"),
    [
        (np.zeros(8000), RATE, {}, ["silent"]),
        (np.ones(8000), RATE, {}, ["silent"]),  # a constant is none either
        (np.zeros(0), RATE, {}, ["no samples"]),
        (np.ones(1), RATE, {}, ["one sample"]),
        (np.full(8000, np.nan), RATE, {}, ["NaN"]),
        (np.full(8000, 1e9), RATE, {}, ["up to"]),
        (np.ones((8000, 2)), RATE, {}, ["8000 channels", "(samples, channels)"]),
        (np.ones((1, 2, 8000)), RATE, {}, ["shape"]),
        ("text", None, {}, ["'text'", "no such file"]),
        (b"no sound", None, {}, ["no sound file"]),
        (object(), RATE, {}, ["array"]),
        (np.ones(99), None, {}, ["sampling_rate is missing"]),
        (np.ones(99), 3, {}, ["sampling_rate"]),
        (np.ones(99), True, {}, ["sampling_rate"]),
        (b"", 16_000, {}, ["sampling_rate is for audio in an array"]),
        (np.ones(16_000_000), 4_000, {}, ["4000 s long"]),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, (list, dict)) else type(value).__name__,
)
def test_bad_audio(audio: Any, rate: Any, given: dict[str, Any], fragments: list[str]) -> None:
    with raises_line(InputError, *fragments):
        edit(audio, rate, **given)


@pytest.mark.parametrize(
    ("given", "fragments"),
    [
        ({"strength": -0.1}, ["strength", "0 to 1"]),
        ({"strength": float("nan")}, ["strength"]),
        ({"strength": "much"}, ["strength", "much"]),
        ({"strength": 0, "inpaint_seconds": [(0, 1)]}, ["strength 0"]),
        ({"inpaint_seconds": []}, ["pairs"]),
        ({"inpaint_seconds": 1.0}, ["pairs"]),
        ({"inpaint_seconds": [1.0]}, ["pairs"]),
        ({"inpaint_seconds": [(0, 1, 2)]}, ["pairs"]),
        ({"inpaint_seconds": [(1.5, 1.0)]}, ["start before"]),
        ({"inpaint_seconds": [(1.0, 1.0)]}, ["no range"]),
        ({"inpaint_seconds": [(1.0, 1.00001)]}, ["shorter than a sample"]),
        ({"inpaint_seconds": [(-1.0, 1.0)]}, ["inpaint_seconds"]),
        ({"inpaint_seconds": [(1.0, 2.5)]}, ["outside", "2.000 s"]),
        ({"inpaint_seconds": [(0.0, 1.0), (0.9, 1.5)]}, ["overlap"]),
        ({"inpaint_seconds": [(0.0, 2.0)]}, ["all of the audio"]),
        ({"inpaint_hz": (5, 4)}, ["no band"]),
        ({"inpaint_hz": (1, 9000)}, ["inpaint_hz"]),
        ({"inpaint_hz": 5}, ["two numbers"]),
        ({"inpaint_mask": np.zeros((50, 16))}, ["0 everywhere"]),
        ({"inpaint_mask": np.ones((49, 16))}, ["(49, 16)", "(50, 16)"]),
        ({"inpaint_mask": np.full((50, 16), 2.0)}, ["from 0"]),
        ({"inpaint_mask": np.ones((1, 3, 50, 16))}, ["3 channels"]),
        ({"inpaint_mask": np.ones((50, 16)), "extend_s": 1}, ["in place of"]),
        ({"extend_s": 0}, ["adds nothing"]),
        ({"extend_s": -1}, ["extend_s"]),
        ({"extend_s": (1, 2, 3)}, ["two"]),
        ({"extend_s": 1, "strength": 0.5}, ["strength has to be 1"]),
        ({"encoding": "mean"}, ["mode or sample"]),
        ({"latents": np.zeros(3)}, ["latents", "audio"]),
        ({"audio_length_in_s": 3.0}, ["audio_length_in_s", "audio"]),
    ],
    ids=str,
)
def test_bad_edits(given: dict[str, Any], fragments: list[str], rng: np.random.Generator) -> None:
    with raises_line(InputError, *fragments):
        edit(noise(rng, 2.0), **given)


@pytest.mark.parametrize(
    "name", ["strength", "inpaint_seconds", "inpaint_hz", "inpaint_mask", "extend_s", "sampling_rate"]
)
def test_what_needs_audio_says_so(name: str) -> None:
    with raises_line(InputError, f"{name} needs audio"):
        check_edit(SPEC, Arguments(**{name: 1}))


def test_a_long_file_is_refused_by_its_header(tmp_path: Path) -> None:
    """Three hours of eight channels at 192 kHz are 33 GB here: the header says so, and no more is read."""
    path, channels, rate = tmp_path / "long.wav", 8, 192_000
    size = 3 * 3600 * rate * channels * 2
    ds64 = struct.pack("<4sIQQQI", b"ds64", 28, size + 72, size, size // (2 * channels), 0)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * channels * 2, channels * 2, 16)
    head = struct.pack("<4sI4s", b"RF64", 0xFFFFFFFF, b"WAVE") + ds64 + form + struct.pack("<4sI", b"data", 0xFFFFFFFF)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)  # sparse: it takes no room
    with raises_line(InputError, "10800 s long", "3600 s"):
        edit(path, None)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.mkfifo(sys.argv[1]); from runtime.sound.reading import read_waveform; "
        "read_waveform(sys.argv[1], None, 16000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "pipe")], capture_output=True, text=True, timeout=30, check=False
    )
    assert "InputError" in done.stderr
    assert "is no file" in done.stderr
