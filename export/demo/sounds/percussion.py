"""Makers of strokes and rhythms: drums, clicks, clocks, steps, heartbeats. Each returns (take.samples,)."""

from collections.abc import Callable

import numpy as np

from export.demo.sounds.settings import Samples, Take
from export.demo.sounds.synth import (
    add_at,
    beats,
    decay,
    fade,
    filtered,
    harmonics,
    modes,
    phase_of,
    place,
    power_law,
    resonance,
    seconds_to_samples,
    shaped_noise,
    times,
)

Stroke = Callable[[np.random.Generator], Samples]


def kick(rng: np.random.Generator) -> Samples:
    """(n,) a bass drum: a sine that falls from some 150 Hz to 50 Hz in a few hundredths of a second."""
    t = times(0.3)
    lowest_hz = rng.uniform(45, 58)
    return np.sin(phase_of(lowest_hz + 110 * np.exp(-t / 0.03))) * decay(0.3, 0.45) * fade(len(t), 0.001, 0.03)


def snare(rng: np.random.Generator) -> Samples:
    """(n,) a drum's two lowest modes under the noise of its wires."""
    length_s = 0.22
    drum = modes((1.0, 1.6), (1.0, 0.6), (0.15, 0.1), rng.uniform(170, 210))
    wires = shaped_noise(rng, seconds_to_samples(length_s), lambda hz: resonance(3500, 5000)(hz) * (hz > 500))
    wires = 0.6 * wires * decay(length_s, 0.28)
    add_at(wires, drum, 0.0)
    return wires * fade(len(wires), 0.001, 0.02)


def hat(rng: np.random.Generator) -> Samples:
    """(n,) a closed hi-hat: noise above 5 kHz, a few hundredths of a second."""
    noise = shaped_noise(rng, seconds_to_samples(0.1), lambda hz: 1 / (1 + (5500 / np.maximum(hz, 1)) ** 8))
    return noise * decay(0.1, rng.uniform(0.08, 0.13)) * fade(len(noise), 0.0005, 0.01)


def clap(rng: np.random.Generator) -> Samples:
    """(n,) hands: three bursts of noise around 1 kHz, then a short tail."""
    noise = shaped_noise(rng, seconds_to_samples(0.2), resonance(rng.uniform(1000, 1400), 900))
    envelope = 0.5 * decay(0.2, 0.22)
    for start_s in (0.0, 0.011, 0.023):
        add_at(envelope, decay(0.02, 0.03), start_s)
    return noise * envelope


def _body(centre_hz: float, length_s: float, noise: float) -> Stroke:
    """A stroke on something hard: two modes and a little noise."""

    def stroke(rng: np.random.Generator) -> Samples:
        pitch_hz = centre_hz * rng.uniform(0.97, 1.03)
        sound = modes((1.0, 2.2), (1.0, 0.4), (length_s, length_s / 2), pitch_hz)
        burst = shaped_noise(rng, len(sound), resonance(2 * centre_hz, 3 * centre_hz)) * decay(length_s * 1.2, 0.02)
        return sound + noise * burst[: len(sound)]

    return stroke


def _strokes(take: Take, stroke: Stroke, jitter: float = 0.0) -> Samples:
    """The same kind of stroke `rate_hz` times a second, four different ones by turns."""
    out = np.zeros(take.samples)
    made = [stroke(take.rng) for _ in range(4)]
    for k, start_s in enumerate(beats(take.rng, take.seconds, take.rate_hz, jitter)):
        add_at(out, made[k % 4] * take.rng.uniform(0.85, 1.0), start_s)
    return out


def kick_drum(take: Take) -> Samples:
    """Bass drum alone."""
    return _strokes(take, kick)


def snare_drum(take: Take) -> Samples:
    """Snare drum alone."""
    return _strokes(take, snare)


def hi_hat(take: Take) -> Samples:
    """Hi-hat alone."""
    return _strokes(take, hat)


def hand_claps(take: Take) -> Samples:
    """One person clapping in time."""
    return _strokes(take, clap, jitter=0.02)


def clicks(take: Take) -> Samples:
    """Separate clicks of some milliseconds, all frequencies alike."""
    return _strokes(take, lambda rng: rng.uniform(-1, 1, 320) * decay(0.02, 0.025))


def clock(take: Take) -> Samples:
    """Tick, tock: two small strokes by turns, the second a little lower."""
    out = np.zeros(take.samples)
    tick = _body(2600 * take.rng.uniform(0.9, 1.1), 0.06, 0.4)(take.rng)
    tock = _body(1900 * take.rng.uniform(0.9, 1.1), 0.06, 0.4)(take.rng)
    for k, start_s in enumerate(beats(take.rng, take.seconds, take.rate_hz)):
        add_at(out, tock if k % 2 else tick, start_s)
    return out


def wood_block(take: Take) -> Samples:
    """Hollow wood struck in time."""
    return _strokes(take, _body(take.pitch_hz, 0.09, 0.1))


def cowbell(take: Take) -> Samples:
    """Two square waves a fifth apart, roughly, that decay."""

    def stroke(rng: np.random.Generator) -> Samples:
        t = times(0.35)
        odd = (1.0, 0.0, 1 / 3, 0.0, 1 / 5)
        low, high = take.pitch_hz, 1.48 * take.pitch_hz
        ring = harmonics(2 * np.pi * low * t, low, odd) + harmonics(2 * np.pi * (high * t + rng.uniform()), high, odd)
        return ring * decay(0.35, 0.35)

    return _strokes(take, stroke)


def knocking(take: Take) -> Samples:
    """Knuckles on a wooden door: low, short, in groups."""
    out = np.zeros(take.samples)
    knock = _body(take.rng.uniform(160, 240), 0.07, 0.5)(take.rng)
    group = int(take.rng.integers(3, 5))
    for k, start_s in enumerate(beats(take.rng, take.seconds, take.rate_hz, jitter=0.03)):
        if k % (group + 1) < group:
            add_at(out, knock * take.rng.uniform(0.8, 1.0), start_s)
    return out


def footsteps(take: Take) -> Samples:
    """Heel and sole on gravel: a dull knock, then a crunch."""

    def step(rng: np.random.Generator) -> Samples:
        crunch = shaped_noise(rng, seconds_to_samples(0.16), resonance(2200, 2500))
        crunch *= np.abs(shaped_noise(rng, len(crunch), resonance(60, 80))) * fade(len(crunch), 0.05, 0.09)
        add_at(crunch, 2.5 * modes((1.0,), (1.0,), (0.07,), rng.uniform(80, 110)), 0.0)
        return crunch

    return _strokes(take, step, jitter=0.03)


def heartbeat(take: Take) -> Samples:
    """Lub-dub: two dull thumps, the second shorter and a little higher; `rate_hz` pairs a second."""
    out = np.zeros(take.samples)
    gap_s = min(0.3, 0.36 / take.rate_hz)
    lub, dub = (modes((1.0, 1.7), (1.0, 0.3), (length_s, 0.06), hz) for hz, length_s in ((46, 0.2), (62, 0.14)))
    for start_s in beats(take.rng, take.seconds, take.rate_hz):
        add_at(out, lub, start_s)
        add_at(out, 0.75 * dub, start_s + gap_s)
    return filtered(out, lambda hz: 1 / (1 + (hz / 160) ** 4))


def rock_beat(take: Take) -> Samples:
    """Kick, snare and hi-hat in four; `rate_hz` is beats a second. The kick has one of three figures."""
    out = np.zeros(take.samples)
    drums = [stroke(take.rng) for stroke in (kick, snare, hat)]
    figure = ((0, 4), (0, 3, 4), (0, 4, 5))[take.rng.integers(3)]
    eighth_s = 0.5 / take.rate_hz
    offset = int(take.rng.choice((0, 4)))
    for k in range(int(take.seconds / eighth_s) + 1):
        place_in_bar = (k + offset) % 8
        add_at(out, 0.3 * drums[2], k * eighth_s)
        if place_in_bar in figure:
            add_at(out, drums[0], k * eighth_s)
        if place_in_bar in (2, 6):
            add_at(out, 0.6 * drums[1], k * eighth_s)
    return out


def drum_roll(take: Take) -> Samples:
    """A snare drum's roll that grows."""
    out = np.zeros(seconds_to_samples(take.length_s))
    strokes = [snare(take.rng) for _ in range(4)]
    for k, start_s in enumerate(beats(take.rng, take.length_s, take.rng.uniform(18, 26), jitter=0.1)):
        add_at(out, strokes[k % 4], start_s)
    return place(take.rng, take.samples, out * np.linspace(0.4, 1.0, len(out)) * fade(len(out), 0.01, 0.02))


def bouncing_ball(take: Take) -> Samples:
    """A ball let fall: each bounce lower and sooner than the one before, for `length_s` in all."""
    keeps = take.rng.uniform(0.78, 0.85)
    gap_s = take.length_s * (1 - keeps) / (1 - keeps**12)
    out, start_s = np.zeros(seconds_to_samples(take.length_s + 0.1)), 0.0
    thud = modes((1.0, 2.4, 3.9), (1.0, 0.5, 0.2), (0.12, 0.06, 0.03), take.rng.uniform(230, 330))
    for k in range(12):
        add_at(out, thud * keeps**k, start_s)
        start_s += gap_s * keeps**k
    return place(take.rng, take.samples, out)


def shaker(take: Take) -> Samples:
    """A shaker: soft swells of high noise."""

    def shake(rng: np.random.Generator) -> Samples:
        noise = shaped_noise(rng, seconds_to_samples(0.12), lambda hz: resonance(4500, 2500)(hz) * power_law(0.3)(hz))
        return noise * fade(len(noise), 0.06, 0.05)

    return _strokes(take, shake, jitter=0.02)
