"""Small random-weight checkpoints of the real architecture: what tests use, and where the demo's training starts.

Real classes, real tokenizers trained on a few sentences, weights scaled so that the output is audible (a default
initialisation gives silence, on which every comparison passes). It knows no sounds: it makes noise that depends on the
prompt.
"""

import json
import math
import string
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AudioLDM2Pipeline, AutoencoderKL, DDIMScheduler
from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    VitsConfig,
    VitsModel,
    VitsTokenizer,
)
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.vits.modeling_vits import VitsTextEncoder

SENTENCES = (
    "The sound of a hammer hitting a wooden surface.",
    "Techno music with a strong, upbeat tempo and high melodic riffs.",
    "A dog barks twice while rain falls on a tin roof.",
    "Low quality, distorted, average quality.",
    "A woman speaks softly; birds sing and water flows in the distance.",
    "Fast drums, a slow bass line and a bright electric guitar.",
)
VOCABULARY = 512
PHONEMES = " ;:,.!?'\"-" + string.ascii_lowercase + "ABCDEGIKLOPRSTW" + "æðŋɐɑɔəɚɛɜɡɪɹɾʃʊʌʒʔˈˌːθᵻɫ"
GAIN, VOCODER_GAIN = 1.0, 1.1  # standard deviations, by the square root of the fan-in

CONFIGS: dict[str, dict[str, Any]] = {
    "clap_text": {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    },
    "clap_audio": {
        "patch_embeds_hidden_size": 16,
        "hidden_size": 64,
        "depths": [2, 2, 1],
        "num_attention_heads": [1, 2, 4],
        "num_hidden_layers": 3,
    },
    "clap": {"projection_dim": 64},
    "t5": {
        "vocab_size": VOCABULARY,
        "d_model": 64,
        "d_ff": 128,
        "d_kv": 16,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
    },
    "gpt2": {
        "vocab_size": 64,
        "n_embd": 48,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 1024,
        "max_new_tokens": 8,
        "bos_token_id": None,
        "eos_token_id": None,
    },
    "unet": {
        "sample_size": 256,
        "in_channels": 8,
        "out_channels": 8,
        "block_out_channels": [32, 64, 64, 96],
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "norm_num_groups": 16,
        "cross_attention_dim": [[None, 48, 64]] * 4,
        "transformer_layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    },
    "vae": {
        "in_channels": 1,
        "out_channels": 1,
        "latent_channels": 8,
        "block_out_channels": [16, 32, 32],
        "layers_per_block": 1,
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "norm_num_groups": 8,
        "scaling_factor": 0.41,
    },
    "vocoder": {
        "model_in_dim": 64,
        "sampling_rate": 16_000,
        "upsample_initial_channel": 64,
        "upsample_rates": [5, 4, 2, 2, 2],
        "upsample_kernel_sizes": [16, 16, 8, 4, 4],
        "resblock_kernel_sizes": [3, 7],
        "resblock_dilation_sizes": [[1, 3], [1, 3]],
        "normalize_before": False,
    },
    "scheduler": {
        "beta_start": 0.0015,
        "beta_end": 0.0195,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    },
}


Overrides = Mapping[str, Mapping[str, Any]]


def write_checkpoint(folder: Path, seed: int = 0, overrides: Overrides | None = None) -> None:
    """Write a checkpoint into `folder` in diffusers' layout. `overrides` replaces fields of `CONFIGS` by part.

    With a part "vits" (fields of VitsConfig) it is a speech checkpoint; "vits_tokenizer" has fields of its tokenizer.
    """
    pipeline = make_pipeline(seed, overrides)
    pipeline.save_pretrained(folder)


def make_pipeline(
    seed: int = 0, overrides: Overrides | None = None, sentences: Iterable[str] = SENTENCES, audible: bool = True
) -> Any:
    """The reference pipeline with random weights, the configs of `CONFIGS` and tokenizers trained on `sentences`.

    Without `audible` the weights are as the classes initialise them: a start for training.
    """
    overrides = overrides or {}
    configs = {part: {**config, **overrides.get(part, {})} for part, config in CONFIGS.items()}
    torch.manual_seed(seed)
    clap_text, clap_audio = configs["clap_text"], configs["clap_audio"]
    t5, gpt2, width = configs["t5"], configs["gpt2"], configs["clap"]["projection_dim"]
    speaks, text_width, position_embedding = "vits" in overrides, t5["d_model"], {}
    if speaks:
        text_width = overrides["vits"]["hidden_size"]
        length = overrides["vits_tokenizer"]["model_max_length"]
        position_embedding = {"use_learned_position_embedding": True, "max_seq_length": length}
    parts: dict[str, Any] = {
        "text_encoder": ClapModel(
            ClapConfig(
                text_config={**clap_text, "projection_dim": width},
                audio_config={**clap_audio, "projection_dim": width},
                **configs["clap"],
            )
        ),
        "text_encoder_2": VitsModel(VitsConfig(**overrides["vits"])) if speaks else T5EncoderModel(T5Config(**t5)),
        "projection_model": AudioLDM2ProjectionModel(
            text_encoder_dim=width,
            text_encoder_1_dim=text_width,
            langauge_model_dim=gpt2["n_embd"],
            **position_embedding,
        ),
        "language_model": GPT2LMHeadModel(GPT2Config(**gpt2)),
        "unet": AudioLDM2UNet2DConditionModel(**configs["unet"]),
        "vae": AutoencoderKL(**configs["vae"]),
        "vocoder": SpeechT5HifiGan(SpeechT5HifiGanConfig(**configs["vocoder"])),
    }
    for name, module in parts.items():
        module.eval()
        if audible:
            scale_weights(module, VOCODER_GAIN if name == "vocoder" else GAIN)
    return AudioLDM2Pipeline(
        **parts,
        tokenizer=_roberta_tokenizer(sentences),
        tokenizer_2=_vits_tokenizer(overrides["vits_tokenizer"]) if speaks else _t5_tokenizer(sentences),
        feature_extractor=ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad"),
        scheduler=DDIMScheduler(**configs["scheduler"]),
    )


@torch.no_grad()
def scale_weights(module: torch.nn.Module, gain: float) -> None:
    """Random weights that keep the scale of what passes through: normal, gain / sqrt(fan in); norms near 1."""
    for layer in module.modules():
        own = dict(layer.named_parameters(recurse=False))
        for name, weight in own.items():
            if isinstance(layer, torch.nn.ConvTranspose1d) and name == "weight":
                fan_in = weight.shape[0] * weight.shape[2] / layer.stride[0]
            elif isinstance(layer, torch.nn.Embedding) or name.startswith(("sos_", "eos_", "learnable_")):
                fan_in = 1.0
            elif weight.ndim < 2:  # norms near 1, biases near 0
                near = 1.0 if name == "weight" else 0.0
                weight.copy_(near + 0.1 * torch.randn_like(weight))
                continue
            else:
                fan_in = float(weight[0].numel()) if not _is_transposed(layer) else float(weight.shape[0])
            weight.copy_(torch.randn_like(weight) * gain / math.sqrt(fan_in))
    for layer in module.modules():
        if isinstance(layer, T5Attention):  # T5 does not scale its scores by the head's width: its weights have to
            layer.q.weight.mul_(layer.key_value_proj_dim**-0.5)
        if isinstance(layer, VitsTextEncoder):  # VITS multiplies its embeddings by the root of their width
            layer.embed_tokens.weight.mul_(layer.config.hidden_size**-0.5)


def _is_transposed(layer: torch.nn.Module) -> bool:
    return type(layer).__name__ == "Conv1D"  # GPT2's linear layer keeps its weight as (in, out)


def _roberta_tokenizer(sentences: Iterable[str]) -> RobertaTokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges: Any = [tuple(merge) for merge in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=512)


def _t5_tokenizer(sentences: Iterable[str]) -> T5Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY - 100,  # the class adds 100 sentinels
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        initial_alphabet=list(string.printable),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    vocabulary = [(token, score) for token, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    return T5Tokenizer(vocab=vocabulary, model_max_length=128)


def _vits_tokenizer(options: Mapping[str, Any]) -> VitsTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder, "vocab.json")
        vocabulary.write_text(json.dumps({token: i for i, token in enumerate(["_", *PHONEMES])}))
        return VitsTokenizer(vocabulary, **{"pad_token": "_", **options})
