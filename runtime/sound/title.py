"""A prompt as the title of a picture: in one line, of a width that fits, in characters that can be drawn."""

import contextlib
import unicodedata

WIDEST = 90  # in Latin characters; those of East Asia count double
MISSING = "\N{WHITE SQUARE}"
FAMILY = "DejaVu Sans"  # comes with matplotlib, so it is there
NO_LETTERS = ("Last Resort",)  # draws every character, as a box with its code


def fitted_title(text: str) -> tuple[str, list[str]]:
    """The text as it can be drawn, and the font families to draw it with, the first that has a character counts.

    Space and control characters become single spaces, a long text is cut, and what no installed font has is a square.
    """
    line = _cut(" ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in text).split()))
    families, missing = [FAMILY], set(line)
    for family, file in _fonts():
        left = _without(file, missing) if missing else missing
        if left != missing and family != FAMILY:
            families.append(family)
        missing = left
    return "".join(_replaced(c) if c in missing else c for c in line), families


def _cut(line: str) -> str:
    widths = [2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line]
    if sum(widths) <= WIDEST:
        return line
    kept, room = 0, WIDEST - len(" ...")
    while room >= widths[kept]:
        room -= widths[kept]
        kept += 1
    return line[:kept].rstrip() + " ..."


def _replaced(character: str) -> str:
    """A square, or nothing for what is not seen anyway, such as the joiner inside of an emoji."""
    return "" if unicodedata.category(character) in ("Cf", "Mn") else MISSING


def _fonts() -> list[tuple[str, str]]:
    """Family and file of each upright font of normal weight, ours first."""
    from matplotlib.font_manager import findfont, fontManager

    upright = {
        font.name: font.fname
        for font in fontManager.ttflist
        if font.style == "normal" and font.weight in (400, "normal") and not font.name.startswith(NO_LETTERS)
    }
    return [(FAMILY, findfont(FAMILY)), *sorted(upright.items())]


def _without(file: str, characters: set[str]) -> set[str]:
    """Those of the characters that a font lacks: all of them if it is no font of outlines or cannot be read."""
    from matplotlib.font_manager import get_font

    with contextlib.suppress(OSError, RuntimeError, ValueError):
        font = get_font(file)
        if font.scalable:
            return {c for c in characters if not font.get_char_index(ord(c))}
    return characters
