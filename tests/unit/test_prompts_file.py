"""Prompts files as editors, shells and programs write them: what is a line, what is a prompt, what is refused."""

import codecs
import io
import json
import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime import prompts_file
from runtime.batch import Line, read_jobs
from runtime.errors import InputError
from tests.unit.helpers import raises_line

DEFAULTS = Line(prompt="", seed=1)


def read(data: bytes | str, folder: Path, pattern: str = "{index}.wav", **defaults: Any) -> list[Any]:
    file = folder / "prompts.txt"
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    line = Line(prompt="", seed=1, **defaults)
    return list(read_jobs(file, str(folder / pattern), line, as_float=False))


def prompts(data: bytes | str, folder: Path) -> list[str]:
    return [item.line.prompt for item in read(data, folder)]


def refusals(data: bytes | str, folder: Path) -> dict[int, str]:
    """What is said of each bad line, with the check that a good one beside it is read."""
    good = b"\nrain" if isinstance(data, bytes) else "\nrain"
    *bad, last = read(data + good, folder)  # type: ignore[operator]
    assert last.line.prompt == "rain"
    assert all("\n" not in str(item.error) for item in bad)
    return {item.number: str(item.error) for item in bad}


TEXT = 'rain\r\n\r\n  {"prompt": "wind 風 🌧"}  \r\nnaïve\r\n'


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.replace("\r\n", "\r").encode(),
        TEXT.replace("\r\n", "\n").strip().encode(),
    ],
    ids=["utf-8", "mark", "utf-16-le", "utf-16-be", "cr", "lf, none at the end"],
)
def test_one_file_in_many_encodings(data: bytes, tmp_path: Path) -> None:
    jobs = read(data, tmp_path)
    assert [job.line.prompt for job in jobs] == ["rain", "wind 風 🌧", "naïve"]
    assert [job.number for job in jobs] == [1, 3, 4]


@pytest.mark.parametrize("mark", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"], ids=ascii)
def test_only_cr_and_lf_end_lines(mark: str, tmp_path: Path) -> None:
    inside = json.dumps({"prompt": "a\u2028b"}, ensure_ascii=False) if mark == "\u2028" else f"c{mark}d"
    assert prompts(f"a{mark}b\n{inside}", tmp_path)[0] == f"a{mark}b"
    assert len(prompts(f"a{mark}b\n{inside}", tmp_path)) == 2


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"], ids=ascii)
def test_json_with_unusual_ends_of_lines_in_it_is_one_prompt(mark: str, tmp_path: Path) -> None:
    line = json.dumps({"prompt": f"rain{mark}wind"}, ensure_ascii=False)
    assert prompts(line, tmp_path) == [f"rain{mark}wind"]


def test_files_that_were_joined_keep_no_mark_inside(tmp_path: Path) -> None:
    part = codecs.BOM_UTF8 + b'{"prompt": "rain"}\n'
    assert prompts(part + part + b"\xef\xbb\xbf\n \xef\xbb\xbf wind", tmp_path) == ["rain", "rain", "wind"]


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "rain"',
        "{'prompt': 'rain'}",
        "{rain}",
        "{",
        '[{"prompt": "rain"}]',
        "[laughs] a man",
        '["rain"]',
        '"rain"',
        '"rain',
        '{"prompt": "rain"} {"prompt": "wind"}',
        '{"prompt": 5}',
        '{"prompt": null}',
        '{"prompt": ["rain"]}',
        '{"promt": "rain"}',
        '{"prompt": "rain", "prompt": "wind"}',
        '{"prompt": "rain", "duration": NaN}',
        '{"prompt": "rain", "duration": -Infinity}',
        '{"prompt": "rain", "duration": "5"}',
        '{"prompt": "rain", "seed": 1.5}',
        '{"prompt": "rain", "seed": ' + "9" * 5000 + "}",
        '{"prompt": "cut off \\ud83d"}',
        '{"prompt": "rain", "negative_prompt": "\\udc00"}',
        '{"prompt": "rain", "transcription": "\\ud800 a"}',
        '{"prompt": "rain", "seed": ' + "[" * 100_000 + "}",
        "[" * 100_000,
    ],
    ids=lambda text: ascii(text)[:40],
)
def test_what_starts_like_json_is_never_a_prompt(text: str, tmp_path: Path) -> None:
    (error,) = refusals(text, tmp_path).values()
    assert len(error) < 400
    (with_a_mark,) = refusals("\ufeff" + text, tmp_path).values()
    assert with_a_mark == error


def test_what_a_refusal_says(tmp_path: Path) -> None:
    lines = ['{"prompt": "a", "prompt": "b"}', '{"prompt": "a", "duration": NaN}', '{"prompt": ', "[" * 100_000]
    errors = refusals("\n".join(lines), tmp_path)
    assert "'prompt' is given 2 times" in errors[1]
    assert "NaN is no number" in errors[2]
    assert "character" in errors[3]
    assert "nested too deeply" in errors[4]


def test_a_bad_byte_loses_its_own_line_only(tmp_path: Path) -> None:
    bad = random.choice([0x80, 0xA9, 0xE9, 0xFF])
    errors = refusals(b"caf" + bytes([bad]) + b" noise", tmp_path)
    assert f"byte 0x{bad:02x} at position 4" in errors[1]


@pytest.mark.parametrize(
    ("data", "number"),
    [
        (codecs.BOM_UTF16_LE + "rain\nwind".encode("utf-16-le") + b"\x3d\xd8" + "\nfog".encode("utf-16-le"), 2),
        (codecs.BOM_UTF16_LE + "rain\nwin".encode("utf-16-le") + b"d", 2),
        (codecs.BOM_UTF16_BE + "rain\nwin".encode("utf-16-be") + b"\x00", 2),
    ],
    ids=["half a pair", "cut", "cut, big end first"],
)
def test_half_a_utf_16_character_loses_its_own_line_only(data: bytes, number: int, tmp_path: Path) -> None:
    items = read(data, tmp_path)
    assert items[0].line.prompt == "rain"
    assert items[number - 1].number == number
    assert "UTF-16" in str(items[number - 1].error)


def test_null_bytes_are_no_text(tmp_path: Path) -> None:
    assert "null byte" in refusals(b"ra\0in", tmp_path)[1]
    with raises_line(InputError, "prompts.txt", "line 1", "UTF-16"):
        read("rain\nwind".encode("utf-16-le"), tmp_path)  # without its mark


@pytest.mark.parametrize("data", [b"", b"\n \r\n\t", codecs.BOM_UTF8, b"\xff\xfe", b"\xff\xfe\x00", b"\xe9", b"\x00"])
def test_a_file_without_text_is_refused_whole(data: bytes, tmp_path: Path) -> None:
    with raises_line(InputError, "prompts.txt", "no prompt"):
        read(data, tmp_path)


def test_utf_32_is_named(tmp_path: Path) -> None:
    with raises_line(InputError, "UTF-32", "UTF-8"):
        read(codecs.BOM_UTF32_LE + "rain".encode("utf-32-le"), tmp_path)


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"rain\nwind")))
    jobs = list(read_jobs("-", str(tmp_path / "{index}.wav"), DEFAULTS, as_float=False))
    assert [job.line.prompt for job in jobs] == ["rain", "wind"]  # type: ignore[union-attr]
    monkeypatch.setattr(sys, "stdin", None)
    with raises_line(InputError, "cannot be read"):
        list(read_jobs("-", str(tmp_path / "{index}.wav"), DEFAULTS, as_float=False))


@pytest.mark.parametrize("name", ["", ".", "absent.txt", "a\0b", "x" * 5000])
def test_a_file_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    with raises_line(InputError, "prompts file", "cannot be read"):
        list(read_jobs(f"{tmp_path}/{name}", str(tmp_path / "{index}.wav"), DEFAULTS, as_float=False))


def test_an_endless_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts_file, "LARGEST_FILE", 2**20)
    with raises_line(InputError, "larger than 1 MiB"):
        list(read_jobs("/dev/zero", str(tmp_path / "{index}.wav"), DEFAULTS, as_float=False))


def test_a_pipe_is_read(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"rain\nwind\n")
    os.close(writing)
    jobs = list(read_jobs(f"/dev/fd/{reading}", str(tmp_path / "{index}.wav"), DEFAULTS, as_float=False))
    os.close(reading)
    assert len(jobs) == 2


def test_what_a_json_line_leaves_out_comes_from_the_flags(tmp_path: Path) -> None:
    data = '{"prompt": "rain", "negative_prompt": null, "seed": 0}\n{"prompt": "wind"}'
    first, second = read(data, tmp_path, negative_prompt="noise", duration=2.5)
    assert (first.line.negative_prompt, first.seed, first.line.duration) == (None, 0, 2.5)
    assert (second.line.negative_prompt, second.seed) == ("noise", 1)


@pytest.mark.parametrize(
    "pattern",
    [
        "{index[0]}.wav",
        "{index.real}.wav",
        "{prompt.upper}.wav",
        "{prompt!r}.wav",
        "{prompt!r:>1000000}.wav",
        "{prompt:>1000000}.wav",
        "{index:0{line}d}.wav",
        "{index:q}.wav",
        "{prompt:d}.wav",
        "{}.wav",
        "{0}.wav",
        "{nonsense}.wav",
        "{__class__}.wav",
        "{.wav",
        "}.wav",
    ],
)
def test_a_pattern_holds_plain_fields_only(pattern: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("rain")
    with raises_line(InputError, "pattern"):
        list(read_jobs(file, pattern, DEFAULTS, as_float=False))


def test_names_of_outputs(tmp_path: Path) -> None:
    data = "A dog, barking!\n\n雨が降る 🌧\n🌧\n" + '{"prompt": "wind", "seed": 77}'
    names = [item.output.name for item in read(data, tmp_path, "{index:03d}-{line}-{seed}-{prompt:_>6}-{{x}}.wav")]
    assert names == [
        "000-1-1-a-dog-barking-{x}.wav",
        "001-3-1-__雨が降る-{x}.wav",
        "002-4-1-prompt-{x}.wav",
        "003-5-77-__wind-{x}.wav",
    ]


@pytest.mark.parametrize("character", ["a", "é", "雨", "\U00020000"])
@pytest.mark.parametrize("around", [0, 100, 200, 245])
def test_a_name_fits_into_what_file_systems_take(character: str, around: int, tmp_path: Path) -> None:
    (job,) = read(character * 300, tmp_path, "x" * around + "{prompt}.wav")
    assert len(os.fsencode(job.output.name)) <= 255
    job.output.write_bytes(b"")  # the file system agrees
    assert character in job.output.name


def test_two_lines_of_one_name(tmp_path: Path) -> None:
    first, second = read("Good!\ngood", tmp_path, "{prompt}.wav")
    assert first.output.name == "good.wav"
    assert "line 1's file" in str(second.error)
