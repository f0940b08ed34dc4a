"""Whether a place in a sound is heard as a join: what happens there, against random places of the same sound."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bench.figures import wilson
from export.demo.sounds import SAMPLE_RATE_HZ

Floats = npt.NDArray[np.floating]
PLACES = 200  # random ones of each sound
BESIDE = SAMPLE_RATE_HZ // 20  # 50 ms on either side, of which energy and spectrum are compared
NEAR = 3  # samples around a place in which it may click
UNUSUAL = 0.95  # a join is one if so many of the random places have less of it: 5 % of all places do
_TINY = 1e-5


def measures(audio: Floats, place: int) -> dict[str, float]:
    """How much clicks, and how much energy (dB) and spectrum (dB, mean over bands) differ before and after a place."""
    before, after = audio[place - BESIDE : place], audio[place : place + BESIDE]
    bends = np.abs(np.diff(audio[place - BESIDE : place + BESIDE], 2))
    middle = BESIDE - 1  # of the bends: the one whose centre is the last sample before the place
    click = bends[middle - NEAR : middle + NEAR + 1].max() / (np.sqrt(np.square(bends).mean()) + _TINY)
    energies = [10 * np.log10(np.square(part).mean() + _TINY**2) for part in (before, after)]
    bands = [_bands(part) for part in (before, after)]
    return {
        "click": float(click),
        "energy": float(abs(energies[1] - energies[0])),
        "spectrum": float(np.abs(bands[1] - bands[0]).mean()),
    }


def ranks(audio: Floats, place: int, rng: np.random.Generator) -> dict[str, float]:
    """For each measure the share of random places of the same sound that have less of it; without a join, about 0.5."""
    there, others = measures(audio, place), rng.integers(BESIDE, len(audio) - BESIDE, PLACES)
    elsewhere = [measures(audio, int(other)) for other in others]
    return {name: float(np.mean([other[name] < value for other in elsewhere])) for name, value in there.items()}


def summary(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Over many joins: the share of unusual ones by measure, with the 95 % interval. Seamless ones have 5 %."""
    result: dict[str, float] = {"joins": len(found)}
    for name in found[0]:
        unusual = sum(rank[name] > UNUSUAL for rank in found)
        low, high = wilson(unusual, len(found))
        result |= {name: unusual / len(found), f"{name}_low": low, f"{name}_high": high}
    return result


def _bands(part: Floats) -> Floats:
    """Power in 24 bands, a third of an octave wide or so, in dB."""
    power = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2
    edges = np.unique(np.geomspace(2, len(power), 25).astype(int))
    bands: Floats = 10 * np.log10(np.add.reduceat(power, edges[:-1]) + _TINY**2)
    return bands
