"""Many prompts from one file: the same sound as alone, and one bad line loses no other."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.backends.onnxruntime import OrtEngine
from runtime.cli import main

FAST = ["--steps", "2", "--duration", "0.6"]


@pytest.fixture
def engines(bundle: Callable[[str], Path]) -> str:
    return str(bundle("plain"))


@pytest.fixture
def prompts(tmp_path: Path) -> Callable[..., str]:
    def write(*lines: str) -> str:
        path = tmp_path / "prompts.txt"
        path.write_text("\n".join(lines))
        return str(path)

    return write


def test_each_line_sounds_as_it_does_alone(engines: str, prompts: Callable[..., str], tmp_path: Path) -> None:
    """Prompts of unequal length, durations and seeds, in batches, ranked: byte for byte the single run's file."""
    long = "techno music with a strong upbeat tempo and high melodic riffs"
    file = prompts(
        "a dog",
        "",
        json.dumps({"prompt": long, "negative_prompt": "noise", "seed": 11}),
        json.dumps({"prompt": "rain", "duration": 0.4}),
        "  two birds sing  ",
    )
    pattern = str(tmp_path / "{line}-{index}-{seed}.wav")
    common = ["--engines", engines, "--num-waveforms", "2", "--seed", "5", "--steps", "2", "-q"]
    batch = ["--prompts-file", file, "--batch-size", "3", "-o", pattern, "--duration", "0.6", "--plot"]
    assert main([*batch, *common]) == 0
    alone = tmp_path / "alone.wav"
    singles = {
        "1-0-5": ["a dog", "--duration", "0.6"],
        "3-1-11": [long, "--negative-prompt", "noise", "--seed", "11", "--duration", "0.6"],
        "4-2-5": ["rain", "--duration", "0.4"],
        "5-3-5": ["two birds sing", "--duration", "0.6"],
    }
    assert {path.stem for path in tmp_path.glob("*.wav")} == set(singles)
    assert {path.stem for path in tmp_path.glob("*.png")} == set(singles)
    for name, arguments in singles.items():
        # the later --seed and --duration win
        assert main([*common, *arguments, "-o", str(alone)]) == 0
        import numpy as np
        import soundfile

        batch, single = soundfile.read(tmp_path / f"{name}.wav")[0], soundfile.read(alone)[0]
        assert np.linalg.norm(batch - single) <= 1e-3 * np.linalg.norm(single)
        assert np.abs(single).max() > 0.01


def test_bad_lines_are_named_and_the_others_are_made(
    engines: str, prompts: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = prompts(
        "good",
        '{"prompt": "x", "sed": 1}',
        '{"prompt": ',
        '{"negative_prompt": "x"}',
        '{"prompt": "x", "duration": 0}',
        '{"prompt": "y", "seed": -4}',
        "Good!",
        "also good",
    )
    arguments = [
        "--prompts-file",
        file,
        "--engines",
        engines,
        "-o",
        str(tmp_path / "{prompt}.wav"),
        "--batch-size",
        "4",
    ]
    assert main([*arguments, *FAST]) == 1
    output = capsys.readouterr()
    errors = output.err.splitlines()
    assert [line.split(": ")[1] for line in errors if line.startswith("error")] == [
        f"line {n}" for n in (2, 3, 4, 7, 6, 5)
    ]
    assert "`sed`" in errors[0]
    assert "line 1's file" in errors[3]
    assert sorted(path.name for path in tmp_path.glob("*.wav")) == ["also-good.wav", "good.wav"]
    assert output.out.splitlines()[-1].startswith("2 of 8 written, 1.20 s of audio in ")
    assert output.out.strip().endswith("failed: lines 2, 3, 4, 5, 6, 7")


def test_a_render_that_fails_loses_its_own_line_only(
    engines: str,
    prompts: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = OrtEngine.run

    def poisoned(self: OrtEngine, feeds: dict) -> dict:  # type: ignore[type-arg]
        outputs = dict(run(self, feeds))
        ids = feeds.get("input_ids")
        if ids is not None and "last_hidden_state" in outputs and ids.shape[1] > 40:
            outputs["last_hidden_state"] = outputs["last_hidden_state"] * float("nan")
        return outputs

    monkeypatch.setattr(OrtEngine, "run", poisoned)
    file = prompts("one", "two " * 40, "three")
    arguments = ["--prompts-file", file, "--engines", engines, "-o", str(tmp_path / "{line}.wav"), "--batch-size", "3"]
    assert main([*arguments, "--json", *FAST]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["written"] == 2
    assert lines[-1]["failed"] == [2]
    assert "text_encoder_2" in next(line["error"] for line in lines if line.get("number") == 2)
    assert sorted(path.name for path in tmp_path.glob("*.wav")) == ["1.wav", "3.wav"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["-o", "{nonsense}.wav"], "{nonsense}"),
        (["-o", "{.wav"], "pattern"),
        (["--batch-size", "0"], "batch-size"),
        (["--seed", "1,2"], "--seed"),
    ],
)
def test_wrong_flags_get_one_line(
    arguments: list[str], word: str, engines: str, prompts: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--prompts-file", prompts("a"), "--engines", engines, *arguments]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert word in lines[0]


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe\x00"])
def test_files_without_prompts_get_one_line(
    content: bytes | None, engines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content)
    assert main(["--prompts-file", str(file), "--engines", engines]) == 1
    assert "prompts.txt" in capsys.readouterr().err


def test_prompt_and_file_together_are_refused(prompts: Callable[..., str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["a dog", "--prompts-file", prompts("a")])
    assert exit_.value.code == 2
