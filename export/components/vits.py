"""VITS's text encoder: what a speech checkpoint has in T5's place. The rest of VITS is not used."""

import torch
from transformers import VitsModel

from export.checkpoint import Checkpoint
from export.components.component import Component, Sizes, Tensors, padding_mask, tensor


class _Encoder(torch.nn.Module):
    def __init__(self, vits: VitsModel) -> None:
        super().__init__()
        self.text_encoder = vits.text_encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        seen = attention_mask.to(self.text_encoder.project.weight.dtype)  # (batch, tokens)
        # the model's own mask depends on Python values; this one, (batch, 1, tokens, tokens), traces
        bias = (1.0 - seen)[:, None, None, :] * torch.finfo(seen.dtype).min
        bias = bias.expand(-1, -1, input_ids.shape[1], -1)
        return self.text_encoder(input_ids, padding_mask=seen[..., None], attention_mask=bias).last_hidden_state


def encoder(checkpoint: Checkpoint) -> Component:
    """input_ids, attention_mask (batch, tokens) -> last_hidden_state (batch, tokens, width).

    The tokens are always as many as the tokenizer's limit: the reference pads to it, and what comes after takes no
    other number. States where the mask is 0 are zeros.
    """
    vits = checkpoint.load("text_encoder_2")
    tokens, batch = checkpoint.text_tokens(), (1, None)

    def draw(sizes: Sizes, generator: torch.Generator) -> Tensors:
        mask = padding_mask(generator, sizes["batch"], tokens)
        return {
            "input_ids": torch.randint(0, vits.config.vocab_size, mask.shape, generator=generator),
            "attention_mask": mask,
        }

    return Component(
        module=_Encoder(vits).eval(),
        inputs={
            "input_ids": tensor("int64", batch=batch, tokens=tokens),
            "attention_mask": tensor("int64", batch=batch, tokens=tokens),
        },
        outputs={"last_hidden_state": tensor("float32", batch=batch, tokens=tokens, width=vits.config.hidden_size)},
        draw=draw,
        sizes=({"batch": 2}, {"batch": 1}, {"batch": 3}),
    )
