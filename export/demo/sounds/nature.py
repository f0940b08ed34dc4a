"""Makers of noises, weather, water, animals and machines. Each returns (take.samples,)."""

from collections.abc import Callable

import numpy as np

from export.demo.sounds.percussion import clap
from export.demo.sounds.settings import Samples, Take
from export.demo.sounds.synth import (
    add_at,
    beats,
    decay,
    fade,
    filtered,
    harmonics,
    phase_of,
    place,
    power_law,
    resonance,
    seconds_to_samples,
    shaped_noise,
    smooth,
    times,
)


def _coloured(take: Take, gain: Callable[[Samples], Samples]) -> Samples:
    n = seconds_to_samples(take.length_s)
    return place(take.rng, take.samples, shaped_noise(take.rng, n, gain) * fade(n, 0.02, 0.05))


def white_noise(take: Take) -> Samples:
    """All frequencies alike."""
    return _coloured(take, power_law(0.0))


def pink_noise(take: Take) -> Samples:
    """3 dB less an octave."""
    return _coloured(take, power_law(-0.5))


def brown_noise(take: Take) -> Samples:
    """6 dB less an octave: a rumble."""
    return _coloured(take, power_law(-1.0))


def steam(take: Take) -> Samples:
    """Escaping steam: noise above some 4 kHz."""
    return _coloured(take, lambda hz: 1 / (1 + (4000 / np.maximum(hz, 1)) ** 6))


def wind(take: Take) -> Samples:
    """Noise around a centre that wanders with its strength: `rate_hz` gusts a second."""
    points = max(3, round(take.rate_hz * take.seconds * 2) + 2)
    gusts = np.where((np.arange(points + 1) + take.rng.integers(2)) % 2, 0.9, 0.15)
    strength = smooth(gusts * take.rng.uniform(0.8, 1.2, points + 1), take.samples)
    low = shaped_noise(take.rng, take.samples, resonance(take.pitch_hz * 0.8, take.pitch_hz * 0.25))
    high = shaped_noise(take.rng, take.samples, resonance(take.pitch_hz * 1.25, take.pitch_hz * 0.25))
    return low * strength + high * strength**2


def rain(take: Take) -> Samples:
    """Many drops over a steady hiss; `rate_hz` drops a second."""
    hiss = shaped_noise(take.rng, take.samples, lambda hz: resonance(5000, 5000)(hz) * (hz > 800))
    out = 0.01 * np.sqrt(take.rate_hz) * hiss
    drops = [_drop(take.rng) for _ in range(12)]
    for start_s in take.rng.uniform(0, take.seconds, round(take.rate_hz * take.seconds)):
        add_at(out, drops[take.rng.integers(12)] * take.rng.uniform(0.2, 1.0), float(start_s))
    return out


def _drop(rng: np.random.Generator) -> Samples:
    noise = shaped_noise(rng, seconds_to_samples(0.012), resonance(rng.uniform(2000, 6500), 1500))
    return noise * decay(0.012, 0.012)


def thunder(take: Take) -> Samples:
    """A crack, then a long rolling rumble."""
    rumble = shaped_noise(take.rng, take.samples, lambda hz: 1 / (1 + (hz / 110) ** 2.5))
    rolls = smooth(take.rng.uniform(0.3, 1.0, max(5, round(take.seconds * 5))), take.samples)
    start_s = take.rng.uniform(0, 0.4)
    envelope, out = np.zeros(take.samples), np.zeros(take.samples)
    add_at(envelope, decay(take.seconds, 4.0) * fade(take.samples, 0.05, 0.0), start_s)
    crack = shaped_noise(take.rng, seconds_to_samples(0.25), resonance(700, 1500)) * decay(0.25, 0.25)
    add_at(out, 1.5 * crack, start_s)
    return out + rumble * rolls * envelope


def waves(take: Take) -> Samples:
    """Surf: noise that swells slowly and runs out, brighter at its height; `rate_hz` waves a second."""
    phase = (take.rate_hz * take.times_s + take.rng.uniform()) % 1.0
    swell = np.where(phase < 0.4, (phase / 0.4) ** 2, np.maximum(1 - phase, 0.0) / 0.6) ** 1.5
    body = shaped_noise(take.rng, take.samples, lambda hz: 1 / (1 + (hz / 500) ** 2))
    foam = shaped_noise(take.rng, take.samples, lambda hz: 1 / (1 + (hz / 4000) ** 4))
    return body * (0.15 + swell) + 0.7 * foam * swell**2


def fire(take: Take) -> Samples:
    """Crackles of all sizes at random times over a low roar; `rate_hz` crackles a second."""
    roar = shaped_noise(take.rng, take.samples, lambda hz: 1 / (1 + (hz / 250) ** 2))
    out = 0.012 * np.sqrt(take.rate_hz) * roar
    for start_s in take.rng.uniform(0, take.seconds, round(take.rate_hz * take.seconds)):
        length_s = float(take.rng.uniform(0.004, 0.02))
        crackle = take.rng.uniform(-1, 1, seconds_to_samples(length_s)) * decay(length_s, length_s)
        add_at(out, crackle * take.rng.uniform(0.3, 1.0), float(start_s))
    return out


def _bubble(pitch_hz: float, length_s: float, rise: float) -> Samples:
    """(n,) a bubble in water: a sine that rises while it decays (van den Doel, 2005)."""
    t = times(length_s)
    return np.sin(phase_of(pitch_hz * (1 + rise * t / length_s))) * decay(length_s, length_s) * fade(len(t), 0.001, 0.0)


def stream(take: Take) -> Samples:
    """A brook: very many bubbles of all sizes."""
    out = np.zeros(take.samples)
    bubbles = [_bubble(float(hz), float(30 / hz), 0.3) for hz in take.rng.uniform(400, 2200, 40)]
    for start_s in take.rng.uniform(0, take.seconds, round(150 * take.seconds)):
        add_at(out, bubbles[take.rng.integers(40)] * take.rng.uniform(0.1, 1.0) ** 2, float(start_s))
    return out


def drips(take: Take) -> Samples:
    """Water dripping into water: single bubbles, `rate_hz` a second."""
    out = np.zeros(take.samples)
    for start_s in beats(take.rng, take.seconds, take.rate_hz, jitter=0.1):
        add_at(out, _bubble(take.pitch_hz * take.rng.uniform(0.9, 1.1), 0.14, 0.8), start_s)
    return out


def cricket(take: Take) -> Samples:
    """Trills of four pulses of one high sine; `rate_hz` trills a second."""
    pulse = times(0.018)
    tone = np.sin(2 * np.pi * take.pitch_hz * pulse) * np.sin(np.pi * np.arange(len(pulse)) / len(pulse))
    out = np.zeros(take.samples)
    for start_s in beats(take.rng, take.seconds, take.rate_hz):
        for k in range(4):
            add_at(out, tone, start_s + 0.024 * k)
    return out


def bird(take: Take) -> Samples:
    """Chirps that bend up and down, each a little different; `rate_hz` a second."""
    out = np.zeros(take.samples)
    length_s = min(0.16, 0.7 / take.rate_hz)
    for start_s in beats(take.rng, take.seconds, take.rate_hz, jitter=0.12):
        t = times(length_s)
        bend = smooth(take.rng.uniform(-0.28, 0.28, 4), len(t))
        add_at(out, np.sin(phase_of(take.pitch_hz * 2**bend)) * np.sin(np.pi * t / length_s), start_s)
    return out


def mosquito(take: Take) -> Samples:
    """A whining buzz whose pitch and nearness wander."""
    wander = smooth(take.rng.uniform(-0.08, 0.08, max(4, round(take.seconds * 4))), take.samples)
    nearness = smooth(take.rng.uniform(0.4, 1.0, max(4, round(take.seconds * 3))), take.samples)
    phase = phase_of(take.pitch_hz * 2**wander)
    return harmonics(phase, 1.06 * take.pitch_hz, (0.6, 1.0, 0.7, 0.5, 0.35, 0.2)) * nearness


def dog(take: Take) -> Samples:
    """Barks: a rough tone that jumps up and falls, through a throat's resonances; `rate_hz` a second."""
    length_s = min(0.22, 0.6 / take.rate_hz)
    t = times(length_s)
    frequency_hz = take.pitch_hz * (0.7 + 0.6 * np.sin(np.pi * np.minimum(t / length_s, 1.0)))
    voice = harmonics(phase_of(frequency_hz), 1.3 * take.pitch_hz, [1.0] * 14)
    voice += 1.2 * take.rng.standard_normal(len(t))
    throat = (2.2 * take.pitch_hz, 4.5 * take.pitch_hz)
    bark = filtered(voice, lambda hz: resonance(throat[0], 350)(hz) + 0.5 * resonance(throat[1], 500)(hz))
    bark *= fade(len(t), 0.015, 0.6 * length_s)
    out = np.zeros(take.samples)
    for start_s in beats(take.rng, take.seconds, take.rate_hz, jitter=0.1):
        add_at(out, bark * take.rng.uniform(0.8, 1.0), start_s)
    return out


def owl(take: Take) -> Samples:
    """Hoots: soft low tones that sag at the end."""
    length_s = min(0.45, 0.6 / take.rate_hz)
    t = times(length_s)
    frequency_hz = take.pitch_hz * (1 - 0.12 * (t / length_s) ** 3)
    hoot = harmonics(phase_of(frequency_hz), take.pitch_hz, (1.0, 0.12, 0.05)) * np.sin(np.pi * t / length_s) ** 0.7
    hoot += 0.03 * shaped_noise(take.rng, len(t), resonance(take.pitch_hz, 200)) * fade(len(t), 0.1, 0.1)
    out = np.zeros(take.samples)
    for start_s in beats(take.rng, take.seconds, take.rate_hz, jitter=0.05):
        add_at(out, hoot, start_s)
    return out


def engine(take: Take) -> Samples:
    """An engine: `rate_hz` explosions a second, no two alike, through an exhaust pipe."""
    out = np.zeros(take.samples)
    starts = beats(take.rng, take.seconds, take.rate_hz, jitter=0.06)
    out[(np.array(starts) * 16_000).astype(np.int64)] = take.rng.uniform(0.5, 1.0, len(starts))
    pipe = filtered(
        out, lambda hz: resonance(90, 90)(hz) + 0.5 * resonance(240, 150)(hz) + 0.2 * resonance(700, 500)(hz)
    )
    pipe /= np.sqrt(np.mean(pipe**2))
    return pipe + 0.15 * shaped_noise(take.rng, take.samples, resonance(400, 600))


def helicopter(take: Take) -> Samples:
    """Blades: swishes of dull noise, `rate_hz` a second, each beginning with a thump."""
    phase = (take.rate_hz * take.times_s + take.rng.uniform()) % 1.0
    noise = shaped_noise(take.rng, take.samples, lambda hz: 1 / (1 + (hz / 350) ** 2))
    turbine = shaped_noise(take.rng, take.samples, resonance(take.rng.uniform(2500, 3500), 150))
    return noise * (0.08 + np.exp(-4 * phase)) + 0.06 * turbine


def applause(take: Take) -> Samples:
    """A crowd: hundreds of claps out of time."""
    out = np.zeros(take.samples)
    hands = [clap(take.rng) * take.rng.uniform(0.3, 1.0) for _ in range(16)]
    for start_s in take.rng.uniform(0, take.seconds, round(take.rng.uniform(50, 80) * take.seconds)):
        add_at(out, hands[take.rng.integers(16)], float(start_s))
    return out


def static(take: Take) -> Samples:
    """A radio between stations: noise that drops in and out, with crackles and a faint whistle."""
    gate = smooth((take.rng.uniform(size=max(8, round(take.seconds * 9))) > 0.35).astype(np.float64), take.samples)
    noise = shaped_noise(take.rng, take.samples, lambda hz: ((hz > 300) & (hz < 3400)).astype(np.float64))
    bend = smooth(take.rng.uniform(0.85, 1.2, max(4, round(take.seconds * 2))), take.samples)
    return noise * (0.25 + gate) + 0.5 * np.sin(phase_of(1200 * bend))
