"""What training sees is what the reference pipeline does with the trained parts."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.demo.checkpoint import CONFIGS
from export.demo.sounds import CLASSES
from export.demo.training import data
from export.demo.training.__main__ import main
from export.demo.training.conditioning import Conditioner
from export.demo.training.embeds import Embeds, write_embeds
from export.demo.training.mel import QUIETEST, log_mel
from export.demo.training.oscillators import start_as_oscillators
from export.demo.training.parts import SIZES
from export.demo.training.vae import standardise
from export.loop import Plan


def test_the_conditioning_is_what_the_pipeline_encodes(reference: Callable[[str], Any]) -> None:
    pipeline = reference("plain")
    conditioner = Conditioner(pipeline, values=64)
    texts = ["a low siren", "one can hear a short, loud and rapid drum roll.", "rain"]
    with torch.no_grad():
        generated, t5, mask = conditioner(texts, np.array([False, False, True]))
        for i, text in enumerate(("a low siren", "one can hear a short, loud and rapid drum roll.", "")):
            expected_t5, expected_mask, expected = pipeline.encode_prompt(text, "cpu", 1, False)
            length = expected_t5.shape[1]
            assert mask[i].sum() == expected_mask.sum() == length
            torch.testing.assert_close(t5[i, :length], expected_t5[0], rtol=1e-4, atol=1e-5)
            if i == 1:  # the longest of its chunk: GPT2's positions count the padding of the others
                torch.testing.assert_close(generated[i], expected[0], rtol=1e-4, atol=1e-5)


def test_written_embeddings_are_the_conditionings(
    reference: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["rain", "a low siren", "one can hear a short, loud and rapid drum roll", "wind"]
    nothing = np.zeros(0)
    dataset = data.Dataset(nothing, [[text] for text in texts], nothing, nothing, nothing)
    monkeypatch.setattr("export.demo.training.embeds.Dataset.open", lambda _: dataset)
    monkeypatch.setattr("export.demo.training.conditioning.vary", lambda text, _: text)
    conditioner = Conditioner(reference("plain"), values=64)
    write_embeds(tmp_path, conditioner)
    clips, dropped = np.array([2, 1, 3, 2]), np.array([False, False, True, False])
    new, t5, mask = Embeds.open(tmp_path).draw(clips, dropped, np.random.default_rng())
    for row, (clip, drop) in enumerate(zip(clips, dropped, strict=True)):
        with torch.no_grad():
            _, states, there = conditioner(["" if drop else texts[clip]], np.array([False]))
        count = int(there.sum())
        assert mask[row].tolist() == [1] * count + [0] * (mask.shape[1] - count)
        torch.testing.assert_close(t5[row, :count], states[0], rtol=2e-3, atol=2e-3)
        assert not t5[row, count:].any()
    torch.testing.assert_close(new[0], new[3], rtol=0, atol=0)
    assert (new[0] - new[1]).norm() > 0.01 * new[0].norm()


@torch.no_grad()
def test_standardised_latents_decode_to_the_same(
    reference: Callable[[str], Any], checkpoint: Callable[[str], Path]
) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(checkpoint("plain") / "vae").eval()
    vae.quant_conv.bias[3] += 2.0
    vae.quant_conv.weight[5] *= 3.0
    mel = torch.randn(6, 1, 32, 64) * 3 - 5
    before = vae.encode(mel).latent_dist
    decoded = vae.decode(before.mean).sample
    standardise(vae, before.parameters)
    after = vae.encode(mel).latent_dist
    torch.testing.assert_close(after.mean.mean(dim=(0, 2, 3)), torch.zeros(8), rtol=0, atol=1e-4)
    whole = after.mean.var(dim=(0, 2, 3)) + after.var.mean(dim=(0, 2, 3))
    torch.testing.assert_close(whole, torch.ones(8), rtol=1e-3, atol=1e-3)
    error = (vae.decode(after.mean).sample - decoded).norm() / decoded.norm()
    assert error < 1e-4


def test_the_vocoder_starts_as_oscillators() -> None:
    """Before any training a tone comes out at the nearest multiple of the frame rate, as loud; silence as silence."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**{**CONFIGS["vocoder"], **SIZES["vocoder"]})).eval()
    start_as_oscillators(vocoder)
    rng = np.random.default_rng()
    at_s = np.arange(16_000) / 16_000
    for hz in rng.uniform(300, 7500, 8):
        tone = torch.from_numpy(0.3 * np.sin(2 * np.pi * hz * at_s).astype(np.float32))
        with torch.no_grad():
            made = vocoder(log_mel(tone[None])[0]).numpy()[1600:-1600]
        spectrum = np.abs(np.fft.rfft(made * np.hanning(len(made))))
        peak_hz = spectrum.argmax() * 16_000 / len(made)
        assert abs(peak_hz - hz) < 60 + max(46, 0.05 * hz), (hz, peak_hz)  # half the grid, and the width of a mel bin
        assert peak_hz / 100 == pytest.approx(round(peak_hz / 100), abs=0.02)
        assert 0.4 < np.sqrt(2) * made.std() / 0.3 < 2.5, (hz, made.std())
    with torch.no_grad():
        assert vocoder(torch.full((40, 64), math.log(QUIETEST))).abs().max() < 1e-4


def test_captions_are_typed_in_many_ways_and_stay_themselves() -> None:
    rng = np.random.default_rng()
    typed = [data.vary("a low siren", rng) for _ in range(300)]
    assert all("low siren" in text.lower() for text in typed)
    assert len({*typed}) > 30
    assert {text.endswith(".") for text in typed} == {text.lower().startswith("a ") for text in typed} == {True, False}


def test_a_poor_recording_is_as_long_and_duller() -> None:
    rng = np.random.default_rng()
    audio = rng.normal(0, 0.5, 16_000).astype(np.float32)
    spoiled = data.spoil(audio, rng)
    power = np.abs(np.fft.rfft(spoiled)) ** 2
    assert spoiled.shape == audio.shape
    assert power[4000:].sum() < 0.3 * power.sum()  # of the band above 4 kHz, half is there in noise


def test_every_stage_runs_stops_and_packs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two clips of some classes, three steps a stage: a checkpoint that diffusers opens."""
    from tests.conftest import load_reference

    classes = tuple(np.random.default_rng().permutation(CLASSES)[:12].tolist())
    for module in ("data", "clap", "conditioning"):
        monkeypatch.setattr(f"export.demo.training.{module}.CLASSES", classes)
    monkeypatch.setattr(data.write, "__defaults__", (2, 1, 0.5, 1))
    for module in ("vae", "vocoder", "clap", "conditioning", "diffusion"):
        monkeypatch.setattr(f"export.demo.training.{module}.PLAN", Plan(steps=3, batch=4, learning_rate=1e-4, warmup=1))
    for plan in ("clap.AUDIO_PLAN", "diffusion.UNET_PLAN", "diffusion.LAST_PLAN"):
        monkeypatch.setattr(f"export.demo.training.{plan}", Plan(steps=2, batch=4, learning_rate=1e-4, warmup=1))
    assert main(["vae", "--folder", str(tmp_path)]) == 1
    assert "data, start, vae" in capsys.readouterr().err
    assert main(["all", "--folder", str(tmp_path), "--minutes", "0"]) == 2  # stopped in the first stage that takes long
    assert main(["all", "--folder", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "scaling.json").read_text())["scaling_factor"] > 0
    assert len(np.load(tmp_path / "data" / "mels.npy")) == 2 * len(classes)
    pipeline = load_reference(tmp_path / "demo")
    audio = pipeline("a siren", num_inference_steps=2, audio_length_in_s=2.0).audios
    assert audio.shape == (1, 32_000)
    assert np.isfinite(audio).all()
