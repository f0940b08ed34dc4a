"""The trained parts as one checkpoint in diffusers' layout, FP16: what `--checkpoint demo` opens."""

import shutil
from pathlib import Path

import torch

from export.demo.training.parts import PARTS, load

TRAINED = ("latents", "vocoder", "audio_tower", "last")


def pack(folder: Path, out: Path, scaling_factor: float) -> int:
    """Write what the stages in `folder` have come to into `out`, over what is there. Returns the size in bytes.

    The weights are rounded to FP16, as published checkpoints are; norms' running statistics with them.
    """
    pipeline = load(folder / "start", *(folder / f"{stage}.pt" for stage in TRAINED))
    pipeline.vae.register_to_config(scaling_factor=scaling_factor)
    for name in PARTS:
        getattr(pipeline, name).eval().to(torch.float16)
    shutil.rmtree(out, ignore_errors=True)
    pipeline.save_pretrained(out)
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
