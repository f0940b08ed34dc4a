"""`python -m bench edits` on a small random model: every study runs, and tells what it is to tell."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.edits import studies
from bench.edits.figures import line


def test_every_study(
    bundle: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(studies, "LONG_S", 5.12)
    monkeypatch.setattr(studies, "FURTHER_S", 5.12)
    options = ["--only", "siren", "--per-class", "1", "--steps", "5", "--out", str(tmp_path)]
    picture = tmp_path / "variations.png"
    assert main(["edits", "--engines", str(bundle("plain")), *options, "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["studies"]
    assert list(found) == ["round_trip", "variations", "inpainting", "continuation", "long_form", "loops", "weights"]
    assert found["inpainting"][0]["kept_exactly"] is True
    strengths = tuple(row["strength"] for row in found["variations"] if not row["naive"])
    assert strengths == studies.STRENGTHS
    for rows in found.values():
        for row in rows:
            assert "\n" not in line(row)
            for value in row.values():
                if isinstance(value, dict):
                    assert all(0 <= value[name] <= 1 for name in ("click", "energy", "spectrum"))


def test_a_study_that_there_is_not(
    bundle: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["edits", "loop", "--engines", str(bundle("plain")), "--out", str(tmp_path)]) == 1
    assert "there is no study 'loop'" in capsys.readouterr().err
