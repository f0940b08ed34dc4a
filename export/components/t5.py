"""The T5 encoder: the prompt's second view, which the UNet attends to token by token."""

import torch
from transformers import T5EncoderModel

from export.checkpoint import Checkpoint
from export.components.component import NORMS, TYPICAL_TOKENS, Component, Sizes, Tensors, padding_mask, tensor

# The trained model's feed-forward outputs leave FP16's range, and so does the sum that they are added to.
FEED_FORWARD = {"feed-forward output and residual": r"DenseReluDense/(Mul|wo/)|^Add .*block\.\d+/layer\.\d+/Add"}


class _Encoder(torch.nn.Module):
    def __init__(self, t5: T5EncoderModel) -> None:
        super().__init__()
        self.t5 = t5

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.t5(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def encoder(checkpoint: Checkpoint) -> Component:
    """input_ids, attention_mask (batch, tokens) -> last_hidden_state (batch, tokens, width)."""
    t5 = checkpoint.load("text_encoder_2")
    longest = checkpoint.text_tokens()
    batch, tokens = (1, None), (1, longest)

    def draw(sizes: Sizes, generator: torch.Generator) -> Tensors:
        mask = padding_mask(generator, sizes["batch"], sizes["tokens"])
        return {
            "input_ids": torch.randint(0, t5.config.vocab_size, mask.shape, generator=generator) * mask,
            "attention_mask": mask,
        }

    return Component(
        module=_Encoder(t5).eval(),
        inputs={
            "input_ids": tensor("int64", batch=batch, tokens=tokens),
            "attention_mask": tensor("int64", batch=batch, tokens=tokens),
        },
        outputs={"last_hidden_state": tensor("float32", batch=batch, tokens=tokens, width=t5.config.d_model)},
        draw=draw,
        sizes=(
            {"batch": 2, "tokens": 12},
            {"batch": 1, "tokens": 1},
            {"batch": 3, "tokens": 17},
            {"batch": 1, "tokens": longest},
        ),
        islands=NORMS | FEED_FORWARD,
        typical={"batch": 2, "tokens": TYPICAL_TOKENS},
    )
