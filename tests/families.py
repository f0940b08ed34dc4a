"""Random, audible checkpoints of the other families, in diffusers' layout."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AudioLDMPipeline, AutoencoderKL, DDIMScheduler, MusicLDMPipeline, UNet2DConditionModel
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    ClapTextModelWithProjection,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from export.demo import CONFIGS
from export.demo.checkpoint import GAIN, SENTENCES, VOCODER_GAIN, _roberta_tokenizer, scale_weights

WIDTHS = [32, 64, 64]
UNET: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": WIDTHS,
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
    "cross_attention_dim": WIDTHS,  # its own: without a text each level attends to itself twice
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "class_embed_type": "simple_projection",
    "class_embeddings_concat": True,
}
FAMILIES: dict[str, Any] = {"audioldm": AudioLDMPipeline, "musicldm": MusicLDMPipeline}


def load_family(folder: Path, name: str) -> Any:
    """The reference's pipeline of a family over a checkpoint, silent.

    MusicLDM's calls a method of CLAP's whose result is an object since version 5 of transformers, and takes it for the
    tensor in it.
    """
    pipeline = FAMILIES[name].from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    if name == "musicldm":
        clap = pipeline.text_encoder
        features = clap.get_text_features
        clap.get_text_features = lambda *args, **kwargs: features(*args, **kwargs).pooler_output
    return pipeline


def write_family(folder: Path, name: str, seed: int) -> None:
    """Write the small checkpoint of a family."""
    torch.manual_seed(seed)
    text, width = CONFIGS["clap_text"], CONFIGS["clap"]["projection_dim"]
    unet = UNet2DConditionModel(**UNET, projection_class_embeddings_input_dim=width)
    parts: dict[str, Any] = {
        "unet": unet,
        "vae": AutoencoderKL(**CONFIGS["vae"]),
        "vocoder": SpeechT5HifiGan(SpeechT5HifiGanConfig(**CONFIGS["vocoder"])),
    }
    if name == "audioldm":
        parts["text_encoder"] = ClapTextModelWithProjection(ClapTextConfig(**text, projection_dim=width))
    else:
        towers = {"text_config": {**text, "projection_dim": width}}
        towers["audio_config"] = {**CONFIGS["clap_audio"], "projection_dim": width}
        parts["text_encoder"] = ClapModel(ClapConfig(**towers, **CONFIGS["clap"]))
    for part, module in parts.items():
        scale_weights(module.eval(), VOCODER_GAIN if part == "vocoder" else GAIN)
    if name == "musicldm":
        parts["feature_extractor"] = ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad")
    pipeline = FAMILIES[name](
        **parts, tokenizer=_roberta_tokenizer(SENTENCES), scheduler=DDIMScheduler(**CONFIGS["scheduler"])
    )
    pipeline.save_pretrained(folder)
