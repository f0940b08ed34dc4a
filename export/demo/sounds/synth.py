"""Building blocks of the synthesis: oscillators, coloured noise, resonances, envelopes, and placing sounds in time."""

from collections.abc import Callable, Sequence

import numpy as np

from export.demo.sounds.settings import SAMPLE_RATE_HZ, Samples

NYQUIST_HZ = SAMPLE_RATE_HZ / 2


def seconds_to_samples(seconds: float) -> int:
    """At least one sample."""
    return max(1, round(seconds * SAMPLE_RATE_HZ))


def times(seconds: float) -> Samples:
    """(n,) seconds from 0."""
    return np.arange(seconds_to_samples(seconds)) / SAMPLE_RATE_HZ


def phase_of(frequency_hz: Samples, start: float = 0.0) -> Samples:
    """(n,) radians of an oscillator whose frequency is (n,) Hz."""
    return start + np.cumsum(frequency_hz) * (2 * np.pi / SAMPLE_RATE_HZ)


def harmonics(phase: Samples, pitch_hz: float, strengths: Sequence[float]) -> Samples:
    """(n,) a sum of harmonics 1, 2, 3, ... of a fundamental with (n,) `phase`, none above Nyquist.

    `pitch_hz` is the highest fundamental on the way. By sin(k+1)x = 2 cos x sin kx - sin(k-1)x.
    """
    before, now = np.zeros_like(phase), np.sin(phase)
    twice_cosine = 2 * np.cos(phase)
    out = strengths[0] * now
    for k, strength in enumerate(strengths[1:], start=2):
        if k * pitch_hz >= 0.95 * NYQUIST_HZ:
            break
        before, now = now, twice_cosine * now - before
        if strength:
            out += strength * now
    return out


def shaped_noise(rng: np.random.Generator, n: int, gain: Callable[[Samples], Samples]) -> Samples:
    """(n,) Gaussian noise whose spectrum has the gain of a function of (bins,) Hz. Scaled to an RMS of 1."""
    size = fft_size(n)
    spectrum = np.fft.rfft(rng.standard_normal(size)) * gain(bins_hz(size))
    noise = np.fft.irfft(spectrum, size)[:n]
    return noise / max(float(np.sqrt(np.mean(noise**2))), 1e-12)


def power_law(exponent: float, lowest_hz: float = 40.0) -> Callable[[Samples], Samples]:
    """A gain of f^exponent: 0 is white, -0.5 pink, -1 brown, 1 violet. Level below `lowest_hz`."""
    return lambda hz: np.maximum(hz, lowest_hz) ** exponent


def resonance(centre_hz: float, width_hz: float) -> Callable[[Samples], Samples]:
    """The gain of one resonance, 1 at its centre and falling as 1 / f far from it."""
    return lambda hz: 1 / np.sqrt(1 + ((hz - centre_hz) / (width_hz / 2)) ** 2)


def filtered(signal: Samples, gain: Callable[[Samples], Samples]) -> Samples:
    """(n,) a signal through a zero-phase filter, by FFT. Wraps around by the filter's response, which is short here."""
    size = fft_size(len(signal))
    spectrum = np.fft.rfft(signal, size) * gain(bins_hz(size))
    return np.fft.irfft(spectrum, size)[: len(signal)]


def bins_hz(size: int) -> Samples:
    """(size // 2 + 1,) Hz of a real FFT's bins."""
    return np.arange(size // 2 + 1, dtype=np.float64) * (SAMPLE_RATE_HZ / size)


def fft_size(n: int) -> int:
    """The least 2^a, 3 * 2^a or 5 * 2^a that is not below `n`."""
    return min(factor << max(0, (-(-n // factor) - 1).bit_length()) for factor in (1, 3, 5))


def modes(ratios: Sequence[float], gains: Sequence[float], decays_s: Sequence[float], pitch_hz: float) -> Samples:
    """(n,) a struck body: decaying sines at `ratios` of the pitch; ends when the longest has fallen by 60 dB."""
    t = times(min(max(decays_s) * 1.2, 6.0))
    out = np.zeros_like(t)
    for ratio, gain, decay_s in zip(ratios, gains, decays_s, strict=True):
        if ratio * pitch_hz < 0.95 * NYQUIST_HZ:
            sounding = t[: seconds_to_samples(1.2 * decay_s)]
            out[: len(sounding)] += (
                gain * np.sin(2 * np.pi * ratio * pitch_hz * sounding) * np.exp(-6.9 * sounding / decay_s)
            )
    return out


def plucked(rng: np.random.Generator, pitch_hz: float, seconds: float, decay_s: float = 1.5) -> Samples:
    """(n,) a plucked string: a burst of noise in a loop that averages two neighbours (Karplus and Strong, 1983).

    The loop is evaluated as its transfer function 1 / (1 - g z^-N (1 + z^-1) / 2) on the FFT's grid, which allows a
    fractional N. `decay_s` is how long the lowest harmonic takes to fall by 60 dB.
    """
    n = seconds_to_samples(seconds)
    size = fft_size(2 * n)  # room for what still rings at the end
    omega = 2 * np.pi / SAMPLE_RATE_HZ * bins_hz(size)
    period = SAMPLE_RATE_HZ / pitch_hz
    loss = 10 ** (-3 / (decay_s * pitch_hz))
    burst = rng.uniform(-1, 1, max(2, round(period)))
    loop = loss * np.exp(-1j * omega * (period - 0.5)) * (1 + np.exp(-1j * omega)) / 2
    finger = 1 / (1 + (bins_hz(size) / (6 * pitch_hz)) ** 2)  # soft: without it high and low strings are as bright
    string: Samples = np.fft.irfft(np.fft.rfft(burst - burst.mean(), size) * finger / (1 - loop), size)[:n]
    return string * fade(n, 0.0, 0.02)


def fade(n: int, attack_s: float, release_s: float) -> Samples:
    """(n,) an envelope of 1 with raised-cosine ends."""
    envelope = np.ones(n)
    attack, release = (min(round(s * SAMPLE_RATE_HZ), n // 2) for s in (attack_s, release_s))
    if attack:
        envelope[:attack] = 0.5 - 0.5 * np.cos(np.pi * (np.arange(attack) + 0.5) / attack)
    if release:
        envelope[-release:] *= 0.5 + 0.5 * np.cos(np.pi * (np.arange(release) + 0.5) / release)
    return envelope


def decay(seconds: float, fall_s: float) -> Samples:
    """(n,) an exponential that falls by 60 dB in `fall_s`."""
    return np.exp(-6.9 * times(seconds) / fall_s)


def add_at(out: Samples, sound: Samples, start_s: float) -> None:
    """Add `sound` to `out` from `start_s` on, in place; what goes past the end is cut off."""
    start = round(start_s * SAMPLE_RATE_HZ)
    if 0 <= start < len(out):
        part = sound[: len(out) - start]
        out[start : start + len(part)] += part


def place(rng: np.random.Generator, samples: int, sound: Samples) -> Samples:
    """(samples,) `sound` once, anywhere that it fits; at the beginning if it does not."""
    out = np.zeros(samples)
    room_s = max(0, samples - len(sound)) / SAMPLE_RATE_HZ
    add_at(out, sound, float(rng.uniform(0, room_s)))
    return out


def beats(
    rng: np.random.Generator, seconds: float, rate_hz: float, jitter: float = 0.0, lead: float = 0.9
) -> list[float]:
    """Start times at a steady rate, the first within `lead` of a period, each off by up to `jitter` of a period."""
    first = rng.uniform(0, min(lead / rate_hz, 0.4))
    starts = np.arange(first, seconds - 0.03, 1 / rate_hz)
    starts = starts + rng.uniform(-jitter, jitter, len(starts)) / rate_hz
    return [float(max(start, 0.0)) for start in starts]


def smooth(values: Samples, n: int) -> Samples:
    """(n,) a slow curve through (points,) values at equal distances, without corners (cosine interpolation)."""
    position = np.linspace(0, len(values) - 1 - 1e-9, n)
    index = position.astype(np.int64)
    weight = 0.5 - 0.5 * np.cos(np.pi * (position - index))
    return values[index] * (1 - weight) + values[index + 1] * weight
