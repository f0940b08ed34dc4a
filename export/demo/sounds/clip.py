"""One clip: a class's sound at drawn settings, at a drawn level, with its caption."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.demo.sounds.captions import write_caption
from export.demo.sounds.catalogue import SYNTHESISED
from export.demo.sounds.rendered import INSTRUMENTS, SPEECH
from export.demo.sounds.settings import SAMPLE_RATE_HZ, SPLITS, Samples, Sound, Split, Take, between, draw_quantile
from runtime.errors import InputError

SOUNDS: dict[str, Sound] = {**SYNTHESISED, **INSTRUMENTS, **SPEECH}
CLASSES: tuple[str, ...] = tuple(SOUNDS)
SYNTHESISED_CLASSES: tuple[str, ...] = tuple(SYNTHESISED)  # NumPy alone
SHORTEST_S, LONGEST_S = 2.0, 30.0
SOFTEST_RMS, LOUDEST_RMS, PEAK = 0.025, 0.2, 0.95
MOST_CREST = 10.0


@dataclass(frozen=True)
class Clip:
    """A sound and what is known of it."""

    audio: npt.NDArray[np.float32]  # (samples,) at 16 kHz, peak below 1
    caption: str
    name: str  # of the class
    settings: Mapping[str, float | str]  # pitch_hz, rate_hz, length_s, level_rms, word: those that the class has
    quantiles: Mapping[str, float]  # where in its span each setting lies, from 0 to 1; decides the split


def generator(name: str, seed: int) -> np.random.Generator:
    """The generator of a class and a seed. Independent of the other classes: adding one changes no clip."""
    return np.random.default_rng((seed, zlib.crc32(name.encode())))


def draw(name: str, rng: np.random.Generator, split: Split = "train", seconds: float = 2.56) -> Clip:
    """A clip of a class, its settings drawn from the bands of `split`.

    Raises InputError for a class, split or length that is not there, MissingDependencyError where the class needs a
    program that is not installed.
    """
    _check(name, split, seconds)
    sound = SOUNDS[name]
    quantiles, word, caption = _described(sound, rng, split, seconds)
    settings = {setting: between(span, quantiles[setting]) for setting, span in sound.ranges(seconds).items()}
    take = Take(rng, round(seconds * SAMPLE_RATE_HZ), quantiles, word=word, **settings)
    audio = at_level(sound.make(take), quantiles["level_rms"])
    known: dict[str, float | str] = {**settings, "level_rms": float(np.sqrt(np.mean(np.square(audio))))}
    if word:
        known["word"] = word
    return Clip(audio.astype(np.float32), caption, name, known, quantiles)


def captions(per_class: int, seed: int, split: Split = "train", seconds: float = 2.56) -> list[str]:
    """So many captions of each class, as clips have them, without the clips."""
    found: list[str] = []
    for name, sound in SOUNDS.items():
        rng = generator(name, seed)
        found += (_described(sound, rng, split, seconds)[-1] for _ in range(per_class))
    return found


def _described(
    sound: Sound, rng: np.random.Generator, split: Split, seconds: float
) -> tuple[dict[str, float], str, str]:
    """Where a clip's settings lie in their spans, the word that it says, and its caption."""
    quantiles = {setting: draw_quantile(rng, split, sound.stepped) for setting in sound.ranges(seconds)}
    quantiles["level_rms"] = draw_quantile(rng, split)
    word = str(rng.choice(sound.words)) if sound.words else ""
    return quantiles, word, write_caption(rng, sound, word, quantiles, split)


def at_level(sound: Samples, quantile: float) -> Samples:
    """(samples,) scaled to an RMS between the softest and the loudest that its peak allows."""
    peak, rms = _peak_and_rms(sound)
    for _ in range(3):  # so that short strokes can be loud too: the peaks give way to what is under them
        if peak / rms <= MOST_CREST:
            break
        sound = np.tanh(2 * sound / peak)
        peak, rms = _peak_and_rms(sound)
    loudest = min(LOUDEST_RMS, PEAK * rms / peak)
    return sound * (between((SOFTEST_RMS, loudest), quantile) / rms)


def _peak_and_rms(sound: Samples) -> tuple[float, float]:
    return float(np.abs(sound).max()), float(np.sqrt(np.mean(sound**2)))


def _check(name: str, split: str, seconds: float) -> None:
    if name not in SOUNDS:
        raise InputError(f"no class of sounds {name!r}; there are {', '.join(CLASSES)}")
    if split not in SPLITS:
        raise InputError(f"split is {split!r}; it is one of {', '.join(SPLITS)}")
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise InputError(f"seconds is {seconds:g}; a clip lasts {SHORTEST_S:g} to {LONGEST_S:g} seconds")
