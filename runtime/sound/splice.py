"""Putting made sound into a sound that is kept: no kept sample changes, and nothing clicks where the two meet."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
FADE_SAMPLES = 320  # in which what was there gives way: 20 ms at 16 kHz
_ORDER, _MEMORY = 64, 2048  # of the linear prediction, and the samples that it is learnt from
_FLOOR = 1e-9  # of the power, added to its own: keeps the prediction of pure tones stable


def splice(kept: Floats, made: Floats, offset: int, ranges: Sequence[tuple[int, int]]) -> Floats:
    """`kept` (samples,) with each range replaced by what was made, once for each row: (rows, samples).

    `made` (rows, samples) begins at sample `offset` of `kept`. At the borders of a range the sound that is kept goes on
    for a moment, by linear prediction, while what was made comes in. So no kept sample changes, and of what was in the
    range before nothing is left.
    """
    result = np.repeat(kept[None], len(made), axis=0)
    for start, stop in ranges:
        part = made[:, start - offset : stop - offset].copy()
        fade = min(FADE_SAMPLES, (stop - start) // 2)
        rising = np.sin(np.linspace(0, np.pi / 2, fade + 2)[1:-1]).astype(np.float32)  # of equal power: they differ
        if start > 0 and fade:
            part[:, :fade] = part[:, :fade] * rising + continued(kept[:start], fade) * rising[::-1]
        if stop < len(kept) and fade:
            before = continued(kept[stop:][::-1], fade)[::-1]
            part[:, -fade:] = part[:, -fade:] * rising[::-1] + before * rising
        result[:, start:stop] = part
    return result


def continued(sound: Floats, samples: int) -> Floats:
    """What linear prediction makes of the next samples of a sound, (samples,); the autocorrelation method is stable."""
    past = sound[-_MEMORY:].astype(np.float64)
    order = min(_ORDER, len(past) // 2)
    if order == 0 or not past.any():
        return np.zeros(samples, np.float32)
    correlation = np.correlate(past, past, "full")[len(past) - 1 :][: order + 1]
    correlation[0] *= 1 + _FLOOR
    lags = np.abs(np.subtract.outer(np.arange(order), np.arange(order)))
    weights = np.linalg.solve(correlation[lags], correlation[1:])[::-1]
    known = np.concatenate([past[-order:], np.zeros(samples)])
    for i in range(samples):
        known[order + i] = known[i : order + i] @ weights
    return known[order:].astype(np.float32)
