"""A prompts file: its bytes become lines, its lines become jobs, and each job gets the name of its output."""

import codecs
import json
import os
import re
import secrets
import string
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from runtime.errors import InputError
from runtime.sound.files import check_output
from runtime.wording import byte_at_fault, check_text, one_line, readable

STANDARD_INPUT = "-"
LARGEST_FILE = 256 * 2**20  # bytes; the whole file is read, and something like /dev/zero never ends
MARKS = {  # the first bytes of a file whose encoding is marked; a mark of UTF-32 begins with one of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
    codecs.BOM_UTF8: "utf-8",
}
FIELDS = ("index", "line", "seed", "prompt")  # what a pattern of output names may hold
_LINE_END = re.compile(r"\r\n|\r|\n")  # and none of the others that str.splitlines() knows: those belong to a text
_UNSEEN = "\ufeff\u200b\u2060"  # marks that are left at the start of a line where files were joined
_LONGEST_NAME = 255  # bytes: what file systems take
_SLUG_LENGTH, _LONGEST_PADDING = 40, 3  # characters of a prompt in a name; digits of a width in a pattern


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of a prompts file: the prompt, and what differs from the command line's flags."""

    prompt: str
    negative_prompt: str | None = None
    transcription: str | None = None
    seed: int | None = None
    duration: float | None = None  # seconds


@dataclass(frozen=True)
class Job:
    """A line that is ready to run. `number` counts the file's lines from 1."""

    number: int
    line: Line
    seed: int
    output: Path


@dataclass(frozen=True)
class Refused:
    """A line that cannot run, and why."""

    number: int
    error: InputError


def read_jobs(
    file: str | Path, pattern: str, defaults: Line, *, as_float: bool, source: str | Path | None = None
) -> Iterator[Job | Refused]:
    """Read a prompts file: a job for each good line, a refusal with its error for each bad one.

    A line is a prompt, or a JSON object with the fields of `Line`; what an object leaves out comes from `defaults`, and
    blank lines are skipped. What starts with a brace, a bracket or a double quote is JSON and never a plain prompt. The
    file `-` is standard input. `pattern` names the outputs: `{index}` counts the prompts from 0, `{line}` the lines
    from 1, `{seed}`, and `{prompt}` in a form that is fit for a file name. Raises InputError if the file cannot be
    read, no line of it is text, or the pattern is wrong.
    """
    check_pattern(pattern)
    lines = _lines(_read(file))
    if not any(isinstance(text, str) for _, text in lines):
        why = f" that can be read; line {lines[0][0]}: {lines[0][1]}" if lines else ""
        raise InputError(f"prompts file '{readable(str(file))}' holds no prompt{why}")
    taken: dict[Path, int] = {}
    for index, (number, text) in enumerate(lines):
        try:
            line = _parse(text, defaults)
            seed = secrets.randbelow(2**31) if line.seed is None else line.seed
            name = _name(pattern, index=index, line=number, seed=seed, prompt=_slug(line.prompt))
            check_output(name, as_float=as_float, source=source)
            output = Path(name)
            if output in taken:
                raise InputError(f"'{output}' is line {taken[output]}'s file already: use {{index}} in the pattern")
            taken[output] = number
            yield Job(number, line, seed, output)
        except InputError as error:
            yield Refused(number, error)


def _read(file: str | Path) -> bytes:
    try:
        if str(file) == STANDARD_INPUT:
            data = sys.stdin.buffer.read(LARGEST_FILE + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(LARGEST_FILE + 1)
    except (OSError, ValueError, AttributeError, MemoryError) as error:  # a null byte in the name; no standard input
        raise InputError(f"prompts file '{readable(str(file))}' cannot be read: {one_line(error)}") from error
    if len(data) > LARGEST_FILE:
        raise InputError(f"prompts file '{readable(str(file))}' is larger than {LARGEST_FILE >> 20} MiB: split it")
    return data


def _lines(data: bytes) -> list[tuple[int, str | InputError]]:
    """The lines that are not blank, with their numbers; in place of a line that is no text, the error."""
    texts = enumerate(_LINE_END.split(_decode(data)), start=1)
    kept = ((number, _stripped(text)) for number, text in texts)
    return [(number, _checked(text)) for number, text in kept if text]


def _decode(data: bytes) -> str:
    """The text of a file in UTF-8, or as its mark says. Bytes that are no text become halves of surrogate pairs."""
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    encoding, data = MARKS.get(mark, "utf-8"), data[len(mark) :]
    if encoding == "utf-8":
        return data.decode(encoding, "surrogateescape")
    if encoding == "utf-32":
        raise InputError("the prompts file is in UTF-32: save it as UTF-8")
    whole = len(data) // 2 * 2
    rest = "".join(chr(0xDC00 + byte) for byte in data[whole:])  # as if by surrogateescape: half a unit is no text
    return data[:whole].decode(encoding, "surrogatepass") + rest


def _stripped(text: str) -> str:
    return text.strip().strip(_UNSEEN).strip()


def _checked(text: str) -> str | InputError:
    if "\0" in text:
        return InputError("a null byte is no text; if the file is in UTF-16, save it with its mark, or as UTF-8")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        try:
            text.encode("utf-8", "surrogateescape").decode("utf-8")
        except UnicodeDecodeError as error:
            return InputError(f"{byte_at_fault(error)} is no UTF-8: save the file as UTF-8")
        except UnicodeEncodeError:
            pass  # of a file in UTF-16: half a pair, and no byte to name
        return InputError("half a UTF-16 character is no text")
    return text


def _parse(text: str | InputError, defaults: Line) -> Line:
    if isinstance(text, InputError):
        raise text
    if text[0] not in '{["':
        return msgspec.structs.replace(defaults, prompt=text)
    try:
        given = json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise InputError(_no_json(f"{error.msg} at character {error.pos + 1}")) from error
    except RecursionError as error:
        raise InputError(_no_json("it is nested too deeply")) from error
    except ValueError as error:  # of the two functions below, or an integer of thousands of digits
        raise InputError(_no_json(readable(str(error)))) from error
    if not isinstance(given, dict):
        raise InputError(_no_json("it is no object"))
    try:
        line = msgspec.convert(given, Line)
    except msgspec.ValidationError as error:
        raise InputError(_no_json(one_line(error))) from error
    for name in ("prompt", "negative_prompt", "transcription"):
        check_text(name, getattr(line, name) or "")
    return msgspec.structs.replace(defaults, **{field: getattr(line, field) for field in given})


def _no_json(why: str) -> str:
    return f'no valid JSON line: {why}; a line that starts with {{, [ or " has to be as {{"prompt": "rain"}}'


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    name, times = max(Counter(name for name, _ in pairs).items(), key=itemgetter(1), default=("", 0))
    if times > 1:
        raise ValueError(f"'{name}' is given {times} times")
    return dict(pairs)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def check_pattern(pattern: str) -> None:
    """Raise InputError unless the pattern can name outputs: plain fields, with a format of at most 999 characters."""
    try:
        for _, field, form, conversion in string.Formatter().parse(pattern):
            if field is not None and (field not in FIELDS or conversion or not _is_plain(form or "")):
                kind = f"!{conversion}" if conversion else ""
                raise ValueError(f"'{{{field}{kind}{':' if form else ''}{form}}}'")
        pattern.format(index=0, line=1, seed=0, prompt="prompt")
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        names = ", ".join(f"{{{name}}}" for name in FIELDS)
        raise InputError(
            f"output pattern '{readable(pattern)}' is wrong ({readable(str(error))}); it may hold {names}, or a form "
            "of one such as {index:04d}"
        ) from error


def _is_plain(form: str) -> bool:
    return "{" not in form and all(len(digits) <= _LONGEST_PADDING for digits in re.findall(r"\d+", form))


def _name(pattern: str, *, prompt: str, **fields: int) -> str:
    """The output of one line. Where its name is longer than file systems take, the prompt's part of it is cut."""
    name = pattern.format(prompt=prompt, **fields)
    over = len(os.fsencode(Path(name).name)) - _LONGEST_NAME
    if over > 0:
        name = pattern.format(prompt=_cut(prompt, max(len(prompt.encode()) - over, 1)), **fields)
    return name


def _slug(prompt: str) -> str:
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:_SLUG_LENGTH]
    return words.rstrip("-") or "prompt"


def _cut(text: str, size: int) -> str:
    """As many whole characters of the text as take `size` bytes."""
    return text.encode()[:size].decode(errors="ignore")
