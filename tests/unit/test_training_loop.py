"""Training can be stopped at any moment and keeps the average; its spectrogram is of the published kind."""

import itertools
import time
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from torch import nn

from export.demo.training.mel import QUIETEST, log_mel
from export.loop import Losses, Plan, averaged, train

PLAN = Plan(steps=30, batch=8, learning_rate=1e-2, warmup=3)


def modules(seed: int = 0) -> nn.ModuleDict:
    torch.manual_seed(seed)
    return nn.ModuleDict({"first": nn.Linear(5, 7), "second": nn.Linear(7, 1)})


def fit(parts: nn.ModuleDict, file: Path, plan: Plan = PLAN, minutes: float = 1e9) -> bool:
    """Learn the sum of five numbers, with noise from torch's own generator."""

    def losses(rng: np.random.Generator, batch: int) -> Losses:
        given = torch.from_numpy(rng.normal(size=(batch, 5)).astype(np.float32))
        found = parts["second"](torch.tanh(parts["first"](given + 0.1 * torch.randn_like(given))))
        return {"loss": (found[:, 0] - given.sum(1)).square().mean()}

    return train(file, parts, plan, losses, minutes)


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parted = tmp_path / "whole.pt", tmp_path / "parted.pt"
    assert fit(modules(), whole)
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))  # a second passes whenever one looks
    assert not fit(modules(), parted, minutes=0.4)
    first = torch.load(parted)["step"]
    assert 0 < first < PLAN.steps / 2
    assert not fit(modules(seed=1), parted, minutes=0.4)  # the new weights give way to the file's
    assert first < torch.load(parted)["step"] < PLAN.steps
    assert fit(modules(seed=2), parted)
    for part in ("first", "second"):
        torch.testing.assert_close(averaged(parted)[part], averaged(whole)[part], rtol=0, atol=0)


def test_the_average_follows_the_weights(tmp_path: Path) -> None:
    parts = modules()
    start = parts["first"].weight.detach().clone()
    fit(parts, tmp_path / "x.pt", Plan(steps=200, batch=8, learning_rate=1e-2, warmup=3, ema=0.9))
    kept, now = averaged(tmp_path / "x.pt")["first"]["weight"], parts["first"].weight.detach()
    assert (kept - now).norm() < 0.2 * (start - now).norm()
    assert not torch.equal(kept, now)


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    plan = Plan(steps=1000, batch=1, learning_rate=0.5, warmup=100, decay=0.25)
    rates = np.array([plan.rate(step) for step in range(1000)])
    assert rates[0] == pytest.approx(0.005)
    assert (np.diff(rates[:100]) > 0).all()
    assert rates[100:750] == pytest.approx(0.5)
    assert (np.diff(rates[750:]) < 0).all()
    assert 0 < rates[-1] < 0.01


def test_log_mel_is_the_magnitude_mel_of_librosa() -> None:
    audio = np.random.default_rng().normal(0, 0.1, (2, 4800)).astype(np.float32)
    expected = librosa.feature.melspectrogram(
        y=audio, sr=16_000, n_fft=1024, hop_length=160, n_mels=64, power=1.0, pad_mode="reflect"
    )  # (rows, 64, 31)
    found = log_mel(torch.from_numpy(audio)).numpy()
    assert found.shape == (2, 30, 64)
    np.testing.assert_allclose(np.exp(found), expected.swapaxes(1, 2)[:, :30], rtol=1e-3)


def test_silence_has_a_floor() -> None:
    assert log_mel(torch.zeros(1, 1600)).numpy() == pytest.approx(np.log(QUIETEST))
