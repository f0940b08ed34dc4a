"""A title is one line of characters that can be drawn, of a width that fits."""

import pytest

from runtime.sound import title
from runtime.sound.title import FAMILY, fitted_title


def test_a_plain_title_is_itself() -> None:
    text = "A dog barks: 5 $, 50 % \u00fcber \u03a9, \u0431\u0430\u0441"
    assert fitted_title(text) == (text, [FAMILY])


@pytest.mark.parametrize("between", ["\n", "\r\n", "\t", "   ", "\x07", "\x1b \x00", "\u2028", "\x85"])
def test_line_ends_and_controls_are_spaces(between: str) -> None:
    assert fitted_title(f"{between}one{between}two{between}")[0] == "one two"


def test_what_no_font_has_is_a_square() -> None:
    text, families = fitted_title("a \u5b57 \U0001f3b5\ufe0f \ud83d \U000e0061b")  # a tag is not seen: it goes
    assert text.replace("\ufe0f", "") == "a \u25a1 \u25a1 \u25a1 b"
    assert families == [FAMILY]


def test_a_font_that_has_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(title, "NO_LETTERS", ("none",))  # matplotlib brings one font that draws every character
    text, families = fitted_title("a \u5b57 \U0001f3b5")
    assert text == "a \u5b57 \U0001f3b5"
    assert families[0] == FAMILY
    assert any(name.startswith("Last Resort") for name in families[1:])


@pytest.mark.parametrize(("character", "longest"), [("x", 86), ("\u5b57", 43)])
def test_a_long_title_is_cut_to_its_width(character: str, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(title, "NO_LETTERS", ("none",))
    assert fitted_title(character * 300)[0] == character * longest + " ..."
    assert fitted_title(character * longest)[0] == character * longest
