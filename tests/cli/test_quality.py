"""`python -m bench quality`: what it prints and keeps, on small random checkpoints and real sounds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import pareto, quality
from bench.__main__ import main
from bench.sound_makers import OurSounds, ReferenceSounds, Setting
from bench.sounds import real_clips
from export.demo.sounds import SYNTHESISED_CLASSES, draw

CLASSES = ("rising_chirp", "clock", "siren")


@pytest.fixture
def small(bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], tmp_path: Path) -> list[str]:
    """Arguments for a small run of a random checkpoint against diffusers."""
    return [
        *("quality", "--engines", str(bundle("plain")), "--reference", str(checkpoint("plain")), "--seeds", "2"),
        *("--steps", "2", "--only", *CLASSES, "--json", str(tmp_path / "found.json")),
    ]


def found(arguments: list[str]) -> dict[str, Any]:
    assert main(arguments) == 0
    result: dict[str, Any] = json.loads(Path(arguments[arguments.index("--json") + 1]).read_text())
    return result


def test_real_sounds_are_the_ceiling_and_diffusers_stands_beside(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    result = found([*small, "--guidance", "2", "--scheduler", "DPMSolverMultistepScheduler"])
    real, ours, theirs = result["rows"]
    printed = capsys.readouterr().out
    assert [row["name"].split(":")[0] for row in result["rows"]] == ["real sounds", "ours", "diffusers"]
    assert real["rate"] == 1.0
    assert set(real["by_class"]) == set(CLASSES)
    assert ours["rate"] < 0.5  # random weights know no sounds
    assert ours["by_class"] == theirs["by_class"]  # the same latents, the same waveforms
    assert ours["frechet_distance"] == pytest.approx(theirs["frechet_distance"], rel=1e-2)
    assert ours["clap"] == pytest.approx(theirs["clap"], abs=1e-3)
    assert ours["frechet_distance"] > 3 * real["frechet_distance"]
    assert (ours["scheduler"], ours["steps"], ours["guidance"]) == ("DPMSolverMultistepScheduler", 2, 2.0)
    assert result["chance"] == pytest.approx(1 / 70)
    assert {"commit", "machine", "versions"} <= set(result)
    for text in ("DPMSolverMultistep 2, guidance 2", "rising_chirp", "chance is 1.4 %", "real sounds"):
        assert text in printed


def test_the_sweep_has_a_row_of_each_setting(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (Setting("DDIMScheduler", 2), Setting("DPMSolverMultistepScheduler", 3, negative="Low quality."))
    monkeypatch.setattr(quality, "SWEEP", settings)
    small = [*small[:5], "--seeds", "1", "--sweep", *small[9:]]
    rows = found(small)["rows"][1:]
    assert [(row["contender"], row["scheduler"], row["steps"], row["negative"]) for row in rows] == [
        (name, setting.scheduler, setting.steps, setting.negative)
        for setting in settings
        for name in ("ours", "diffusers")
    ]


def test_the_round_trip_shows_what_vocoder_and_autoencoder_lose(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, kept = str(checkpoint("plain")), str(tmp_path / "x.json")
    result = found(["quality", "--round-trip", folder, "--seeds", "1", "--only", *CLASSES, "--json", kept])
    assert [row["name"] for row in result["rows"]] == ["real sounds", "vocoder", "autoencoder, vocoder"]
    assert result["rows"][0]["rate"] == 1.0


def test_both_contenders_make_the_same_waveform(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    setting = Setting("DPMSolverMultistepScheduler", 3, 3.5, "Low quality.")
    captions, seeds = ["here is a low siren", "it sounds like rain"], [3, 4]
    ours = OurSounds(bundle("plain"))
    first = ours.render(captions, seeds, 2.0, setting)
    second = ReferenceSounds(checkpoint("plain")).render(captions, seeds, 2.0, setting)
    ours.close()
    assert np.abs(first).max() > 0.01
    assert np.linalg.norm(first - second) < 1e-3 * np.linalg.norm(second)


def test_captions_and_sounds_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("bench.sounds.draw", lambda *given: asked.append(given[2]) or draw(*given))
    clips = real_clips(SYNTHESISED_CLASSES[:2], 3, 1, 2.56)
    assert set(asked) == {"held_out"}
    assert all(caption.split()[0] in {"we", "here", "it", "you"} for caption in clips.captions)  # no training template


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--only", "meowing"], "no class of sounds 'meowing'"),
        (["--sweep", "--steps", "3"], "--sweep leaves no choice of steps"),
        (["--feature-cache", "2", "--reference", "."], "--feature-cache is ours alone"),
        (["--sweep", "--feature-cache", "2"], "--sweep leaves no choice of feature_cache"),
        (["--seconds", "1"], "2 to 30 seconds"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    arguments: list[str], fragment: str, bundle: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quality", "--engines", str(bundle("plain")), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert fragment in error
    assert error.count("\n") == 1


def test_a_folder_that_is_no_checkpoint_and_a_speech_bundle_are_refused(
    bundle: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quality", "--round-trip", str(tmp_path), "--seeds", "1", "--only", "siren"]) == 1
    assert "model_index.json" in capsys.readouterr().err
    assert main(["quality", "--engines", str(bundle("letters")), "--seeds", "1", "--only", "siren"]) == 1
    assert "speech checkpoint" in capsys.readouterr().err
    assert main(["quality", "--round-trip", str(tmp_path), "--reference", str(tmp_path)]) == 1
    assert "--reference" in capsys.readouterr().err


def test_the_pareto_front_of_two_bundles(
    bundle: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pareto, "CLASSES", dict.fromkeys(CLASSES))
    monkeypatch.setattr(pareto, "SETTINGS", (Setting("DDIMScheduler", 3), Setting("DDIMScheduler", 1)))
    folders = [str(bundle(name)) for name in ("plain", "one_width")]
    common = ["pareto", "--seeds", "1", "--seconds", "2", "--runs", "2", "--json", str(tmp_path / "found.json")]
    rows = found([*common, "--engines", *folders, "--plot", str(tmp_path / "front.png")])["rows"]
    assert [(row["contender"], row["steps"]) for row in rows] == [
        (name, n) for name in ("plain", "one_width") for n in (3, 1)
    ]
    assert all(row["median_s"] > 0 and len(row["by_class"]) == len(CLASSES) for row in rows)
    assert any(row["on_frontier"] for row in rows)
    assert (tmp_path / "front.png").stat().st_size > 1000
    assert "* " in capsys.readouterr().out
    assert main([*common, "--engines", folders[0], folders[0]]) == 1
    assert "have the same" in capsys.readouterr().err
