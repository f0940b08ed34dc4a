"""CLAP's two towers with their projections: text for conditioning and ranking, audio for ranking."""

import torch
from transformers import ClapModel, ClapTextModelWithProjection

from export.checkpoint import Checkpoint
from export.components.component import TYPICAL_TOKENS, Component, Sizes, Tensors, normal, padding_mask, tensor


class _TextTower(torch.nn.Module):
    """Unit-length text embeddings, (batch, width), of a whole CLAP or of its text tower alone.

    Source: ClapModel.get_text_features, and AudioLDMPipeline, which brings those of ClapTextModelWithProjection to unit
    length.
    """

    def __init__(self, clap: ClapModel | ClapTextModelWithProjection) -> None:
        super().__init__()
        self.clap = clap

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        if isinstance(self.clap, ClapModel):
            return self.clap.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        embeds = self.clap(input_ids=input_ids, attention_mask=attention_mask).text_embeds
        return torch.nn.functional.normalize(embeds, dim=-1)


class _AudioTower(torch.nn.Module):
    """Unit-length audio embeddings (ClapModel.get_audio_features), (batch, width)."""

    def __init__(self, clap: ClapModel) -> None:
        super().__init__()
        self.clap = clap

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        return self.clap.get_audio_features(input_features=input_features).pooler_output


def text_encoder(checkpoint: Checkpoint) -> Component:
    """input_ids, attention_mask (batch, tokens) -> text_embeds (batch, width)."""
    clap = checkpoint.load("text_encoder")
    config, width = checkpoint.configs.text_encoder.text_config, checkpoint.configs.text_encoder.projection_dim
    longest = config.max_tokens
    if isinstance(clap, ClapModel):
        del clap.audio_model, clap.audio_projection
    batch, tokens = (1, None), (1, longest)

    def draw(sizes: Sizes, generator: torch.Generator) -> Tensors:
        mask = padding_mask(generator, sizes["batch"], sizes["tokens"])
        first = config.pad_token_id + 1
        ids = torch.randint(first, config.vocab_size, mask.shape, generator=generator)
        return {"input_ids": torch.where(mask == 1, ids, config.pad_token_id), "attention_mask": mask}

    return Component(
        module=_TextTower(clap).eval(),
        inputs={
            "input_ids": tensor("int64", batch=batch, tokens=tokens),
            "attention_mask": tensor("int64", batch=batch, tokens=tokens),
        },
        outputs={"text_embeds": tensor("float32", batch=batch, width=width)},
        draw=draw,
        sizes=(
            {"batch": 2, "tokens": 12},
            {"batch": 1, "tokens": 1},
            {"batch": 3, "tokens": 17},
            {"batch": 1, "tokens": longest},
        ),
        typical={"batch": 2, "tokens": TYPICAL_TOKENS},
    )


def audio_encoder(checkpoint: Checkpoint) -> Component:
    """input_features (batch, 1, frames, mel_bins) -> audio_embeds (batch, width)."""
    clap = checkpoint.load("text_encoder")
    del clap.text_model, clap.text_projection
    extractor = checkpoint.feature_extractor()
    frames, bins = extractor.max_samples // extractor.hop_samples + 1, extractor.mel_bins
    batch = (1, None)

    def draw(sizes: Sizes, generator: torch.Generator) -> Tensors:
        decibels = 20 * normal(generator, sizes["batch"], 1, frames, bins) - 40  # the range of log-mel features
        return {"input_features": decibels}

    return Component(
        module=_AudioTower(clap).eval(),
        inputs={"input_features": tensor("float32", batch=batch, channel=1, frames=frames, mel_bins=bins)},
        outputs={"audio_embeds": tensor("float32", batch=batch, width=clap.config.projection_dim)},
        draw=draw,
        sizes=({"batch": 2}, {"batch": 1}, {"batch": 3}),
    )
