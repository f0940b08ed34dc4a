"""Random, audible checkpoints of different shapes, in diffusers' layout, made by the demo's own maker."""

from typing import Any

# each entry replaces fields of export.demo.CONFIGS
SMALL: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {},
    "other_sizes": {
        "unet": {
            "sample_size": 100,
            "block_out_channels": [32, 48],
            "layers_per_block": 2,
            "cross_attention_dim": [[None, 48, 64, None], [48, 48, 64]],
            "transformer_layers_per_block": 2,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        },
        "vocoder": {"normalize_before": True},
        "vae": {"scaling_factor": 0.9},
    },
    "nested_dims": {
        "unet": {
            "block_out_channels": [32, 64, 64],
            "attention_head_dim": [2, 4, 8],
            "cross_attention_dim": [[None, 48, 64], [None, 48, 64], [None, 48]],
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
            "use_linear_projection": True,
        },
        "gpt2": {"n_layer": 2, "max_new_tokens": 5},
        "scheduler": {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    },
    "one_width": {
        # one width for all levels and attentions: GPT2 and T5 of one size
        "t5": {"d_model": 48, "feed_forward_proj": "relu"},
        "unet": {
            "block_out_channels": [32, 64],
            "cross_attention_dim": 48,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        },
        "vae": {
            "block_out_channels": [16, 32],
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
        },
        "vocoder": {"upsample_rates": [5, 4, 4, 2], "upsample_kernel_sizes": [16, 16, 8, 4]},
    },
}

# checkpoints that speak
_VITS: dict[str, Any] = {
    "vocab_size": 190,
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 64,
    # the rest of VITS is not used
    "flow_size": 16,
    "spectrogram_bins": 16,
    "upsample_initial_channel": 16,
    "prior_encoder_num_flows": 1,
    "posterior_encoder_num_wavenet_layers": 1,
    "duration_predictor_num_flows": 1,
    "duration_predictor_filter_channels": 16,
}
SPEECH: dict[str, dict[str, dict[str, Any]]] = {
    # as published: phonemes, a UNet that attends to GPT2's states only
    "phonemes": {
        "vits": _VITS,
        "vits_tokenizer": {"model_max_length": 60, "phonemize": True, "add_blank": False, "language": "en"},
        "gpt2": {"max_new_tokens": 12},
        "unet": {"cross_attention_dim": [[None, 48]] * 4},
    },
    # letters with blanks between, and a UNet that attends to VITS's states as well: all of them masked, in one row
    "letters": {
        "vits": {**_VITS, "window_size": 2, "ffn_kernel_size": 4},
        "vits_tokenizer": {"model_max_length": 35, "phonemize": False, "add_blank": True},
        "unet": {"cross_attention_dim": [[None, 48, 40]] * 4},
    },
}
