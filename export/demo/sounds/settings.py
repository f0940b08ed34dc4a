"""What a clip is drawn with: pitch, speed, length and level, each a quantile that training or evaluation owns.

A quantile in [0, 1) lies in one of `BANDS` bands. Bands in `HELD_OUT` belong to the held-out split and all others to
training, for every setting of a clip: no setting of the one split can be drawn in the other. The lowest eight bands are
called low (slow, short, soft), the highest eight high; between them no adjective is claimed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]
Split = Literal["train", "held_out"]

SAMPLE_RATE_HZ = 16_000
SPLITS: tuple[Split, ...] = ("train", "held_out")
BANDS = 20
HELD_OUT = (2, 9, 16)
LOW_BANDS, HIGH_BANDS = 8, 12  # low below the first, high from the second on
SETTINGS = ("pitch_hz", "rate_hz", "length_s", "level_rms")
OWNED = {
    "train": np.array([band for band in range(BANDS) if band not in HELD_OUT]),
    "held_out": np.array(HELD_OUT),
}


@dataclass(frozen=True)
class Take:
    """One drawing of a sound: what its maker gets. Settings that the sound does not have are 0."""

    rng: np.random.Generator
    samples: int  # of the clip
    quantiles: Mapping[str, float]
    pitch_hz: float = 0.0
    rate_hz: float = 0.0
    length_s: float = 0.0
    word: str = ""

    @property
    def times_s(self) -> Samples:
        """(samples,) the time of each sample."""
        return np.arange(self.samples) / SAMPLE_RATE_HZ

    @property
    def seconds(self) -> float:
        """Of the clip."""
        return self.samples / SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Sound:
    """A class of sounds: who makes it, between which settings, and what it is called.

    `make` returns (samples,) at any scale. A noun has a place for adjectives, "a {adjectives}siren", and with `words`
    one for the "{word}". `adjectives` replaces the usual ones, low and high, of a setting. `stepped` rounds
    pitch and rate down to their band's beginning, for material that is cached.
    """

    make: Callable[[Take], Samples]
    nouns: tuple[str, ...]
    pitch_hz: tuple[float, float] | None = None
    rate_hz: tuple[float, float] | None = None
    length_s: tuple[float, float] | None = None
    words: tuple[str, ...] = ()
    adjectives: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    stepped: bool = False

    def ranges(self, seconds: float) -> dict[str, tuple[float, float]]:
        """Lowest and highest of each setting that the sound has, but the level, in a clip of `seconds`."""
        named = {"pitch_hz": self.pitch_hz, "rate_hz": self.rate_hz, "length_s": self.length_s}
        found = {name: span for name, span in named.items() if span is not None}
        if "length_s" in found:
            shortest, longest = found["length_s"]
            found["length_s"] = (shortest, min(longest, 0.9 * seconds))
        return found


def band(quantile: float) -> int:
    """Which of the `BANDS` a quantile in [0, 1) is in."""
    return int(quantile * BANDS + 1e-9)  # a band's own beginning, k / BANDS, may be a rounding below it


def draw_quantile(rng: np.random.Generator, split: Split, stepped: bool = False) -> float:
    """Uniform over the bands of `split`; at the band's beginning if `stepped`."""
    chosen = int(rng.choice(OWNED[split]))
    within = 0.0 if stepped else float(rng.uniform(0.0, 0.999))
    return (chosen + within) / BANDS


def between(span: tuple[float, float], quantile: float) -> float:
    """The setting at a quantile of its span, geometrically: pitch, speed and level are heard as ratios."""
    lowest, highest = span
    return float(lowest * (highest / lowest) ** quantile)
