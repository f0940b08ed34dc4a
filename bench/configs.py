"""The published architectures, as overrides of `export.demo.CONFIGS`: for full-size runs on random weights."""

from typing import Any

# cvssp/audioldm2, as its published configs have it
BASE: dict[str, dict[str, Any]] = {
    "clap_text": {
        "vocab_size": 50_265,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "clap_audio": {
        "patch_embeds_hidden_size": 128,
        "hidden_size": 1024,
        "depths": [2, 2, 12, 2],
        "num_attention_heads": [4, 8, 16, 32],
        "num_hidden_layers": 4,
    },
    "clap": {"projection_dim": 512},
    "t5": {
        "vocab_size": 32_128,
        "d_model": 1024,
        "d_ff": 2816,
        "d_kv": 64,
        "num_layers": 24,
        "num_heads": 16,
    },
    "gpt2": {"vocab_size": 50_257, "n_embd": 768, "n_layer": 12, "n_head": 12},
    "unet": {
        "block_out_channels": [128, 256, 384, 640],
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "norm_num_groups": 32,
        "cross_attention_dim": [[None, 768, 1024]] * 4,
    },
    "vae": {"block_out_channels": [128, 256, 512], "layers_per_block": 2, "norm_num_groups": 32},
    "vocoder": {
        "upsample_initial_channel": 1024,
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5]] * 3,
    },
}
# cvssp/audioldm2-large
LARGE: dict[str, dict[str, Any]] = {
    **BASE,
    "unet": {
        **BASE["unet"],
        "cross_attention_dim": [[None, 768, 1024, None]] * 4,
        "transformer_layers_per_block": 2,
    },
}
