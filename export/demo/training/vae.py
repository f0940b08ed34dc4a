"""The VAE: log-mel spectrograms to latents and back, by absolute error and a light KL term (Kingma & Welling, 2014)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from export.demo.training.data import Dataset
from export.demo.training.loop import Losses, Plan, train

PLAN = Plan(steps=4000, batch=16, learning_rate=2e-3)
FRAMES, KL_WEIGHT = 64, 3e-3
MEAN, SPREAD = -5.0, 3.0  # of log-mel values, about: the first guess of the decoder


def run(folder: Path, vae: Any, plan: Plan, minutes: float) -> bool:
    """Train the autoencoder, kept in `folder`/vae.pt. Returns whether all steps are done."""
    data = Dataset.open(folder / "data")
    vae.set_attn_processor(AttnProcessor())  # faster to train than the fused one on a CPU
    with torch.no_grad():
        vae.decoder.conv_out.bias.fill_(MEAN)

    def losses(rng: np.random.Generator, batch: int) -> Losses:
        rows = rng.integers(len(data.mels), size=batch)
        starts = rng.integers(0, (data.mels.shape[1] - FRAMES) // 8 + 1, size=batch) * 8
        crops = np.stack([data.mels[row, start : start + FRAMES] for row, start in zip(rows, starts, strict=True)])
        mel = torch.from_numpy(crops.astype(np.float32))[:, None]
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(mel).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        difference = decoded.float() - mel
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        error = difference.abs().mean()
        # means over neighbours too: an error that keeps its sign is heard more than noise around the truth
        smooth = nn.functional.avg_pool2d(difference, 4).abs().mean()
        return {"loss": error + smooth + KL_WEIGHT * kl, "error": error, "smooth": smooth, "kl": kl}

    return train(folder / "vae.pt", nn.ModuleDict({"vae": vae}), plan, losses, minutes)


@torch.no_grad()
def write_latents(folder: Path, vae: Any) -> float:
    """Write the latents' means of every clip, (clips, 16, 32, 8) float16, and return the scaling factor: 1 / spread."""
    vae.eval()
    mels = np.load(folder / "data" / "mels.npy")
    latents: np.ndarray | None = None
    for start in range(0, len(mels), 100):
        mel = torch.from_numpy(mels[start : start + 100].astype(np.float32))[:, None]
        mean = vae.encode(mel).latent_dist.mean.numpy()
        if latents is None:
            shape = (len(mels), *mean.shape[1:])
            latents = np.lib.format.open_memmap(folder / "data" / "latents.npy", "w+", np.float16, shape)
        latents[start : start + 100] = mean
    assert latents is not None
    return 1 / float(np.std(latents[::7].astype(np.float32)))
