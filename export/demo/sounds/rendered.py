"""The classes of sounds that fluidsynth and espeak-ng make."""

from export.demo.sounds import programs
from export.demo.sounds.settings import BANDS, Sound

WORDS = ("hello", "yes", "no", "stop", "go", "seven", "thank you", "goodbye", "water", "music")


def _instrument(program: int, lowest: int, *nouns: str, struck: bool = False) -> Sound:
    """`lowest` is the MIDI number of the lowest note. Struck notes are repeated, held ones are short or long."""
    lowest_hz = 440 * 2 ** ((lowest - 69) / 12)
    pitch_hz = (lowest_hz, lowest_hz * 2 ** (BANDS / 12))  # a band a semitone
    make = programs.instrument(program)
    if struck:
        return Sound(make, nouns, pitch_hz=pitch_hz, rate_hz=(0.8, 5), stepped=True)
    return Sound(make, nouns, pitch_hz=pitch_hz, length_s=(0.35, 2.3), stepped=True)


def _voice(voice: str, pitch_hz: tuple[float, float], *nouns: str) -> Sound:
    return Sound(programs.speech(voice), nouns, pitch_hz=pitch_hz, rate_hz=(1.5, 5), words=WORDS, stepped=True)


INSTRUMENTS: dict[str, Sound] = {
    "piano": _instrument(0, 48, "a {adjectives}piano", "a {adjectives}note on the piano", struck=True),
    "guitar": _instrument(24, 43, "a {adjectives}acoustic guitar", "a {adjectives}note on a guitar", struck=True),
    "xylophone": _instrument(13, 67, "a {adjectives}xylophone", "{adjectives}notes on a xylophone", struck=True),
    "harp": _instrument(46, 48, "a {adjectives}harp", "{adjectives}notes on a harp", struck=True),
    "organ": _instrument(19, 43, "a {adjectives}church organ", "a {adjectives}pipe organ"),
    "accordion": _instrument(21, 55, "a {adjectives}accordion", "a {adjectives}note on an accordion"),
    "violin": _instrument(40, 57, "a {adjectives}violin", "a {adjectives}bowed violin"),
    "choir": _instrument(52, 50, "a {adjectives}choir", "a {adjectives}choir singing"),
    "trumpet": _instrument(56, 57, "a {adjectives}trumpet", "a {adjectives}trumpet call"),
    "tuba": _instrument(58, 30, "a {adjectives}tuba", "a {adjectives}note on a tuba"),
    "clarinet": _instrument(71, 52, "a {adjectives}clarinet", "a {adjectives}note on a clarinet"),
    "flute": _instrument(73, 62, "a {adjectives}flute", "a {adjectives}note on a flute"),
}
SPEECH: dict[str, Sound] = {
    "male_speech": _voice(
        "male", (88, 168), "a {adjectives}male voice saying {word}", "a {adjectives}man's voice saying {word}"
    ),
    "female_speech": _voice(
        "female", (158, 320), "a {adjectives}female voice saying {word}", "a {adjectives}woman's voice saying {word}"
    ),
}
