"""The program with a sound that is given: what it writes, what it keeps, what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from runtime.cli import main

RATE = 16_000
FEW = ["rain falls", "--steps", "4", "--seed", "3", "-q"]


@pytest.fixture
def engines(bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_AUDIOLDM2_ENGINES", str(bundle("plain")))


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A loud sound in 16 bits, of which every value may come."""
    rng = np.random.default_rng()
    path, samples = tmp_path / "given.wav", rng.integers(-32768, 32768, int(1.5 * RATE)).astype(np.int16)
    soundfile.write(path, samples, RATE)
    return path


def integers(path: Path) -> np.ndarray:
    return np.asarray(soundfile.read(path, dtype="int16")[0])


def test_a_variation_has_the_sounds_length(engines: None, given: Path, tmp_path: Path) -> None:
    outs = [tmp_path / f"{i}.wav" for i in range(3)]
    for out, strength in zip(outs, ("0.3", "0.3", "0.9"), strict=True):
        assert main([*FEW, "--audio", str(given), "--strength", strength, "-o", str(out)]) == 0
    first, again, other = map(integers, outs)
    assert len(first) == len(integers(given))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_is_kept_is_the_same_in_the_file(engines: None, given: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "out.flac", integers(given)
    ranges = ["--inpaint", "0.2:0.4", "--inpaint", "1:1.1"]
    assert main([*FEW, "--audio", str(given), *ranges, "-o", str(out)]) == 0
    after, kept = integers(out), np.ones(len(before), bool)
    kept[3_200:6_400] = kept[16_000:17_600] = False
    np.testing.assert_array_equal(after[kept], before[kept])
    assert not np.array_equal(after[~kept], before[~kept])


@pytest.mark.parametrize(("flag", "start", "length"), [("0.6", 0, 2.1), ("0.3:0.5", 0.3, 2.3), ("0.7:0", 0.7, 2.2)])
def test_a_sound_goes_on(flag: str, start: float, length: float, engines: None, given: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "out.wav", integers(given)
    assert main([*FEW, "--audio", str(given), "--extend", flag, "-o", str(out)]) == 0
    after, first = integers(out), round(start * RATE)
    assert len(after) == pytest.approx(length * RATE, abs=2)
    np.testing.assert_array_equal(after[first : first + len(before)], before)


def test_loops_windows_weights_and_finish(engines: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, quiet = tmp_path / "out.wav", FEW[:-1]
    flags = ["--loop", "--window", "0.64", "--prompt-weights", "--fade", "0.1:0.2", "--sample-rate", "44100", "--json"]
    assert main(["(rain:1.2)", *quiet[1:], "--duration", "1.5", *flags, "-o", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["duration_s"] == pytest.approx(1.52, abs=1e-3)  # whole rows of latents
    samples, rate = soundfile.read(out)
    assert (rate, len(samples)) == (44_100, 67_032)
    assert abs(samples[0]) < 1e-4
    assert abs(samples[-1]) < 1e-3


def test_a_file_of_prompts_over_one_sound(engines: None, given: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("rain\nwind\n")
    arguments = ["--prompts-file", str(prompts), "--audio", str(given), "--strength", "0.5", "--steps", "4", "-q"]
    assert main([*arguments, "--batch-size", "2", "-o", str(tmp_path / "{prompt}.wav")]) == 0
    assert {len(integers(tmp_path / f"{name}.wav")) for name in ("rain", "wind")} == {len(integers(given))}
    before = given.read_bytes()
    assert main([*arguments, "-o", str(given)]) == 1
    assert given.read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-o", "GIVEN"], "is the sound that is read"),
        (["-o", "LINK"], "is the sound that is read"),
        (["--strength", "0.2"], "--strength 0.2 leaves none of 4 steps"),
        (["--inpaint", "1:0.5"], "--inpaint: 1 to 0.5 s is no range"),
        (["--inpaint", "1:2"], "--inpaint: 1 to 2 s is outside of the audio, which has 1.500 s"),
        (["--duration", "2"], "--duration cannot be given together with audio"),
        (["--fade", "1"], "--fade takes 2 s, the sound has 1.5 s"),
        (["--extend", "1", "--strength", "0.5"], "--strength has to be 1 with --extend"),
        (["--audio", "MISSING"], "no such file"),
    ],
    ids=str,
)
def test_what_is_refused(
    flags: list[str], words: str, engines: None, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link.wav").symlink_to(given)
    places = {"GIVEN": given, "LINK": tmp_path / "link.wav", "MISSING": tmp_path / "missing.wav"}
    before, out = given.read_bytes(), tmp_path / "out.wav"
    arguments = [str(places.get(flag, flag)) for flag in flags]
    output = [] if "-o" in flags else ["-o", str(out)]
    assert main([*FEW, "--audio", str(given), *arguments, *output]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert given.read_bytes() == before
    assert not out.exists()


def test_an_older_bundle_says_what_adds_the_encoder(
    given: Path, tmp_path: Path, bundle: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(bundle("plain"), tmp_path / "older"))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["engines"]["vae_encoder"], manifest["audio"]["mel"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    out = ["-o", str(tmp_path / "out.wav"), "--engines", str(folder)]
    assert main([*FEW, "--duration", "0.64", *out]) == 0
    assert main([*FEW, "--audio", str(given), *out]) == 1
    assert "--only-missing" in capsys.readouterr().err


def test_an_older_language_model_says_what_mends_it(
    tmp_path: Path, bundle: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(bundle("plain"), tmp_path / "older"))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["engines"]["language_model"]["inputs"]["positions"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert main([*FEW, "--duration", "0.64", "-o", str(tmp_path / "out.wav"), "--engines", str(folder)]) == 1
    assert "'language_model' of an older version; rebuild: python -m export build" in capsys.readouterr().err
