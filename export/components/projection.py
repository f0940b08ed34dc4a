"""The projection of CLAP's and T5's (or VITS's) states into GPT2's width, with learned start and end embeddings."""

import torch
from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2ProjectionModel

from export.checkpoint import Checkpoint
from export.components.component import TYPICAL_TOKENS, Component, Sizes, Tensors, normal, padding_mask, tensor


class _Projection(torch.nn.Module):
    def __init__(self, projection: AudioLDM2ProjectionModel) -> None:
        super().__init__()
        self.projection = projection

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        hidden_states_1: torch.Tensor,
        attention_mask_1: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.projection(
            hidden_states=hidden_states,
            hidden_states_1=hidden_states_1,
            attention_mask=attention_mask,
            attention_mask_1=attention_mask_1,
        )
        return output.hidden_states, output.attention_mask


def projection_model(checkpoint: Checkpoint) -> Component:
    """CLAP and T5 states and masks -> projected_states (batch, positions, width), projected_mask (batch, positions).

    A speech checkpoint adds a learned embedding to each position of the second states: their number is then fixed.
    """
    projection = checkpoint.load("projection_model")
    first, second = projection.config.text_encoder_dim, projection.config.text_encoder_1_dim
    width = projection.config.langauge_model_dim  # the reference's own spelling
    longest = checkpoint.text_tokens()
    shortest = 1 if projection.use_learned_position_embedding is None else longest
    batch, tokens, positions = (1, None), (shortest, longest), (shortest + 5, longest + 5)

    def draw(sizes: Sizes, generator: torch.Generator) -> Tensors:
        rows, length = sizes["batch"], sizes["tokens"]
        return {
            "hidden_states": normal(generator, rows, 1, first),
            "attention_mask": torch.randint(0, 2, (rows, 1), generator=generator),
            "hidden_states_1": normal(generator, rows, length, second),
            "attention_mask_1": padding_mask(generator, rows, length),
        }

    return Component(
        module=_Projection(projection).eval(),
        inputs={
            "hidden_states": tensor("float32", batch=batch, one=1, clap_width=first),
            "attention_mask": tensor("int64", batch=batch, one=1),
            "hidden_states_1": tensor("float32", batch=batch, tokens=tokens, width_1=second),
            "attention_mask_1": tensor("int64", batch=batch, tokens=tokens),
        },
        outputs={
            "projected_states": tensor("float32", batch=batch, positions=positions, width=width),
            "projected_mask": tensor("int64", batch=batch, positions=positions),
        },
        draw=draw,
        sizes=tuple({"batch": rows, "tokens": length} for rows, length in ((2, 12), (1, 1), (3, 17), (1, longest))),
        typical={"batch": 2, "tokens": TYPICAL_TOKENS},
    )
