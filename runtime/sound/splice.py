"""Putting made sound into a sound that is kept: no kept sample changes, and nothing clicks where the two meet."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
FADE_SAMPLES = 320  # in which what was there gives way: 20 ms at 16 kHz
_ORDER, _MEMORY = 64, 2048  # of the linear prediction, and the samples that it is learnt from
_BESIDE, _MOST_GAIN = 4_800, 4.0  # samples by which loudness is told, and how much is made up for at most
_SILENCE = 1e-8  # power of a sample: -80 dB
_NOTHING = 1e-20  # power of a sample: nothing is left to predict


def splice(kept: Floats, made: Floats, offset: int, ranges: Sequence[tuple[int, int]]) -> Floats:
    """`kept` (samples,) with each range replaced by what was made, once for each row: (rows, samples).

    `made` (rows, samples) begins at sample `offset` of `kept`. At the borders of a range the sound that is kept goes on
    for a moment, as linear prediction and its noise have it, while what was made comes in. So no kept sample changes,
    and of what was in the range before nothing is left. What was made is as much louder or quieter as the kept sound is
    than what was made in its place, but not beyond full scale, or a file would be scaled down as a whole.
    """
    most = max(1.0, float(np.abs(kept).max(initial=0.0)))
    result = np.repeat(kept[None], len(made), axis=0)
    for start, stop in ranges:
        loudness = np.geomspace(*_gains(kept, made, offset, start, stop), stop - start, axis=1, dtype=np.float32)
        part = made[:, start - offset : stop - offset] * loudness
        part /= np.maximum(np.abs(part).max(axis=1, keepdims=True) / np.float32(most), 1)
        fade = min(FADE_SAMPLES, (stop - start) // 2)
        rising = np.sin(np.linspace(0, np.pi / 2, fade + 2)[1:-1]).astype(np.float32)  # of equal power: they differ
        if start > 0 and fade:
            part[:, :fade] = part[:, :fade] * rising + continued(kept[:start], fade) * rising[::-1]
        if stop < len(kept) and fade:
            before = continued(kept[stop:][::-1], fade)[::-1]
            part[:, -fade:] = part[:, -fade:] * rising[::-1] + before * rising
        result[:, start:stop] = part.clip(-most, most)
    return result


def _gains(kept: Floats, made: Floats, offset: int, start: int, stop: int) -> tuple[Floats, Floats]:
    """How much louder what is kept is than what was made in its place, before and after a range: each (rows,)."""
    sides: list[Floats] = []
    for first, last in ((max(start - _BESIDE, offset, 0), start), (stop, min(stop + _BESIDE, len(kept)))):
        there, here = made[:, first - offset : last - offset], kept[first:last]
        here = here[: there.shape[1]]
        powers = np.square(there).sum(axis=1), np.square(here).sum()
        audible = (powers[0] > _SILENCE * there.shape[1]) & (powers[1] > _SILENCE * there.shape[1])
        ratio = np.sqrt(powers[1] / np.where(audible, powers[0], 1)).clip(1 / _MOST_GAIN, _MOST_GAIN)
        sides.append(np.where(audible, ratio, 0).astype(np.float32))  # 0: nothing is known of this side
    known = np.maximum(*sides)
    known[known == 0] = 1
    before, after = (np.where(side > 0, side, known) for side in sides)
    return before, after


def continued(sound: Floats, samples: int) -> Floats:
    """The next samples of a sound, (samples,), as linear prediction has them, with noise where it predicts nothing.

    Tones go on, and what is like noise goes on with its colour and its level; the same each time.
    """
    past = sound[-_MEMORY:].astype(np.float64)
    weights, missed = _prediction(past, min(_ORDER, len(past) // 2))
    noise = np.random.default_rng(0).standard_normal(samples) * np.sqrt(missed)
    known = np.concatenate([past[len(past) - len(weights) :], noise])
    for i in range(samples):
        known[len(weights) + i] += known[i : len(weights) + i] @ weights
    return known[len(weights) :].astype(np.float32)


def _prediction(past: npt.NDArray[np.float64], order: int) -> tuple[npt.NDArray[np.float64], float]:
    """Weights of earlier samples, oldest first, and the power of what they miss: Burg's method, which is stable."""
    ahead, behind, row = past[1:], past[:-1], np.ones(1)
    missed = float(np.square(past).mean())
    for _ in range(order):
        power = ahead @ ahead + behind @ behind
        if power <= _NOTHING * len(past):
            break
        reflection = -2 * (ahead @ behind) / power
        row = np.append(row, 0.0)
        row = row + reflection * row[::-1]
        ahead, behind = (ahead + reflection * behind)[1:], (behind + reflection * ahead)[:-1]
        missed *= float(1 - reflection**2)
    weights: npt.NDArray[np.float64] = -row[:0:-1]
    return weights, missed
