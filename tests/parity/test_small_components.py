"""A checkpoint of the sizes that diffusers gives the components in its own tests of the reference pipeline.

Everything in it is near its smallest: texts of 12 tokens, 99 positions, a UNet whose first level does not attend.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.build import build
from export.checkpoint import Checkpoint
from export.demo import write_checkpoint
from runtime import AudioLDM2Pipeline
from tests.conftest import load_reference

TWO_LEVELS = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
SIZES: dict[str, dict[str, Any]] = {
    "clap_text": {
        "vocab_size": 1000,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 37,
    },
    "clap_audio": {
        "spec_size": 64,
        "window_size": 4,
        "num_mel_bins": 64,
        "intermediate_size": 37,
        "patch_embeds_hidden_size": 96,
        "depths": [1, 1],
        "num_attention_heads": [1, 1],
        "num_hidden_layers": 1,
        "hidden_size": 192,
        "patch_size": 2,
        "patch_stride": 2,
    },
    "clap": {"projection_dim": 16},
    "t5": {
        "vocab_size": 32_100,
        "d_model": 32,
        "d_ff": 37,
        "d_kv": 8,
        "num_heads": 1,
        "num_layers": 1,
        "feed_forward_proj": "relu",
    },
    "gpt2": {"vocab_size": 1000, "n_embd": 16, "n_head": 1, "n_layer": 1, "n_positions": 99},
    "unet": {
        "sample_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
        "cross_attention_dim": [8, 16],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    },
    "vae": {"block_out_channels": [8, 16], "latent_channels": 4, "norm_num_groups": 8, **TWO_LEVELS},
    "vocoder": {
        "model_in_dim": 8,
        "upsample_initial_channel": 16,
        "upsample_rates": [2, 2],
        "upsample_kernel_sizes": [4, 4],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
    },
}


def rewrite(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.fixture(scope="module")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    write_checkpoint(folder, seed=5, overrides=SIZES)
    rewrite(folder / "tokenizer" / "tokenizer_config.json", model_max_length=77)
    rewrite(folder / "tokenizer_2" / "tokenizer_config.json", model_max_length=12)
    rewrite(folder / "feature_extractor" / "preprocessor_config.json", hop_length=7900)  # 61 frames
    return folder


def test_such_a_checkpoint_builds_and_sounds_as_the_reference(checkpoint_folder: Path, tmp_path: Path) -> None:
    build(Checkpoint(checkpoint_folder, "small"), tmp_path / "bundle", report=lambda _: None)
    latents = np.random.default_rng().standard_normal((1, 4, 32, 4)).astype(np.float32)
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 6.0}
    ours = AudioLDM2Pipeline.from_pretrained(tmp_path / "bundle")("a dog barks", latents=latents, **options).audios
    theirs = sound_of_the_reference(checkpoint_folder, latents, options)
    assert ours.shape == theirs.shape == (1, 256)
    assert np.linalg.norm(theirs) > 0.1
    assert np.linalg.norm(ours - theirs) <= 1e-3 * np.linalg.norm(theirs)


def sound_of_the_reference(folder: Path, latents: Any, options: dict[str, Any]) -> Any:
    import torch

    with torch.no_grad():
        return load_reference(folder)("a dog barks", latents=torch.from_numpy(latents), **options).audios
