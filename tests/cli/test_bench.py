"""Every other benchmark runs from end to end: small weights and few steps, for what it prints and keeps.

`latency` and `quality` have files of their own.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import kvcache, memory, step
from bench.__main__ import main
from bench.gpu import contest
from tests.checkpoints import SMALL


def result(arguments: list[str], out: Path) -> dict[str, Any]:
    assert main([*arguments, "--out", str(out)]) == 0
    (file,) = out.iterdir()
    found: dict[str, Any] = json.loads(file.read_text())
    assert found["benchmark"] == arguments[0]
    return found


def test_step_times_both_sides_of_the_same_unet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = ("block_out_channels", "down_block_types", "up_block_types")
    unet = {name: SMALL["one_width"]["unet"][name] for name in levels}  # two levels; to both texts, as at base size
    monkeypatch.setattr(
        step, "BASE", {"gpt2": {}, "t5": {}, "unet": {**unet, "cross_attention_dim": [[None, 48, 64]] * 2}}
    )
    found = result(["step", "--runs", "1", "--height", "8"], tmp_path)
    assert found["sizes"] == {"batch": 2, "height": 8, "tokens": step.TOKENS, "new_tokens": 8}
    assert 0 < found["relative_error"] < 1e-3
    ours, theirs = (found["times"][name]["median_s"] for name in ("onnxruntime fp32", "diffusers eager fp32"))
    assert found["ratio"] == pytest.approx(ours / theirs)


def test_kvcache_generates_the_same_with_the_cache_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvcache, "BASE", {"gpt2": {"n_embd": 48}})
    found = result(["kvcache", "--new-tokens", "5", "--length", "7"], tmp_path)
    assert 0 < found["relative_error"] < 1e-4
    assert set(found["seconds"]) == {"key-value cache", "full recompute"}


def test_memory_measures_ours_and_the_reference(
    tmp_path: Path, bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    folders = ["--checkpoint", str(checkpoint("plain")), "--engines", str(bundle("plain"))]
    rows = result(["memory", *folders, "--durations", "0.64"], tmp_path)["cases"]
    assert [row["name"] for row in rows] == ["ours", "ours, low_memory", memory.REFERENCE]
    assert all(0.05 < row["after_gib"] <= row["peak_gib"] for row in rows), rows


def test_memory_leaves_out_what_does_not_fit_and_names_what_fails(
    tmp_path: Path, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes = iter([2**60, 2**60, 1])
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: next(free_bytes))
    monkeypatch.setattr(memory, "in_a_process", lambda *_: {"failed": "OSError: no such file"})
    folders = ["--checkpoint", str(tmp_path / "none"), "--engines", str(bundle("plain"))]
    rows = result(["memory", *folders, "--durations", "0.64"], tmp_path / "out")["cases"]
    assert [row.get("failed") for row in rows] == ["OSError: no such file"] * 2 + [None]
    assert rows[2]["skipped"].startswith("may need ")


def test_gpu_without_a_gpu_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contest, "gpu", lambda: None)
    assert main(["gpu", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.err == "error: no NVIDIA GPU was found here: this benchmark needs one and its driver\n"
    assert not printed.out
    assert not list(tmp_path.iterdir())
