"""Makers of sounds with a pitch: tones, chords, sweeps, signals, bells and strings. Each returns (take.samples,)."""

import numpy as np

from export.demo.sounds.settings import SAMPLE_RATE_HZ, Samples, Take
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
    plucked,
    resonance,
    seconds_to_samples,
    times,
)

MAJOR, MINOR = (0, 4, 7), (0, 3, 7)
SCALE = (0, 2, 4, 7, 9, 12, 14, 16)  # semitones, major pentatonic
ODD = [1 / k if k % 2 else 0.0 for k in range(1, 24)]  # a square wave's harmonics
ALL = [1 / k for k in range(1, 24)]  # a saw tooth's
SOFT = (1.0, 0.3, 0.12, 0.05)
# hum, prime, tierce, quint, nominal and upper partials of a tuned church bell, as ratios of the prime
BELL = (0.5, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.2)
# transverse modes of a free bar, as in chimes
BAR = (1.0, 2.756, 5.404)


def semitones(pitch_hz: float, steps: float) -> float:
    """A pitch that many semitones higher."""
    return float(pitch_hz * 2 ** (steps / 12))


def sine_tone(take: Take) -> Samples:
    """One steady sine, somewhere in the clip."""
    t = times(take.length_s)
    return place(take.rng, take.samples, np.sin(2 * np.pi * take.pitch_hz * t) * fade(len(t), 0.01, 0.03))


def buzzer(take: Take) -> Samples:
    """A square wave."""
    t = times(take.length_s)
    tone = harmonics(2 * np.pi * take.pitch_hz * t, take.pitch_hz, ODD)
    return place(take.rng, take.samples, tone * fade(len(t), 0.005, 0.01))


def drone(take: Take) -> Samples:
    """Three detuned saw teeth that beat against each other."""
    out = np.zeros(take.samples)
    for detune in (0.0, take.rng.uniform(0.05, 0.2), -take.rng.uniform(0.05, 0.2)):
        pitch_hz = semitones(take.pitch_hz, detune)
        out += harmonics(2 * np.pi * (pitch_hz * take.times_s + take.rng.uniform()), pitch_hz, ALL)
    return out * fade(take.samples, 0.15, 0.15)


def chord(take: Take) -> Samples:
    """A major or minor triad, as `take.word` says."""
    t = times(take.length_s)
    out = np.zeros(len(t))
    for step in MAJOR if take.word == "major" else MINOR:
        pitch_hz = semitones(take.pitch_hz, step)
        out += harmonics(2 * np.pi * (pitch_hz * t + take.rng.uniform()), pitch_hz, SOFT)
    return place(take.rng, take.samples, out * fade(len(t), 0.02, 0.1))


def _sweep(take: Take, octaves: float) -> Samples:
    """A sine whose frequency moves by `octaves` around the pitch."""
    n = seconds_to_samples(take.length_s)
    frequency_hz = take.pitch_hz * 2 ** (octaves * (np.linspace(0, 1, n) - 0.5))
    return place(take.rng, take.samples, np.sin(phase_of(frequency_hz)) * fade(n, 0.01, 0.02))


def rising_chirp(take: Take) -> Samples:
    """A sweep upwards by 1.5 to 3 octaves."""
    return _sweep(take, take.rng.uniform(1.5, 3.0))


def falling_chirp(take: Take) -> Samples:
    """A sweep downwards by 1.5 to 3 octaves."""
    return _sweep(take, -take.rng.uniform(1.5, 3.0))


def siren(take: Take) -> Samples:
    """A wail: the pitch glides up and down `rate_hz` times a second."""
    glide = np.sin(2 * np.pi * (take.rate_hz * take.times_s + take.rng.uniform()))
    frequency_hz = take.pitch_hz * 2 ** (take.rng.uniform(0.4, 0.6) * glide)
    return harmonics(phase_of(frequency_hz), float(frequency_hz.max()), (1.0, 0.5, 0.3, 0.15)) * fade(
        take.samples, 0.02, 0.02
    )


def two_tone_horn(take: Take) -> Samples:
    """An ambulance's horn: two pitches a fourth apart in turns, `rate_hz` changes a second."""
    turn = np.floor(take.rate_hz * take.times_s + take.rng.uniform(0, 2)) % 2
    frequency_hz = take.pitch_hz * np.where(turn > 0, 4 / 3, 1.0)
    tone = harmonics(phase_of(frequency_hz), take.pitch_hz * 4 / 3, (1.0, 0.7, 0.5, 0.3, 0.2))
    return tone * fade(take.samples, 0.02, 0.02)


def beeps(take: Take) -> Samples:
    """Equal sines with pauses."""
    t = times(take.rng.uniform(0.4, 0.55) / take.rate_hz)
    beep = harmonics(2 * np.pi * take.pitch_hz * t, take.pitch_hz, (1.0, 0.0, 0.25)) * fade(len(t), 0.004, 0.006)
    return _repeat(take, beep)


def telephone(take: Take) -> Samples:
    """An old telephone: two small bells struck by turns some 20 times a second, in rings."""
    t = times(0.6 / take.rate_hz)
    hammer = 0.35 + 0.65 * np.abs(np.sin(np.pi * take.rng.uniform(18, 24) * t))
    bells = np.sin(2 * np.pi * take.pitch_hz * t) + np.sin(2 * np.pi * 1.26 * take.pitch_hz * t)
    bells += 0.5 * np.sin(2 * np.pi * 2.76 * take.pitch_hz * t)
    return _repeat(take, bells * hammer * fade(len(t), 0.005, 0.08))


def vibrato_tone(take: Take) -> Samples:
    """A tone whose pitch wobbles `rate_hz` times a second by a semitone or two."""
    wobble = np.sin(2 * np.pi * (take.rate_hz * take.times_s + take.rng.uniform()))
    frequency_hz = take.pitch_hz * 2 ** (take.rng.uniform(1.0, 2.0) / 12 * wobble)
    return harmonics(phase_of(frequency_hz), float(frequency_hz.max()), SOFT) * fade(take.samples, 0.1, 0.15)


def _run(take: Take, steps: tuple[int, ...]) -> Samples:
    """Notes on `steps` above the pitch, one after the other and again from the first, `rate_hz` notes a second."""
    out = np.zeros(take.samples)
    period_s = 1 / take.rate_hz
    for k in range(int(take.seconds * take.rate_hz)):
        pitch_hz = semitones(take.pitch_hz, steps[k % len(steps)])
        t = times(0.95 * period_s)
        note = harmonics(2 * np.pi * pitch_hz * t, pitch_hz, (1.0, 0.4, 0.3, 0.1)) * decay(
            0.95 * period_s, 4 * period_s
        )
        add_at(out, note * fade(len(note), 0.004, 0.02), k * period_s)
    return out


def rising_arpeggio(take: Take) -> Samples:
    """Broken chords upwards."""
    return _run(take, (0, 4, 7, 12, 16, 19))


def falling_arpeggio(take: Take) -> Samples:
    """Broken chords downwards."""
    return _run(take, (19, 16, 12, 7, 4, 0))


def pulse_train(take: Take) -> Samples:
    """Very short pulses, too fast to count and too slow for a tone."""
    pulse = decay(0.006, 0.006) * np.sign(np.sin(2 * np.pi * 900 * times(0.006)) + 0.2)
    return _repeat(take, pulse)


def laser(take: Take) -> Samples:
    """Zaps: sweeps from high to low within a tenth of a second or two."""
    length_s = min(0.22, 0.8 / take.rate_hz)
    t = times(length_s)
    frequency_hz = 250 + take.rng.uniform(3000, 5000) * np.exp(-5 * t / length_s)
    zap = harmonics(phase_of(frequency_hz), float(frequency_hz.max()), (1.0, 0.4)) * decay(length_s, 2 * length_s)
    return _repeat(take, zap * fade(len(t), 0.002, 0.02))


def morse(take: Take) -> Samples:
    """Dots and dashes at random; `rate_hz` is dots a second, a dot being half sound and half pause."""
    out = np.zeros(take.samples)
    unit_s, start_s = 0.5 / take.rate_hz, 0.0
    while start_s < take.seconds:
        t = times(unit_s * (1 if take.rng.uniform() < 0.55 else 3))
        add_at(out, np.sin(2 * np.pi * take.pitch_hz * t) * fade(len(t), 0.004, 0.004), start_s)
        start_s += len(t) / SAMPLE_RATE_HZ + unit_s * (1 if take.rng.uniform() < 0.7 else 3)
    return out


def church_bell(take: Take) -> Samples:
    """One stroke on a tuned bell, by its modes."""
    gains = take.rng.uniform(0.6, 1.0, len(BELL)) * np.array([0.7, 1.0, 0.9, 0.5, 0.9, 0.4, 0.35, 0.25])
    decays_s = take.rng.uniform(0.85, 1.15) * np.array([6.0, 4.5, 3.5, 2.5, 2.0, 1.5, 1.2, 0.8])
    out = np.zeros(take.samples)
    add_at(out, modes(BELL, gains.tolist(), decays_s.tolist(), take.pitch_hz), float(take.rng.uniform(0, 0.3)))
    return out * fade(take.samples, 0.0, 0.05)


def chimes(take: Take) -> Samples:
    """Small tubes struck at random by the wind."""
    out = np.zeros(take.samples)
    tubes = [modes(BAR, (1.0, 0.4, 0.15), (1.2, 0.6, 0.3), semitones(take.pitch_hz, step)) for step in SCALE[:6]]
    for start_s in beats(take.rng, take.seconds, take.rate_hz, jitter=0.4):
        add_at(out, tubes[take.rng.integers(len(tubes))] * take.rng.uniform(0.4, 1.0), start_s)
    return out * fade(take.samples, 0.0, 0.05)


def music_box(take: Take) -> Samples:
    """A melody of struck tines, steady in time."""
    out = np.zeros(take.samples)
    tine = {
        step: modes((1.0, 6.27), (1.0, 0.2), (0.8, 0.1), semitones(take.pitch_hz, step)) for step in (0, 4, 7, 9, 12)
    }
    for start_s in beats(take.rng, take.seconds, take.rate_hz):
        add_at(out, tine[int(take.rng.choice((0, 4, 7, 9, 12)))], start_s)
    return out * fade(take.samples, 0.0, 0.05)


def plucked_string(take: Take) -> Samples:
    """One string plucked again and again."""
    out = np.zeros(take.samples)
    for start_s in beats(take.rng, take.seconds, take.rate_hz):
        add_at(out, plucked(take.rng, take.pitch_hz, min(1.2, 1 / take.rate_hz), decay_s=1.2), start_s)
    return out


def strum(take: Take) -> Samples:
    """Chords over five strings, one shortly after the other, through a guitar's body."""
    out = np.zeros(take.samples)
    length_s = min(1.4, 1 / take.rate_hz)
    strings = [plucked(take.rng, semitones(take.pitch_hz, step), length_s, 1.5) for step in (0, 7, 12, 16, 19)]
    for start_s in beats(take.rng, take.seconds, take.rate_hz):
        gap_s = take.rng.uniform(0.01, 0.025)
        for k, string in enumerate(strings):
            add_at(out, string, start_s + k * gap_s)
    return filtered(out, lambda hz: resonance(110, 120)(hz) + 0.5 * resonance(220, 160)(hz) + 0.25)


def _repeat(take: Take, sound: Samples) -> Samples:
    out = np.zeros(take.samples)
    for start_s in beats(take.rng, take.seconds, take.rate_hz):
        add_at(out, sound, start_s)
    return out
