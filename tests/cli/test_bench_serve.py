"""`python -m bench serve`: real loads on real servers over small random checkpoints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.serve.subjects import RIVAL, THEIRS
from tests.cli.serving import KEY, serving

SMALL = ["--mix", "0.64x2:2,0.64x3", "--seconds", "2", "--clients", "2"]


def result(arguments: list[str], out: Path) -> dict[str, Any]:
    file = out / "found.json"
    assert main(["serve", *arguments, "--json", str(file)]) == 0
    found: dict[str, Any] = json.loads(file.read_text())
    assert found["benchmark"] == "serve"
    return found


def test_a_server_of_the_users_own(
    bundle: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "loads.png"
    with serving(bundle("plain"), "--max-batch", "2", "--warm-up", "0.64", "--api-key", KEY) as server:
        capsys.readouterr()  # what making the bundle said
        address = ["--url", f"http://127.0.0.1:{server.port}", *SMALL]
        assert main(["serve", *address, "--out", str(tmp_path / "none")]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert "answered 401 to every request" in error
        assert error.count("\n") == 1
        found = result([*address, "--api-key", KEY, "--rates", "4", "--plot", str(picture)], tmp_path)
    closed, offered = found["rows"]
    assert (closed["subject"], closed["load"], closed["offered"]) == (THEIRS, "closed", 2)
    assert (offered["load"], offered["offered"]) == ("open", 4.0)
    for row in (closed, offered):
        assert row["statuses"] == {"200": row["requests"]}
        assert 0 < row["latency_s"]["p50"] <= row["latency_s"]["p99"] < 30
        assert 0 <= row["queue_s"]["p50"] < row["latency_s"]["p99"]
        assert 0 < row["first_byte_s"]["p50"] <= row["latency_s"]["p50"]
        assert row["audio_s_a_second"] == pytest.approx(0.64 * row["served_a_second"])
    assert closed["served_a_second"] > 0.5
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "2 back to back" in capsys.readouterr().out


def test_ours_and_the_rival_get_the_same_load(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folders = ["--engines", str(bundle("plain")), "--checkpoint", str(checkpoint("plain"))]
    short = ["--mix", "0.64x2", "--seconds", "1", "--clients", "1", "--without", "plain"]
    found = result([*folders, *short, "--serve-flags=--warm-up 0.64"], tmp_path)
    rows = {(row["subject"], row["load"], row["offered"]): row for row in found["rows"]}
    ours = "ours --warm-up 0.64"
    rates = [offered for subject, load, offered in rows if (subject, load) == (ours, "open")]
    most = rows[ours, "closed", 1]["served_a_second"]
    assert rates == pytest.approx([share * most for share in (0.25, 0.5, 0.75, 0.9)])
    for rate in rates:
        mine, other = rows[ours, "open", rate], rows[RIVAL, "open", rate]
        assert mine["requests"] == other["requests"]
    for row in rows.values():
        assert row["statuses"] in ({"200": row["requests"]}, {})  # at the lowest rate nothing may arrive in a second
        assert row["audio_s_a_second"] == pytest.approx(0.64 * row["served_a_second"])
        assert row["server_cpu_s"] is None or 0 < row["server_cpu_s"] < 10
    theirs = rows[RIVAL, "closed", 1]
    assert found["against_rival"][ours]["saturation"] == pytest.approx(most / theirs["served_a_second"])
    assert theirs["queue_s"] is None


def test_what_a_request_costs_beside_a_bare_call(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    found = result(["--engines", str(bundle("plain")), "--overhead", "--mix", "0.64x2", "--seconds", "0.1"], tmp_path)[
        "overhead"
    ]
    assert found["pairs"] == 4
    assert 0 < found["bare_s"]["p50"] < 30
    assert 0 < found["served_s"]["p50"] < 30
    assert abs(found["difference_s"]) < 10


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ([], "--engines is missing"),
        (["--engines", "nowhere"], "nowhere is no bundle"),
        (["--url", "http://127.0.0.1:9", "--engines", "nowhere"], "--url measures a server that runs"),
        (["--url", "http://127.0.0.1:9"], "answered ClientConnectorError to every request"),
        (["--url", "nonsense"], "answered InvalidUrlClientError to every request"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    arguments: list[str], fragment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *arguments, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert fragment in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_rival_needs_weights(bundle: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    engines = ["--engines", str(bundle("plain"))]
    capsys.readouterr()
    assert main(["serve", *engines]) == 1
    assert "--checkpoint is missing" in capsys.readouterr().err
    assert main(["serve", *engines, "--checkpoint", "nowhere"]) == 1
    assert "nowhere is no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--mix", "2x"], ["--rates", "1,0"], ["--clients", "0"], ["--seconds", "nan"], ["--ulr", "x"]]
)
def test_a_wrong_flag_is_one_line(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", *wrong])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
