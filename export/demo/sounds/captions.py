"""What a clip is called: a template, a noun of its class and adjectives that are true of its settings.

Adjectives compare a clip with the others of its class: a low flute is higher than a high tuba.
"""

import re
from collections.abc import Mapping

import numpy as np

from export.demo.sounds.settings import HIGH_BANDS, LOW_BANDS, Sound, Split, band

# words for the lowest and the highest bands of each setting
ADJECTIVES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "pitch_hz": (("low", "low-pitched", "deep"), ("high", "high-pitched")),
    "rate_hz": (("slow", "unhurried"), ("fast", "rapid", "quick")),
    "length_s": (("short", "brief"), ("long", "lasting")),
    "level_rms": (("soft", "quiet", "faint"), ("loud", "strong")),
}
# {before} has the adjectives before the noun, {noun} has none, {adjectives} stands apart
TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": (
        "{before}",
        "the sound of {before}",
        "hearing {before}",
        "a recording of {before}",
        "{noun}, {adjectives}",
        "this is {before}",
        "{adjectives}: {noun}",
        "one can hear {before}",
    ),
    "held_out": (
        "we listen to {before}",
        "here is {before}",
        "it sounds like {before}",
        "you hear {noun}, {adjectives}",
    ),
}


def true_adjectives(sound: Sound, quantiles: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """The words that may be said of each setting of a sound; settings between low and high have none."""
    words = {}
    for name, quantile in quantiles.items():
        low, high = sound.adjectives.get(name, ADJECTIVES[name])
        if band(quantile) < LOW_BANDS:
            words[name] = low
        elif band(quantile) >= HIGH_BANDS:
            words[name] = high
    return words


def write_caption(
    rng: np.random.Generator, sound: Sound, word: str, quantiles: Mapping[str, float], split: Split
) -> str:
    """A caption from the templates of `split`. Every true adjective is said with a probability of 3/4."""
    words = [str(rng.choice(found)) for found in true_adjectives(sound, quantiles).values() if rng.uniform() < 0.75]
    rng.shuffle(words)
    noun = sound.nouns[rng.integers(len(sound.nouns))]
    usable = [t for t in TEMPLATES[split] if words or "{adjectives}" not in t]
    template = usable[rng.integers(len(usable))]
    before = noun.format(adjectives="".join(f"{w} " for w in words), word=word)
    caption = template.format(before=before, noun=noun.format(adjectives="", word=word), adjectives=" and ".join(words))
    return re.sub(r"\ba (?=[aeiou](?!ni))", "an ", caption)
