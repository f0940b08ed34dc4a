"""From captions to what the UNet attends to: CLAP, T5, projection and GPT2 as the reference pipeline chains them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache

from export.demo.sounds import CLASSES
from export.demo.training.clap import text_embeds
from export.demo.training.data import Dataset, vary
from export.loop import Losses, Plan, train

PLAN = Plan(steps=800, batch=96, learning_rate=2e-3, ema=0.99)
CHUNKS = 2  # of captions of like length: GPT2's positions count padding, and in use there is little of it
NEW_EMBEDS = 8
HEADS = ("guess", "guess_1", "name", "name_1")


class Conditioner(nn.Module):
    """T5, projection and GPT2, trained; CLAP's text tower, frozen. Heads guess latents and class, to train the rest."""

    def __init__(self, pipeline: Any, values: int) -> None:
        super().__init__()
        self.text_encoder_2, self.projection_model = pipeline.text_encoder_2, pipeline.projection_model
        self.language_model = pipeline.language_model
        width = pipeline.text_encoder_2.config.d_model
        self.guess = nn.Linear(pipeline.language_model.config.n_embd, values)
        self.guess_1 = nn.Linear(width, values)
        self.name = nn.Linear(pipeline.language_model.config.n_embd, len(CLASSES))
        self.name_1 = nn.Linear(width, len(CLASSES))
        for layer in self.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0  # captions are varied as it is
        self._frozen = (pipeline.text_encoder, pipeline.tokenizer, pipeline.tokenizer_2)  # a tuple: not trained

    def forward(self, texts: list[str], dropped: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """GPT2's embeddings (rows, 8, width), T5's states (rows, tokens, width) and their mask (rows, tokens).

        Texts whose flag in `dropped` is set are encoded as "", as the reference does without a negative prompt.
        """
        order = np.argsort([len(text) for text in texts], kind="stable")
        said = ["" if drop else text for text, drop in zip(texts, dropped, strict=True)]
        parts = [self._encode([said[i] for i in chunk]) for chunk in np.array_split(order, min(CHUNKS, len(texts)))]
        back = torch.from_numpy(np.argsort(order))
        longest = max(mask.shape[1] for _, _, mask in parts)
        states = [nn.functional.pad(t5, (0, 0, 0, longest - t5.shape[1])) for _, t5, _ in parts]
        masks = [nn.functional.pad(mask, (0, longest - mask.shape[1])) for _, _, mask in parts]
        return torch.cat([new for new, _, _ in parts])[back], torch.cat(states)[back], torch.cat(masks)[back]

    def _encode(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        clap, tokenizer, tokenizer_2 = self._frozen
        with torch.no_grad():
            pooled = text_embeds(clap, tokenizer, texts)[:, None]
        ids = tokenizer_2(texts, padding=True, return_tensors="pt")
        t5 = self.text_encoder_2(ids.input_ids, attention_mask=ids.attention_mask)[0]
        ones = torch.ones(len(texts), 1, dtype=torch.long)
        joined = self.projection_model(pooled, t5, ones, ids.attention_mask)
        states, mask = joined.hidden_states, joined.attention_mask
        cache, new = DynamicCache(), []
        for _ in range(NEW_EMBEDS):
            last = self.language_model.transformer(inputs_embeds=states, attention_mask=mask, past_key_values=cache)[0]
            states = last[:, -1:]
            mask = torch.cat([mask, ones], dim=1)
            new.append(states)
        return torch.cat(new, dim=1), t5, ids.attention_mask

    def loss(
        self, new: torch.Tensor, t5: torch.Tensor, mask: torch.Tensor, latents: torch.Tensor, labels: torch.Tensor
    ) -> Losses:
        """Errors of the heads in guessing each eighth of the latents, and the class.

        From GPT2's embeddings each eighth, as AudioLDM2's GPT2 guesses features of the audio (Liu et al., 2023); from
        T5's states the mean. Means do not tell what rises from what falls: that takes the class, from both.
        Latents are (rows, channels, frames, bins), labels (rows,), -100 where the caption was dropped.
        """
        eighths = latents.unflatten(2, (NEW_EMBEDS, -1)).mean(3).transpose(1, 2).flatten(2)
        pooled = (t5 * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        guess = (self.guess(new) - eighths).square().mean() + (self.guess_1(pooled) - eighths.mean(1)).square().mean()
        named = [nn.functional.cross_entropy(found, labels) for found in (self.name(new.mean(1)), self.name_1(pooled))]
        return {"loss": guess + sum(named), "guess": guess, "named": sum(named) / 2}


def draw_texts(data: Dataset, rows: np.ndarray, rng: np.random.Generator) -> list[str]:
    """A caption of each clip, as somebody types it."""
    return [vary(str(rng.choice(data.captions[row])), rng) for row in rows]


def run(folder: Path, pipeline: Any, scaling_factor: float, plan: Plan, minutes: float) -> bool:
    """Train T5, projection and GPT2, kept in `folder`/conditioning.pt. Returns whether all steps are done."""
    data = Dataset.open(folder / "data")
    latents = np.load(folder / "data" / "latents.npy")
    conditioner = Conditioner(pipeline, values_a_frame(latents))

    def losses(rng: np.random.Generator, batch: int) -> Losses:
        rows = np.sort(rng.integers(len(latents), size=batch))
        target = torch.from_numpy(latents[rows].astype(np.float32)) * scaling_factor
        dropped = rng.uniform(size=batch) < 0.05
        new, t5, mask = conditioner(draw_texts(data, rows, rng), dropped)
        return conditioner.loss(new, t5, mask, target, labels_of(data, rows, dropped))

    modules = nn.ModuleDict(dict(conditioner.named_children()))
    return train(folder / "conditioning.pt", modules, plan, losses, minutes)


def labels_of(data: Dataset, rows: np.ndarray, dropped: np.ndarray) -> torch.Tensor:
    """(rows,) the class of each clip, -100 where its caption was dropped."""
    return torch.from_numpy(np.where(dropped, -100, data.labels[rows]))


def values_a_frame(latents: np.ndarray) -> int:
    """Channels times bins of (clips, channels, frames, bins)."""
    return int(latents.shape[1] * latents.shape[3])
