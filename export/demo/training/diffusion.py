"""The UNet, by the epsilon objective (Ho et al., 2020), and the conditioning with it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from export.demo.training.conditioning import Conditioner, draw_texts, values_a_frame
from export.demo.training.data import Dataset
from export.demo.training.loop import Losses, Plan, train

PLAN = Plan(steps=5500, batch=64, learning_rate=8e-4)
DROPPED = 0.1  # share of captions left empty, for classifier-free guidance (Ho & Salimans, 2022)
SNR_LIMIT = 5.0  # weights of the steps as in Hang et al., 2023 ("Min-SNR")
GUESS_WEIGHT, CONDITIONING_RATE = 0.1, 0.3


def run(folder: Path, pipeline: Any, heads: dict[str, Any], scaling_factor: float, plan: Plan, minutes: float) -> bool:
    """Train the UNet and what conditions it, kept in `folder`/diffusion.pt. Returns whether all steps are done."""
    data = Dataset.open(folder / "data")
    latents = np.load(folder / "data" / "latents.npy")
    conditioner, unet = Conditioner(pipeline, values_a_frame(latents)), pipeline.unet
    unet.set_attn_processor(AttnProcessor())  # 1.4 times as fast to train as the fused one on a CPU
    for name in ("guess", "guess_1"):
        getattr(conditioner, name).load_state_dict(heads[name])
    kept = pipeline.scheduler.alphas_cumprod  # (1000,)
    weights = (kept / (1 - kept)).clamp(max=SNR_LIMIT) / (kept / (1 - kept))

    def losses(rng: np.random.Generator, batch: int) -> Losses:
        rows = np.sort(rng.integers(len(latents), size=batch))
        clean = torch.from_numpy(latents[rows].astype(np.float32)) * scaling_factor
        new, t5, mask = conditioner(draw_texts(data, rows, rng), rng.uniform(size=batch) < DROPPED)
        # one timestep from each of `batch` equal parts, in random order
        parts = (rng.permutation(batch) + rng.uniform(size=batch)) / batch
        steps = torch.from_numpy((parts * len(kept)).astype(np.int64))
        noise = torch.randn_like(clean)
        at = kept[steps][:, None, None, None]
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
        guess = conditioner.guess_loss(new, t5, mask, clean)
        loss = (errors * weights[steps]).mean()
        return {"loss": loss + GUESS_WEIGHT * guess, "error": errors.mean(), "weighted": loss, "guess": guess}

    modules = nn.ModuleDict({"unet": unet, **dict(conditioner.named_children())})
    groups = [
        {"params": list(unet.parameters()), "scale": 1.0},
        {"params": list(conditioner.parameters()), "scale": CONDITIONING_RATE},
    ]
    return train(folder / "diffusion.pt", modules, plan, losses, minutes, groups)
