"""The sounds are what their captions say, as far as that can be measured; training never sees what evaluation draws."""

import re
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from export.demo.sounds import (
    CLASSES,
    SAMPLE_RATE_HZ,
    SPLITS,
    SYNTHESISED_CLASSES,
    Clip,
    Split,
    draw,
    generator,
)
from export.demo.sounds.captions import ADJECTIVES, TEMPLATES, true_adjectives
from export.demo.sounds.clip import SOUNDS
from export.demo.sounds.settings import BANDS, HELD_OUT, HIGH_BANDS, LOW_BANDS, band, draw_quantile
from runtime.errors import InputError
from tests.unit.hearing import (
    centroid_hz,
    check_clip,
    crackling,
    modulation_hz,
    repeats_hz,
    rms,
    sounding_s,
    spectrogram,
)
from tests.unit.helpers import ROOT, raises_line

SCATTERED = ("fire",)  # crackles at random times: more of them are denser, not quicker
BUZZING = ("engine", "pulse_train", "helicopter")  # too fast for frames


@cache
def clips(name: str, split: Split = "train") -> tuple[Clip, ...]:
    rng = generator(name, seed=1)
    return tuple(draw(name, rng, split) for _ in range(16 if split == "train" else 5))


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


def test_sounds_need_neither_torch_nor_scipy() -> None:
    code = "import sys, export.demo.sounds; print(*({'torch', 'diffusers', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
