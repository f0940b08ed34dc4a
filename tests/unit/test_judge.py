"""The judge knows real sounds that it was not trained on, whatever their level, and learns from the training split."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from bench.figures import recognition
from bench.judge import WEIGHTS, Judge, load_judge, save_judge, training
from bench.judge.__main__ import main
from bench.judge.network import Network
from bench.sounds import RealClips, real_clips
from export.demo import sounds
from export.demo.sounds import CLASSES, SYNTHESISED_CLASSES
from runtime.errors import InputError
from tests.unit.helpers import raises_line


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


@pytest.fixture(scope="module")
def clips() -> RealClips:
    """Two of each class, other ones in every run."""
    return real_clips(SYNTHESISED_CLASSES, 2, int(np.random.default_rng().integers(2**31)), 2.56)


def rate(judge: Judge, audios: np.ndarray, clips: RealClips, sample_rate_hz: int = 16_000) -> float:
    found = recognition(judge.recognise(audios, sample_rate_hz), clips.names, judge.classes)
    return float(found["rate"])


def test_held_out_sounds_are_recognised_at_any_level(judge: Judge, clips: RealClips) -> None:
    for gain in (1.0, 0.1, 4.0):
        assert rate(judge, gain * clips.audios, clips) > 0.93, gain


def test_it_hears_rather_than_guesses(judge: Judge, clips: RealClips) -> None:
    """Played backwards, rising chirps fall; as noise of the same spectrum, rhythms are gone."""
    by_class = recognition(judge.recognise(clips.audios[:, ::-1].copy(), 16_000), clips.names, judge.classes)[
        "by_class"
    ]
    assert by_class["rising_chirp"] == by_class["falling_chirp"] == 0.0
    spectrum = np.fft.rfft(clips.audios)
    phases = np.exp(2j * np.pi * np.random.default_rng().uniform(size=spectrum.shape))
    scrambled = np.fft.irfft(np.abs(spectrum) * phases, clips.audios.shape[1]).astype(np.float32)
    assert rate(judge, scrambled, clips) < 0.5


def test_other_rates_are_resampled(judge: Judge, clips: RealClips) -> None:
    finer = np.repeat(clips.audios[:10], 2, axis=1)  # held samples: an image above 8 kHz, which resampling removes
    names = RealClips(finer, clips.names[:10], clips.captions[:10])
    assert rate(judge, finer, names, 32_000) > 0.8


def test_what_cannot_be_judged_is_one_line(judge: Judge, tmp_path: Path) -> None:
    with raises_line(InputError, "2 s"):
        judge.recognise(np.zeros((1, 16_000), np.float32), 16_000)
    with raises_line(InputError, "NaN"):
        judge.features(np.full((1, 40_000), np.nan, np.float32), 16_000)
    with raises_line(InputError, "(rows, samples)"):
        judge.recognise(np.zeros(40_000, np.float32), 16_000)
    with raises_line(InputError, "no judge", "python -m bench.judge"):
        load_judge(tmp_path / "none.safetensors")


def test_a_judge_of_other_classes_is_refused(tmp_path: Path) -> None:
    save_judge(Judge(Network(2), ("bell", "rain")), tmp_path / "small.safetensors")
    with raises_line(InputError, "other classes", "python -m bench.judge"):
        load_judge(tmp_path / "small.safetensors")


def test_it_is_trained_on_the_training_split_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def draw(name: str, rng: np.random.Generator, split: sounds.Split, seconds: float) -> sounds.Clip:
        asked.append(split)
        return sounds.draw(name, rng, split, seconds)

    monkeypatch.setattr(training, "draw", draw)
    monkeypatch.setattr(training, "CLASSES", SYNTHESISED_CLASSES[:4])
    judge, steps = training.train(clips_per_class=20, seed=3, minutes=0.01)
    assert set(asked) == {"train"}
    assert steps > 0
    assert judge.classes == SYNTHESISED_CLASSES[:4]


def test_disturbing_keeps_shape_and_range_and_changes_every_row() -> None:
    mel = torch.randn(6, 100, 64) - 4
    found = training.disturbed(mel, torch.Generator().manual_seed(1))
    assert found.shape == mel.shape
    assert torch.isfinite(found).all()
    assert found.min() >= training.SILENCE
    assert ((found - mel).abs().mean(dim=(1, 2)) > 0.1).all()


def test_the_command_writes_a_judge_and_reports_on_held_out_sounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, threads = tmp_path / "judge.safetensors", torch.get_num_threads()
    try:
        arguments = ["--clips-per-class", "1", "--minutes", "0.01", "--examined", "1", "--out", str(file)]
        assert main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert f"chance is {100 / len(CLASSES):.1f} %" in printed
    for seconds in ("2.56", "2", "5.12", "10"):
        assert f"\n{seconds} s: " in printed
    assert load_judge(file).classes == CLASSES


def test_it_ships_with_what_it_was_made_from() -> None:
    with safetensors.safe_open(WEIGHTS, "pt") as stored:
        assert {"classes", "clips_per_class", "seed", "steps"} <= set(stored.metadata())
    assert WEIGHTS.stat().st_size < 1e6
