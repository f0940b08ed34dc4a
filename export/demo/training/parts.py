"""The demo checkpoint's architecture, and its parts with the weights that training has come to."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AudioLDM2Pipeline

from export.demo.checkpoint import make_pipeline
from export.loop import averaged

# AudioLDM2's own classes in small. The VAE halves three times where the published one does twice: an eighth of the mel
# spectrogram's frames and bins, so that the UNet has a quarter of the positions to go through.
SIZES: dict[str, dict[str, Any]] = {
    "clap_text": {"hidden_size": 64, "intermediate_size": 192},
    "clap_audio": {"patch_embeds_hidden_size": 16, "hidden_size": 64, "depths": [2, 2, 2]},
    "t5": {"d_model": 64, "d_ff": 160, "num_layers": 3},
    "gpt2": {"n_embd": 64, "n_positions": 160},  # T5 gives at most 128, the projection adds 5, and 8 are new
    "unet": {
        "sample_size": 32,
        "in_channels": 16,
        "out_channels": 16,
        "block_out_channels": [64, 96, 128],
        "cross_attention_dim": [[None, 64, 64]] * 3,
        "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    },
    "vae": {
        "latent_channels": 16,
        "block_out_channels": [16, 16, 48, 64],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "vocoder": {  # two stages at the frame rate, then to 2 and to 16 kHz: see oscillators.py
        "upsample_initial_channel": 384,
        "upsample_rates": [1, 1, 20, 8],
        "upsample_kernel_sizes": [1, 1, 40, 48],
        "resblock_kernel_sizes": [1],
        "resblock_dilation_sizes": [[1]],
    },
}
PARTS = ("text_encoder", "text_encoder_2", "projection_model", "language_model", "unet", "vae", "vocoder")


def write_start(folder: Path, captions: Path, seed: int = 0) -> None:
    """Write the checkpoint before training into `folder`: tokenizers that know the captions' words, random weights."""
    sentences = sorted({text for texts in json.loads(captions.read_text()) for text in texts})
    make_pipeline(seed, SIZES, sentences, audible=False).save_pretrained(folder)


def load(folder: Path, *stages: Path) -> Any:
    """The reference pipeline in `folder`, with what the files of trained stages have replaced."""
    from transformers import GPT2LMHeadModel

    language_model = GPT2LMHeadModel.from_pretrained(folder / "language_model")
    pipeline = AudioLDM2Pipeline.from_pretrained(folder, language_model=language_model, dtype=torch.float32)
    for stage in stages:
        for name, weights in averaged(stage).items():
            if name in PARTS:
                getattr(pipeline, name).load_state_dict(weights)
    return pipeline
