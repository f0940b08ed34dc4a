"""The program as people run it: what it writes, what it says, what it refuses."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from runtime.cli import main
from runtime.install import install_command

PROMPT = "rain falls on a tin roof"
FAST = ["--steps", "2", "--duration", "0.5"]


@pytest.fixture
def engines(bundle: Callable[[str], Path]) -> Path:
    return bundle("plain")


@pytest.fixture
def copy(engines: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage: hard links where it will not write."""
    return Path(shutil.copytree(engines, tmp_path / "copy"))


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run with arguments that must fail: status 1, nothing on stdout, one line on stderr that holds the words."""
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert output.out == ""
    lines = [line for line in output.err.splitlines() if line]
    assert len(lines) == 1, output.err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    return lines[0]


def test_writes_a_file_and_one_line(engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rain.wav"
    assert main([PROMPT, "--engines", str(engines), "-o", str(out), "--seed", "7", *FAST]) == 0
    line = capsys.readouterr().out.strip()
    assert re.fullmatch(
        rf'.*rain\.wav: "{re.escape(PROMPT)}", 0\.50 s, seed 7'
        r" \| onnxruntime \| load .* s, encode .* s, denoise .* s, decode .* s, vocode .* s"
        r" \| real-time factor \d+\.\d\d",
        line,
    )
    info = soundfile.info(out)
    assert (info.samplerate, info.frames, info.subtype, info.channels) == (16_000, 8_000, "PCM_16", 1)
    assert np.abs(soundfile.read(out)[0]).max() > 0.01


def test_plot_writes_a_picture_beside_the_file_and_says_so(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([PROMPT, "--engines", str(engines), "-o", str(tmp_path / "rain.wav"), "--plot", *FAST]) == 0
    assert f"{tmp_path / 'rain.wav'} and {tmp_path / 'rain.png'}: " in capsys.readouterr().out
    assert (tmp_path / "rain.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_matplotlib_is_refused_before_the_render(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments = [PROMPT, "--engines", str(engines), "-o", str(tmp_path / "rain.wav"), "--plot", *FAST]
    refused(arguments, capsys, install_command("plot"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "flags", "subtype"), [("a.wav", ["--float"], "FLOAT"), ("a.flac", [], "PCM_16"), ("A.WAV", [], "PCM_16")]
)
def test_extension_and_float_pick_the_format(
    name: str, flags: list[str], subtype: str, engines: Path, tmp_path: Path
) -> None:
    assert main([PROMPT, "--engines", str(engines), "-o", str(tmp_path / name), "-q", *flags, *FAST]) == 0
    assert soundfile.info(tmp_path / name).subtype == subtype


def test_the_printed_seed_reproduces_the_file(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.wav", tmp_path / "second.wav"
    assert main([PROMPT, "--engines", str(engines), "-o", str(first), "--json", *FAST]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["file"] == str(first)
    assert summary["duration_s"] == 0.5
    again = ["--seed", str(summary["seed"]), "-o", str(second), "--quiet"]
    assert main([PROMPT, "--engines", str(engines), *again, *FAST]) == 0
    assert first.read_bytes() == second.read_bytes()
    assert capsys.readouterr().out == ""


def test_several_waveforms_are_ranked_and_the_best_is_kept(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "best.wav"
    arguments = [PROMPT, "--engines", str(engines), "-o", str(out), "--num-waveforms", "3", "--seed", "1,2,3", "--json"]
    assert main([*arguments, *FAST]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert sorted(summary["seed"]) == [1, 2, 3]
    assert -1 <= summary["score"] <= 1
    assert "rank" in summary["timings_s"]


def test_finds_the_bundle_by_variable_or_as_the_only_one(
    engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRT_AUDIOLDM2_ENGINES", raising=False)
    refused([PROMPT, *FAST], capsys, "python -m export build --checkpoint cvssp/audioldm2")
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "one").symlink_to(engines)
    assert main([PROMPT, "-q", *FAST]) == 0
    assert (tmp_path / "output.wav").is_file()
    (tmp_path / "engines" / "two").symlink_to(engines)
    refused([PROMPT, *FAST], capsys, "engines/one, engines/two", "--engines")
    monkeypatch.setenv("TRT_AUDIOLDM2_ENGINES", str(engines))
    assert main([PROMPT, "-q", *FAST]) == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", "0"], ["--steps", "0"]),
        (["--steps", "1001"], ["--steps", "1001", "1000"]),
        (["--steps", "1000"], ["1000", "steps_offset"]),
        (["--duration", "0"], ["--duration", "0.04"]),
        (["--duration", "-3"], ["--duration", "-3"]),
        (["--duration", "nan"], ["--duration", "nan"]),
        (["--duration", "1e6"], ["GiB", "fit"]),
        (["--guidance-scale", "nan"], ["--guidance-scale", "nan"]),
        (["--guidance-interval", "0.5:0.2"], ["--guidance-interval", "start"]),
        (["--feature-cache", "0"], ["--feature-cache", "0"]),
        (["--feature-cache", "2", "--low-memory"], ["--feature-cache", "--low-memory"]),
        (["--precision", "int4"], ["int4", "fp32"]),
        (["--backend", "tensorflow"], ["tensorflow", "openvino"]),
        (["--num-waveforms", "0"], ["--num-waveforms", "0"]),
        (["--num-waveforms", "100000"], ["GiB"]),
        (["--eta", "1.5"], ["--eta", "1.5"]),
        (["--seed", "1,2"], ["--seed", "2 values"]),
        (["--seed", "-1"], ["--seed", "-1"]),
        (["--threads", "0"], ["--threads", "0"]),
        (["--scheduler", "dpmp_2m"], ["dpmp_2m", "did you mean", "euler_a"]),
        (["--engines", ""], ["--engines is empty"]),
    ],
    ids=str,
)
def test_wrong_values_get_one_line(
    flags: list[str], words: list[str], engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.wav"
    refused([PROMPT, "--engines", str(engines), "-o", str(out), *FAST, *flags], capsys, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--stepz", "3"], "did you mean --steps?"),
        (["--step=3"], "did you mean --steps?"),
        (["--zzz"], "unknown flag '--zzz'"),
        (["--guidance-interval", "1"], "0.2:0.8"),
        (["--guidance-interval", "a:b"], "--guidance-interval: has to be a number"),
        (["--guidance-scale", "-1e5"], "--flag=-1"),
        (["--steps", "1.5"], "--steps: has to be a whole number"),
        (["--steps", "9" * 5000], "--steps: has to be a whole number"),
        (["--seed", "1,b"], "--seed: has to be a whole number"),
        (["two"], "unrecognized arguments: two"),
        (["-rain"], "goes after --"),
        (["-ocean waves"], "goes after --"),
        (["--prompts-file", "x"], "either a PROMPT or --prompts-file"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_command_line_gets_one_line(flags: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([PROMPT, *flags])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert word in line
    assert "usage: trt-audioldm2" in line
    assert len(line) < 500


def test_no_prompt_at_all_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--prompts-file" in line


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.aiff", [".opus or .mp3"]),
        ("none/a.wav", ["does not exist"]),
        ("folder.wav", ["is a folder"]),
        ("x.wav/", ["not the name of a file"]),
    ],
)
def test_outputs_that_cannot_be_written_are_refused_before_the_work(
    name: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.wav").mkdir()
    refused([PROMPT, "--engines", "no-such-bundle", "-o", f"{tmp_path}/{name}"], capsys, *words)


def test_damaged_bundles_are_refused(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [PROMPT, "--engines", str(copy), "-o", str(tmp_path / "x.wav"), *FAST]
    unet = copy / "unet.onnx"
    whole = unet.read_bytes()
    unet.write_bytes(whole[:1000])
    refused(arguments, capsys, "unet.onnx has 1000 bytes", "rebuild: python -m export build --checkpoint plain")
    unet.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    refused(arguments, capsys, "unet.onnx was altered", "rebuild")
    unet.unlink()
    refused(arguments, capsys, "unet.onnx is missing", "rebuild")
    (copy / "manifest.json").write_text("{")
    refused(arguments, capsys, "manifest.json cannot be read")
    assert not (tmp_path / "x.wav").exists()


def test_a_stage_that_gives_nan_stops_the_run(
    engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from runtime.backends.onnxruntime import OrtEngine

    run = OrtEngine.run

    def poisoned(self: OrtEngine, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = dict(run(self, feeds))
        if "mel" in outputs:
            outputs["mel"] = outputs["mel"].copy()
            outputs["mel"].flat[5] = np.nan
        return outputs

    monkeypatch.setattr(OrtEngine, "run", poisoned)
    out = tmp_path / "x.wav"
    refused([PROMPT, "--engines", str(engines), "-o", str(out), *FAST], capsys, "vae_decoder", "NaN")
    assert not out.exists()


def test_debug_adds_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([PROMPT, "--engines", str(tmp_path), "--debug", "-o", str(tmp_path / "x.wav")]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_cut_prompt_is_quoted(engines: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runtime.cli", "drum " * 600 + "zebra", "--engines", str(engines)]
    run = subprocess.run(
        [*command, "-o", str(tmp_path / "x.wav"), *FAST], capture_output=True, text=True, timeout=120, check=True
    )
    warnings = [line for line in run.stderr.splitlines() if line.startswith("WARNING: the prompt is cut")]
    assert len(warnings) == 2
    assert all("zebra" in line for line in warnings)


TELLS_ITS_STEPS = """
import sys
from runtime import cli
from runtime.diffusion import denoise
advance = denoise.advance
def telling(*arguments):
    print("step", file=sys.stderr, flush=True)
    return advance(*arguments)
denoise.advance = telling
sys.exit(cli.main(sys.argv[1:]))
"""


def test_ctrl_c_ends_cleanly(engines: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TELLS_ITS_STEPS, PROMPT, "--engines", str(engines), "--steps", "900"]
    with subprocess.Popen(
        [*command, "-o", str(tmp_path / "x.wav")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "step\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.strip().endswith("interrupted: no file was written")
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_version_and_help_answer_without_a_bundle() -> None:
    environment = {**os.environ, "PYTHONPATH": ""}
    for flag in ("--version", "--help"):
        run = subprocess.run(
            [sys.executable, "-m", "runtime.cli", flag], capture_output=True, text=True, env=environment, check=True
        )
        assert "trt-audioldm2" in run.stdout
