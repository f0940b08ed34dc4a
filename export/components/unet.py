"""The UNet: predicts the noise in the latents, conditioned on GPT2's and T5's states."""

from typing import Any

import torch
from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2UNet2DConditionModel

from export.checkpoint import Checkpoint
from export.components.attention import FusedAttention, PlainAttention
from export.components.component import (
    NORMS,
    TYPICAL_TOKENS,
    Component,
    Sizes,
    Tensors,
    normal,
    padding_mask,
    tensor,
)
from export.components.wide import turn_kernels

TIMESTEP = {"timestep embedding": r"/time_proj/"}  # sines of up to 999 radians: FP16 knows whole numbers there
DEEP = "deep_features"
SPOKEN_TOKENS = 512  # new embeddings of a speech checkpoint


class UNet(torch.nn.Module):
    """The UNet inside sees its images turned: see `turn_kernels`."""

    def __init__(self, unet: AudioLDM2UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet
        self._deep: list[torch.Tensor] = []
        unet.up_blocks[-1].register_forward_pre_hook(self._keep, with_kwargs=True)
        turn_kernels(self)

    def _keep(self, _: Any, __: Any, inputs: dict[str, Any]) -> None:
        self._deep.append(inputs["hidden_states"])

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_1: torch.Tensor,
        encoder_attention_mask_1: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The noise, upright, and what the last up block took in, turned: see `unet`."""
        noise: torch.Tensor = self.unet(
            sample.transpose(2, 3),
            timestep,
            encoder_hidden_states=encoder_hidden_states,
            encoder_hidden_states_1=encoder_hidden_states_1,
            encoder_attention_mask_1=encoder_attention_mask_1,
            return_dict=False,
        )[0]
        return noise.transpose(2, 3), self._deep.pop()


def unet(checkpoint: Checkpoint) -> Component:
    """Sample (batch, channels, height, mel), timestep (1,), both states and the second's mask -> noise_pred.

    The second output, deep_features (batch, deep channels, mel, height), is what the last up block takes in besides its
    skip connections: all that `unet_shallow` does not compute. It lies on its side, as it does inside.

    The first size is traced: its height is no multiple of the overall stride, which makes the reference pass each
    upsampling its exact size. Traced so, the graph holds for every height; traced at a multiple it would not.
    """
    model = checkpoint.load("unet")
    channels, mel = model.config.in_channels, checkpoint.audio().latent_width
    out_channels = model.config.out_channels
    widths = model.config.block_out_channels
    deep = widths[min(1, len(widths) - 1)]  # the level below is wider, where there is one
    first, second = checkpoint.language_width(), checkpoint.text_width()
    new_tokens, longest = checkpoint.max_new_tokens(), checkpoint.text_tokens()
    typical = checkpoint.audio().default_latent_height
    batch, height, tokens = (1, None), (1, None), (1, longest)

    def draw(sizes: Sizes, generator: torch.Generator) -> Tensors:
        rows = sizes["batch"]
        return {
            "sample": normal(generator, rows, channels, sizes["height"], mel),
            "timestep": torch.randint(0, 1000, (1,), generator=generator).float(),
            "encoder_hidden_states": normal(generator, rows, sizes["new_tokens"], first),
            "encoder_hidden_states_1": normal(generator, rows, sizes["tokens"], second),
            "encoder_attention_mask_1": padding_mask(generator, rows, sizes["tokens"]),
        }

    def size(rows: int, height: int, tokens: int, new: int = new_tokens) -> Sizes:
        return {"batch": rows, "height": height, "tokens": tokens, "new_tokens": new}

    model.set_attn_processor(PlainAttention())
    return Component(
        module=UNet(model).eval(),
        inputs={
            "sample": tensor("float32", batch=batch, channels=channels, height=height, mel=mel),
            "timestep": tensor("float32", one=1),
            "encoder_hidden_states": tensor("float32", batch=batch, new_tokens=(1, None), width=first),
            "encoder_hidden_states_1": tensor("float32", batch=batch, tokens=tokens, width_1=second),
            "encoder_attention_mask_1": tensor("int64", batch=batch, tokens=tokens),
        },
        outputs={
            "noise_pred": tensor("float32", batch=batch, out_channels=out_channels, height=height, mel=mel),
            DEEP: tensor("float32", batch=batch, deep_channels=deep, mel=mel, height=height),
        },
        draw=draw,
        sizes=(
            size(2, 21, 9),
            size(1, 1, 1),
            size(2, typical, 12),
            size(3, 13, 7, new_tokens + 5),
            size(1, typical + 5, longest),
        ),
        grows_with=("height", 1),
        islands=NORMS | TIMESTEP,
        typical=size(2, typical, TYPICAL_TOKENS),
        limits={"new_tokens": max(new_tokens, SPOKEN_TOKENS if checkpoint.speaks else 64)},
        fuse_attention=lambda: model.set_attn_processor(FusedAttention()),
    )
