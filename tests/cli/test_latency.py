"""`python -m bench latency`: a real run on a small random checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.latency import contest


@pytest.fixture
def arguments(bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], tmp_path: Path) -> list[str]:
    """A run of two steps and one timed call."""
    engines = str(bundle("plain"))
    return [
        *("latency", "--checkpoint", str(checkpoint("plain")), "--engines", engines, "--start-engines", engines),
        *("--steps", "2", "--runs", "1", "--json", str(tmp_path / "found.json")),
    ]


def test_ours_and_the_reference_take_turns(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contest, "STARTS", 1)
    monkeypatch.setattr(contest, "LONGEST_PRODUCT_S", 0.01)
    picture = tmp_path / "stages.png"
    chosen = ["--contenders", "onnxruntime", "diffusers-fp32", "--batch", "1", "2", "--plot", str(picture)]
    assert main([*arguments, *chosen]) == 0
    result = json.loads((tmp_path / "found.json").read_text())
    theirs, ours, pairs = result["cases"]
    assert [(row["name"], row["batch"]) for row in (theirs, ours, pairs)] == [
        ("diffusers-fp32", 1),
        ("onnxruntime", 1),
        ("onnxruntime", 2),
    ]
    assert 0 < ours["accuracy"]["relative_error"] < 1e-3  # both sides had the same prompt and latents
    for row in (theirs, ours):
        measured = {name: seconds for name, seconds in row["stages"].items() if name != "other"}
        assert all(
            measured[name] > 0 for name in ("tokenize", "encode", "generate", "denoise", "decode", "vocode", "write")
        )
        assert sum(measured.values()) == pytest.approx(row["median_s"], rel=0.1)  # nothing long is left out
        assert row["audio_s"] == pytest.approx(10.24)
        assert row["cold"]["start_s"] > sum(row["cold"][part] for part in ("import_s", "first_call_s"))
        assert row["peak_gib"] > 0.05
        assert "share_of_ceiling" not in row  # its operations are not those of the base size
    assert ours["times_as_fast"]["diffusers-fp32"] == pytest.approx(theirs["median_s"] / ours["median_s"])
    assert ours["small_start_s"] > 0
    assert pairs["batch_gain"] == pytest.approx(2 * pairs["one_prompt_median_s"] / pairs["median_s"])
    assert result["ceilings"][0]["flops"]["fp32"] > 1e9
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "diffusers-fp32" in printed
    assert json.loads(printed.splitlines()[-1])["benchmark"] == "latency"


@pytest.mark.parametrize(
    ("extra", "fragment"),
    [
        (["--contenders", "openvino-int8"], "it needs --int8-engines"),
        (["--int8-engines", "nowhere"], "nowhere is no bundle"),
        (["--checkpoint", "nowhere"], "nowhere is no checkpoint"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    extra: list[str], fragment: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *extra]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert fragment in error
    assert error.count("\n") == 1


def test_engines_without_their_checkpoint_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latency", "--engines", "somewhere"]) == 1
    assert "--checkpoint and --engines go together" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["latency", "--contenders", "nobody"])
    assert caught.value.code == 2
