"""Weights in a prompt: "(word:1.3)", by the rules that text-to-image programs have made usual."""

import re
from dataclasses import dataclass

from runtime.errors import InputError

MOST = 10.0  # states far beyond what the model has seen mean nothing to it
_STEP = 1.1  # of a bracket without a number
_BRACKETS = "()[]\\"
_NUMBER = re.compile(r":\s*(\d+\.?\d*|\.\d+)\s*\)")


@dataclass(frozen=True)
class Weighted:
    """A text without its brackets, and what each of its characters counts."""

    text: str
    weights: tuple[float, ...]  # one a character

    def of(self, start: int, stop: int) -> float:
        """What the characters from `start` up to `stop` count; 1 if there are none."""
        part = [self.weights[i] for i in range(start, stop) if self.text[i] != " "]
        return sum(part) / len(part) if part else 1.0


def weighted(prompt: str) -> Weighted:
    """Read the weights of a prompt: "(word:1.3)" counts 1.3 times, "(word)" 1.1 times, "[word]" 1 / 1.1 times.

    They multiply where brackets stand in each other. A backslash before a bracket or a backslash takes its meaning
    away. A bracket that nothing closes reaches to the end; one that nothing has opened is a character like any other.
    Raises InputError for a weight above MOST.
    """
    letters: list[str] = []
    weights: list[float] = []
    opened: list[tuple[str, int]] = []  # brackets, and where in the text they stood
    place = 0
    while place < len(prompt):
        character, length, factor = prompt[place], 1, None
        explicit = _NUMBER.match(prompt, place) if opened and opened[-1][0] == "(" else None
        if character == "\\" and prompt[place + 1 : place + 2] in tuple(_BRACKETS):
            character, length = prompt[place + 1], 2
        elif explicit is not None:
            factor, length = float(explicit[1]), len(explicit[0])
        elif character in "([":
            opened.append((character, len(letters)))
            place += 1
            continue
        elif opened and (opened[-1][0], character) in (("(", ")"), ("[", "]")):
            factor = _STEP if character == ")" else 1 / _STEP
        place += length
        if factor is None:
            letters.append(character)
            weights.append(1.0)
        else:
            _scale(weights, opened.pop()[1], factor)
    for bracket, start in opened:
        _scale(weights, start, _STEP if bracket == "(" else 1 / _STEP)
    if max(weights, default=1.0) > MOST:
        raise InputError(f"prompt: a weight of {max(weights):g} is more than {MOST:g}")
    return Weighted("".join(letters), tuple(weights))


def _scale(weights: list[float], start: int, factor: float) -> None:
    weights[start:] = [weight * factor for weight in weights[start:]]
