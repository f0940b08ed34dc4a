"""Command lines: an argument parser that says what is wrong in one line, and the kinds of values that flags take."""

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from runtime.errors import InputError
from runtime.wording import readable

Number = TypeVar("Number", int, float)

DASH_HINT = "a text that starts with a dash goes after --, as the last argument"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that names the nearest flag, with exit status 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse the arguments; here an unknown flag is an error too, and the first one to be told."""
        words = sys.argv[1:] if args is None else list(args)
        if self._subparsers is None:  # else most flags are the subcommand's, whose own parser comes here as well
            self._check_flags(words)
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """End the program with one line that says what is wrong, and exit status 2."""
        if message.endswith("expected one argument"):
            message += "; one that starts with a dash is given as --flag=-1"
        self.exit(2, f"error: {readable(' '.join(message.split()), 400)} (usage: {self.prog} --help)\n")

    def _check_flags(self, words: list[str]) -> None:
        texts = words[: words.index("--")] if "--" in words else words
        for before, word in zip(["", *texts], texts, strict=False):
            flag = word.split("=", 1)[0]
            if flag in self._option_string_actions or not word.startswith("-") or _is_number(word) or word == "-":
                continue
            value_of_a_flag = before.startswith("-") and before in self._option_string_actions
            if " " in word and not value_of_a_flag:
                self.error(f"{word!r} is no flag; {DASH_HINT}")
            if " " not in word and flag[:2] not in self._option_string_actions:
                self.error(self._unknown(flag))

    def _unknown(self, flag: str) -> str:
        near = difflib.get_close_matches(flag, self._option_string_actions, n=1) if flag.startswith("--") else []
        takes_texts = any(not action.option_strings for action in self._actions)
        hint = f"did you mean {near[0]}?" if near else DASH_HINT if takes_texts else ""
        return f"unknown flag '{flag}'{hint and '; '}{hint}"


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def whole(text: str) -> int:
    """A whole number, such as "20"."""
    return _value(int, text, "a whole number")


def number(text: str) -> float:
    """A number, such as "2.5"."""
    return _value(float, text, "a number")


def check_counts(options: argparse.Namespace, *flags: str) -> None:
    """Raise InputError for a count that is given and below 1, with its flag."""
    for flag in flags:
        value = getattr(options, flag[2:].replace("-", "_"))
        if value is not None and value < 1:
            raise InputError(f"{flag} has to be at least 1, got {value}")


def numbers(text: str) -> list[float]:
    """One number or more, such as "2.5,10"."""
    return [_value(float, part, "a number, or several with commas between them") for part in text.split(",")]


def seeds(text: str) -> int | list[int]:
    """One seed, such as "7", or a list of them, such as "7,8,9"."""
    found = [_value(int, part, "a whole number, or several with commas between them") for part in text.split(",")]
    return found[0] if len(found) == 1 else found


def one_or_pair(text: str) -> tuple[float, float]:
    """A number twice, such as "0.5", or two numbers, such as "0.1:0.5"."""
    return interval(text) if ":" in text else (number(text), number(text))


def at_the_end(text: str) -> tuple[float, float]:
    """A number for the end, such as "5", or one for the start and one for the end, such as "2:5"."""
    return interval(text) if ":" in text else (0.0, number(text))


def interval(text: str) -> tuple[float, float]:
    """Two numbers, such as "0.2:0.8"."""
    parts = text.split(":")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"has to be two numbers, as in 0.2:0.8, got '{readable(text)}'")
    return number(parts[0]), number(parts[1])


def _value(kind: Callable[[str], Number], text: str, words: str) -> Number:
    try:
        return kind(text)
    except ValueError as error:  # also an integer of more than 4300 digits
        raise argparse.ArgumentTypeError(f"has to be {words}, got '{readable(text, 40)}'") from error
