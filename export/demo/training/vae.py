"""The VAE: log-mel spectrograms to latents and back, by absolute error and a light KL term (Kingma & Welling, 2014)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from export.demo.training.data import Dataset
from export.loop import Losses, Plan, train

PLAN = Plan(steps=4000, batch=16, learning_rate=2e-3)
FRAMES, KL_WEIGHT = 64, 3e-3
MEAN = -5.0  # of log-mel values, about: the first guess of the decoder


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
    """Write the latents' means of every clip, (clips, channels, 32, 8) float16. Returns the scaling factor, 1 / spread.

    The autoencoder is kept with standardised latents in `folder`/latents.pt.
    """
    vae.eval().to(memory_format=torch.channels_last)
    vae.set_attn_processor(AttnProcessor())
    mels = np.load(folder / "data" / "mels.npy", mmap_mode="r")
    standardise(vae, _encode(vae, mels[:: max(1, len(mels) // 1000)]))
    torch.save({"average": nn.ModuleDict({"vae": vae}).state_dict()}, folder / "latents.pt")
    channels = vae.config.latent_channels
    shape = (len(mels), channels, mels.shape[1] // 8, mels.shape[2] // 8)
    latents = np.lib.format.open_memmap(folder / "data" / "latents.npy", "w+", np.float16, shape)
    for start in range(0, len(mels), 500):
        latents[start : start + 500] = _encode(vae, mels[start : start + 500])[:, :channels].numpy()
    return 1 / float(np.std(latents[::7].astype(np.float32)))


@torch.no_grad()
def standardise(vae: Any, moments: torch.Tensor) -> None:
    """Give each channel of the latents mean 0 and, with the posterior's own variance, variance 1.

    Folded into the convolutions around the latents, so that decoding undoes it. `moments` are means and logarithms of
    variances, (clips, 2 channels, frames, bins). A channel that says little stays small: its noise counts.
    """
    mean, log_variance = moments.chunk(2, dim=1)
    middle = mean.mean(dim=(0, 2, 3))  # (channels,)
    spread = (mean.var(dim=(0, 2, 3)) + log_variance.exp().mean(dim=(0, 2, 3))).sqrt()
    after, before = vae.post_quant_conv, vae.quant_conv
    after.bias += (after.weight * middle[None, :, None, None]).sum(dim=(1, 2, 3))
    after.weight *= spread[None, :, None, None]
    channels = len(middle)
    before.weight[:channels] /= spread[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - middle) / spread
    before.bias[channels:] -= 2 * spread.log()


def _encode(vae: Any, mels: np.ndarray) -> torch.Tensor:
    """Moments (clips, 2 channels, frames / 8, bins / 8) of (clips, frames, bins); four at once stay in the cache."""
    rows = torch.from_numpy(mels.astype(np.float32))[:, None].contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([vae.encode(some).latent_dist.parameters.float() for some in rows.split(4)])
