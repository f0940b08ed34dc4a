"""CLAP's two towers, by the symmetric contrastive loss (Radford et al., 2021; Wu et al., 2023)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from export.demo.sounds import CLASSES
from export.demo.training.data import Dataset, vary
from export.demo.training.mel import SAMPLE_RATE_HZ
from export.loop import Losses, Plan, train
from runtime.bundle.manifest import FeatureExtractorSpec
from runtime.sound.scoring import log_mels

PLAN = Plan(steps=400, batch=48, learning_rate=1.5e-3, warmup=50, ema=0.99)
AUDIO_PLAN = Plan(steps=600, batch=48, learning_rate=1.5e-3, warmup=50, ema=0.99)
PER_CLASS = 2  # clips of a class in a batch, so that adjectives matter too
FEATURES = FeatureExtractorSpec(  # ClapFeatureExtractor's defaults
    sample_rate_hz=48_000,
    fft_samples=1024,
    hop_samples=480,
    mel_bins=64,
    min_frequency_hz=50.0,
    max_frequency_hz=14_000.0,
    max_samples=480_000,
    padding="repeatpad",
)


def write_features(folder: Path) -> None:
    """Write CLAP's log-mels of every clip with audio, (clips, 1, 1001, 64) float16."""
    audio = Dataset.open(folder).audio
    shape = (len(audio), 1, 1001, 64)
    features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, shape)
    for start in range(0, len(audio), 32):
        rows = audio[start : start + 32].astype(np.float32) / np.float32(32767)
        features[start : start + 32] = log_mels(rows, SAMPLE_RATE_HZ, FEATURES)


def run(file: Path, pipeline: Any, plan: Plan, minutes: float, audio_alone: bool = False) -> bool:
    """Train both towers, or the audio tower to fit the other. Returns whether all steps are done.

    The weights are kept in `file`, beside the folder of the data.
    """
    clap, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    if audio_alone:
        for part in (clap.text_model, clap.text_projection):
            part.requires_grad_(False)
    data = Dataset.open(file.parent / "data")
    features = np.load(file.parent / "data" / "features.npy")
    per_class = len(features) // len(CLASSES)

    def losses(rng: np.random.Generator, batch: int) -> Losses:
        labels = np.repeat(rng.permutation(len(CLASSES))[: batch // PER_CLASS], PER_CLASS)
        rows = np.sort(labels * per_class + rng.integers(per_class, size=batch))
        texts = [vary(str(rng.choice(data.captions[row])), rng) for row in data.audio_rows[rows]]
        with torch.autocast("cpu", torch.bfloat16):
            heard = audio_embeds(clap, torch.from_numpy(features[rows].astype(np.float32)))
            said = text_embeds(clap, tokenizer, texts)
        scores = said.float() @ heard.float().T * clap.logit_scale_t.exp().clamp(max=100)
        same = torch.arange(batch)
        loss = (nn.functional.cross_entropy(scores, same) + nn.functional.cross_entropy(scores.T, same)) / 2
        best = torch.from_numpy(labels)[scores.argmax(1)] == torch.from_numpy(labels)
        return {"loss": loss, "class_found": best.float().mean()}

    return train(file, nn.ModuleDict({"text_encoder": clap}), plan, losses, minutes)


def audio_embeds(clap: Any, features: torch.Tensor) -> torch.Tensor:
    """(rows, 1, frames, 64) to (rows, width), of unit length."""
    longer = torch.zeros(len(features), 1, dtype=torch.bool)
    return _unit(clap.get_audio_features(input_features=features, is_longer=longer))


def text_embeds(clap: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """(rows, width), of unit length."""
    ids = tokenizer(texts, padding=True, return_tensors="pt")
    return _unit(clap.get_text_features(ids.input_ids, attention_mask=ids.attention_mask))


def _unit(found: Any) -> torch.Tensor:
    return nn.functional.normalize(getattr(found, "pooler_output", found), dim=-1)
