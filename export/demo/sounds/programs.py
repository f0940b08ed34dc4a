"""Sounds that other programs make: notes by fluidsynth and words by espeak-ng, rendered once into the user's cache.

A cache entry's name is a hash of the program's version, its flags, its input, and the sound font's path and size.
"""

import functools
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr

from export.demo.sounds.settings import BANDS, SAMPLE_RATE_HZ, Samples, Take, band
from export.demo.sounds.synth import add_at, beats, fade, filtered, place, seconds_to_samples
from runtime.errors import MissingDependencyError

SOUND_FONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
INSTALL_FLUIDSYNTH = "apt-get install fluidsynth fluid-soundfont-gm"
INSTALL_ESPEAK = "apt-get install espeak-ng"
RENDER_RATE_HZ = 48_000  # fluidsynth interpolates without a filter: at 16 kHz high partials would fold down
NOTE_S, RELEASE_S = 2.4, 0.6
VOICES = {"male": ("en-us+m3", "en-us+m7"), "female": ("en-us+f3", "en-us+f2")}
# the fundamental that was measured at espeak-ng's pitches, as the median over a sentence
ESPEAK_PITCHES = (0, 15, 30, 45, 60, 75, 99)
MEASURED_HZ = {
    "en-us+m3": (80, 88, 91, 102, 117, 136, 172),
    "en-us+m7": (86, 93, 96, 106, 119, 135, 168),
    "en-us+f3": (158, 168, 187, 208, 232, 262, 337),
    "en-us+f2": (135, 151, 167, 187, 214, 248, 324),
}


def cache_folder() -> Path:
    """Where rendered notes and words are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trt-audioldm2" / "sounds"


def instrument(program: int) -> Callable[[Take], Samples]:
    """The maker of an instrument, by its number (from 0) in General MIDI: one held note, or `rate_hz` a second."""

    def make(take: Take) -> Samples:
        lowest = round(69 + 12 * np.log2(take.pitch_hz / 440)) - band(take.quantiles["pitch_hz"])
        sound = notes(program, lowest)[band(take.quantiles["pitch_hz"])]
        if take.length_s:
            sound = sound[: seconds_to_samples(take.length_s)]
            return place(take.rng, take.samples, sound * fade(len(sound), 0.0, 0.08))
        sound = sound[: seconds_to_samples(min(NOTE_S, 0.97 / take.rate_hz))]
        out = np.zeros(take.samples)
        for start_s in beats(take.rng, take.seconds, take.rate_hz):
            add_at(out, sound * fade(len(sound), 0.0, 0.03), start_s)
        return out

    return make


@functools.lru_cache(maxsize=64)
def notes(program: int, lowest: int) -> Samples:
    """(BANDS, n) float64: the notes from MIDI number `lowest` up, a semitone apart, at 16 kHz.

    Raises MissingDependencyError without fluidsynth or the sound font.
    """
    fluidsynth = _program("fluidsynth", INSTALL_FLUIDSYNTH)
    if not SOUND_FONT.exists():
        raise MissingDependencyError(f"the sound font {SOUND_FONT} is not here: {INSTALL_FLUIDSYNTH}")
    song = midi(program, lowest)
    flags = ("-ni", "-q", "-R", "0", "-C", "0", "-g", "1.5", "-r", str(RENDER_RATE_HZ), "-O", "s16", "-T", "wav")
    font = f"{SOUND_FONT} {SOUND_FONT.stat().st_size}"

    def render(wav: Path) -> None:
        file = wav.with_suffix(".mid")
        file.write_bytes(song)
        _run([fluidsynth, *flags, "-F", str(wav), str(SOUND_FONT), str(file)], INSTALL_FLUIDSYNTH)

    audio = _cached((_version(fluidsynth), *flags, font, song.hex()), render)
    each = seconds_to_samples(NOTE_S + RELEASE_S)
    padded = np.zeros(BANDS * each)
    padded[: min(len(audio), len(padded))] = audio[: len(padded)]
    return padded.reshape(BANDS, each)


def midi(program: int, lowest: int) -> bytes:
    """A MIDI file, 500 ticks a second: `BANDS` notes from `lowest` up, each NOTE_S long and RELEASE_S apart."""
    events = [(0, bytes((0xC0, program)))]
    wait = 0
    for note in range(lowest, lowest + BANDS):
        events += [(wait, bytes((0x90, note, 100))), (round(NOTE_S * 500), bytes((0x80, note, 0)))]
        wait = round(RELEASE_S * 500)
    events.append((wait, b"\xff\x2f\x00"))
    track = b"".join(_variable_length(ticks) + message for ticks, message in events)
    tempo_default = 250  # ticks a quarter note, at the format's 120 quarters a minute
    return struct.pack(">4sIHHH", b"MThd", 6, 0, 1, tempo_default) + struct.pack(">4sI", b"MTrk", len(track)) + track


def speech(voice: str) -> Callable[[Take], Samples]:
    """The maker of a voice, "male" or "female": `take.word` once, as in a text at `rate_hz` words a second."""

    def make(take: Take) -> Samples:
        name = VOICES[voice][take.rng.integers(2)]
        pitch = round(float(np.interp(take.pitch_hz, MEASURED_HZ[name], ESPEAK_PITCHES)))
        return place(take.rng, take.samples, spoken(name, take.word, pitch, round(60 * take.rate_hz)))

    return make


@functools.lru_cache(maxsize=2048)
def spoken(voice: str, text: str, pitch: int, words_a_minute: int) -> Samples:
    """(n,) float64 at 16 kHz without the silence around it. Raises MissingDependencyError without espeak-ng."""
    espeak = _program("espeak-ng", INSTALL_ESPEAK)
    flags = ("-v", voice, "-p", str(pitch), "-s", str(words_a_minute))
    audio = _cached(
        (_version(espeak), *flags, text),
        lambda wav: _run([espeak, *flags, "-w", str(wav), text], INSTALL_ESPEAK),
    )
    loud = np.flatnonzero(np.abs(audio) > 0.01 * np.abs(audio).max())
    audio = audio[loud[0] : loud[-1] + 1]
    return filtered(audio, lambda hz: (hz > 60).astype(np.float64)) * fade(len(audio), 0.002, 0.01)


def _cached(key: Sequence[str], render: Callable[[Path], None]) -> Samples:
    """(n,) the audio of a key at 16 kHz, mono; `render` writes it as a WAV file of any rate where it is not cached."""
    kept = cache_folder() / f"{hashlib.sha256(repr(tuple(key)).encode()).hexdigest()[:32]}.wav"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            raw, ready = Path(folder, "raw.wav"), Path(folder, "ready.wav")
            render(raw)
            audio, rate_hz = soundfile.read(raw, always_2d=True)
            resampled = soxr.resample(audio.mean(axis=1), rate_hz, SAMPLE_RATE_HZ)
            soundfile.write(ready, resampled, SAMPLE_RATE_HZ, subtype="PCM_16")
            ready.replace(kept)  # at once: another process never reads half a file
    found: Samples = soundfile.read(kept)[0]
    return found


def _program(name: str, install: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise MissingDependencyError(f"{name} is not here: {install}")
    return path


@functools.lru_cache(maxsize=8)
def _version(path: str) -> str:
    return subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.split("  ")[0]


def _run(command: Sequence[str], install: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise MissingDependencyError(f"{Path(command[0]).name} failed ({why}): {install}")


def _variable_length(value: int) -> bytes:
    """MIDI's numbers: seven bits a byte, the highest bit set on all but the last."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.insert(0, 0x80 | (value & 0x7F))
    return bytes(out)
