"""The UNet, by the epsilon objective (Ho et al., 2020): together with its conditioning, alone, together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from export.demo.training.conditioning import HEADS, Conditioner, draw_texts, labels_of, values_a_frame
from export.demo.training.data import Dataset
from export.demo.training.embeds import Embeds
from export.loop import Losses, Plan, plainly_attending, train

PLAN = Plan(steps=2300, batch=64, learning_rate=8e-4, decay=0.02)
UNET_PLAN = Plan(steps=4000, batch=64, learning_rate=8e-4, warmup=100, decay=0.5)
LAST_PLAN = Plan(steps=1500, batch=64, learning_rate=5e-4, warmup=100, decay=0.7, ema=0.998)
DROPPED = 0.1  # share of captions left empty, for classifier-free guidance (Ho & Salimans, 2022)
SNR_LIMIT = 5.0  # weights of the steps as in Hang et al., 2023 ("Min-SNR")
HINTS_WEIGHT, CONDITIONING_RATE = 0.1, 0.3


@dataclass(frozen=True)
class Latents:
    """The clean latents of every clip, scaled as the UNet sees them, and how noise is added to them."""

    clean: np.ndarray  # (clips, channels, frames, bins) float16, unscaled
    scaling_factor: float
    kept: torch.Tensor  # (timesteps,) share of the variance that is still signal: alphas_cumprod

    @classmethod
    def open(cls, folder: Path, scaling_factor: float, scheduler: Any) -> "Latents":
        """Read what the stage `latents` wrote into `folder`/data."""
        return cls(np.load(folder / "data" / "latents.npy"), scaling_factor, scheduler.alphas_cumprod)

    def rows(self, rows: np.ndarray) -> torch.Tensor:
        """(rows, channels, frames, bins) float32, scaled."""
        return torch.from_numpy(self.clean[rows].astype(np.float32)) * self.scaling_factor

    def losses(self, unet: Any, clean: torch.Tensor, rng: np.random.Generator, *conditioning: torch.Tensor) -> Losses:
        """Errors in guessing the noise, weighted by the step (the loss) and plain. `conditioning` is as of Conditioner.

        Every row has its own step, one from each of as many equal parts of the schedule.
        """
        new, t5, mask = conditioning
        parts = (rng.permutation(len(clean)) + rng.uniform(size=len(clean))) / len(clean)
        steps = torch.from_numpy((parts * len(self.kept)).astype(np.int64))
        noise = torch.randn_like(clean)
        at = self.kept[steps][:, None, None, None]
        noisy = at.sqrt() * clean + (1 - at).sqrt() * noise
        with torch.autocast("cpu", torch.bfloat16):
            found = unet(
                noisy,
                steps,
                encoder_hidden_states=new,
                encoder_hidden_states_1=t5,
                encoder_attention_mask_1=mask,
            ).sample
        errors = (found.float() - noise).square().mean(dim=(1, 2, 3))
        ratio = self.kept[steps] / (1 - self.kept[steps])  # of signal to noise
        return {"loss": (errors * ratio.clamp(max=SNR_LIMIT) / ratio).mean(), "error": errors.mean()}


def run(file: Path, pipeline: Any, heads: dict[str, Any], scaling_factor: float, plan: Plan, minutes: float) -> bool:
    """Train the UNet and what conditions it, kept in `file`. Returns whether all steps are done."""
    folder = file.parent
    data, latents = Dataset.open(folder / "data"), Latents.open(folder, scaling_factor, pipeline.scheduler)
    conditioner, unet = Conditioner(pipeline, values_a_frame(latents.clean)), plainly_attending(pipeline.unet)
    for name in HEADS:
        getattr(conditioner, name).load_state_dict(heads[name])

    def losses(rng: np.random.Generator, batch: int) -> Losses:
        rows = np.sort(rng.integers(len(latents.clean), size=batch))
        clean, dropped = latents.rows(rows), rng.uniform(size=batch) < DROPPED
        new, t5, mask = conditioner(draw_texts(data, rows, rng), dropped)
        found = latents.losses(unet, clean, rng, new, t5, mask)
        hints = conditioner.loss(new, t5, mask, clean, labels_of(data, rows, dropped))
        return {**hints, **found, "loss": found["loss"] + HINTS_WEIGHT * hints["loss"], "weighted": found["loss"]}

    modules = nn.ModuleDict({"unet": unet, **dict(conditioner.named_children())})
    groups = [
        {"params": list(unet.parameters()), "scale": 1.0},
        {"params": list(conditioner.parameters()), "scale": CONDITIONING_RATE},
    ]
    return train(file, modules, plan, losses, minutes, groups)


def run_unet(folder: Path, pipeline: Any, scaling_factor: float, plan: Plan, minutes: float) -> bool:
    """Train the UNet alone on written embeddings, kept in `folder`/unet.pt. Returns whether all steps are done."""
    embeds, latents = Embeds.open(folder / "data"), Latents.open(folder, scaling_factor, pipeline.scheduler)
    unet = plainly_attending(pipeline.unet)

    def losses(rng: np.random.Generator, batch: int) -> Losses:
        rows = np.sort(rng.integers(len(latents.clean), size=batch))
        conditioning = embeds.draw(rows, rng.uniform(size=batch) < DROPPED, rng)
        return latents.losses(unet, latents.rows(rows), rng, *conditioning)

    return train(folder / "unet.pt", nn.ModuleDict({"unet": unet}), plan, losses, minutes)
