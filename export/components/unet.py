"""The UNet: predicts the noise in the latents, conditioned on GPT2's and T5's states, or on CLAP's embedding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

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
from runtime.backends.specs import TensorSpec

TIMESTEP = {"timestep embedding": r"/time_proj/"}  # sines of up to 999 radians: FP16 knows whole numbers there
DEEP = "deep_features"
SPOKEN_TOKENS = 512  # new embeddings of a speech checkpoint


class UNet(torch.nn.Module):
    """The UNet inside sees its images turned: see `turn_kernels`. `texts` are the names of what conditions it."""

    def __init__(self, unet: Any, texts: Sequence[str]) -> None:
        super().__init__()
        self.unet, self._texts = unet, texts
        self._deep: list[torch.Tensor] = []
        unet.up_blocks[-1].register_forward_pre_hook(self._keep, with_kwargs=True)
        turn_kernels(self)

    def _keep(self, _: Any, __: Any, inputs: dict[str, Any]) -> None:
        self._deep.append(inputs["hidden_states"])

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, *texts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The noise, upright, and what the last up block took in, turned: see `unet`."""
        named = {"encoder_hidden_states": None, **dict(zip(self._texts, texts, strict=True))}
        noise: torch.Tensor = self.unet(sample.transpose(2, 3), timestep, **named, return_dict=False)[0]
        return noise.transpose(2, 3), self._deep.pop()


def unet(checkpoint: Checkpoint) -> Component:
    """Sample (batch, channels, height, mel), timestep (1,) and what the texts are -> noise_pred.

    Texts are both states and the second's mask, or without a language model CLAP's embedding.

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
    typical = checkpoint.audio().default_latent_height
    batch, height = (1, None), (1, None)
    texts = _states(checkpoint) if checkpoint.family.has_language_model else _label(checkpoint)

    def draw(sizes: Sizes, generator: torch.Generator) -> Tensors:
        return {
            "sample": normal(generator, sizes["batch"], channels, sizes["height"], mel),
            "timestep": torch.randint(0, 1000, (1,), generator=generator).float(),
            **texts.draw(sizes, generator),
        }

    model.set_attn_processor(PlainAttention())
    return Component(
        module=UNet(model, tuple(texts.inputs)).eval(),
        inputs={
            "sample": tensor("float32", batch=batch, channels=channels, height=height, mel=mel),
            "timestep": tensor("float32", one=1),
            **texts.inputs,
        },
        outputs={
            "noise_pred": tensor("float32", batch=batch, out_channels=out_channels, height=height, mel=mel),
            DEEP: tensor("float32", batch=batch, deep_channels=deep, mel=mel, height=height),
        },
        draw=draw,
        sizes=tuple(
            {"batch": rows, "height": high, **text}
            for rows, high, text in zip((2, 1, 2, 3, 1), (21, 1, typical, 13, typical + 5), texts.sizes, strict=True)
        ),
        grows_with=("height", 1),
        islands=NORMS | TIMESTEP,
        typical={"batch": 2, "height": typical, **texts.typical},
        limits=texts.limits,
        fuse_attention=lambda: model.set_attn_processor(FusedAttention()),
    )


@dataclass(frozen=True)
class _Texts:
    """What conditions a UNet: its inputs beside the sample and the timestep, and their sizes.

    `sizes` go with the five that are compared, the first of which is traced.
    """

    inputs: dict[str, TensorSpec]
    draw: Callable[[Sizes, torch.Generator], Tensors]
    sizes: tuple[Sizes, ...]
    typical: Sizes
    limits: Sizes


def _states(checkpoint: Checkpoint) -> _Texts:
    """The language model's states, and those of the second text encoder with their mask."""
    first, second = checkpoint.language_width(), checkpoint.text_width()
    new, longest = checkpoint.max_new_tokens(), checkpoint.text_tokens()
    batch, tokens = (1, None), (1, longest)

    def draw(sizes: Sizes, generator: torch.Generator) -> Tensors:
        rows = sizes["batch"]
        return {
            "encoder_hidden_states": normal(generator, rows, sizes["new_tokens"], first),
            "encoder_hidden_states_1": normal(generator, rows, sizes["tokens"], second),
            "encoder_attention_mask_1": padding_mask(generator, rows, sizes["tokens"]),
        }

    counts = ((9, new), (1, new), (12, new), (7, new + 5), (longest, new))
    return _Texts(
        inputs={
            "encoder_hidden_states": tensor("float32", batch=batch, new_tokens=(1, None), width=first),
            "encoder_hidden_states_1": tensor("float32", batch=batch, tokens=tokens, width_1=second),
            "encoder_attention_mask_1": tensor("int64", batch=batch, tokens=tokens),
        },
        draw=draw,
        sizes=tuple({"tokens": tokens, "new_tokens": new_tokens} for tokens, new_tokens in counts),
        typical={"tokens": TYPICAL_TOKENS, "new_tokens": new},
        limits={"new_tokens": max(new, SPOKEN_TOKENS if checkpoint.speaks else 64)},
    )


def _label(checkpoint: Checkpoint) -> _Texts:
    """CLAP's embedding of the text."""
    width = checkpoint.configs.text_encoder.projection_dim

    def draw(sizes: Sizes, generator: torch.Generator) -> Tensors:
        embeds = normal(generator, sizes["batch"], width)
        return {"class_labels": torch.nn.functional.normalize(embeds, dim=-1)}

    inputs = {"class_labels": tensor("float32", batch=(1, None), width=width)}
    return _Texts(inputs=inputs, draw=draw, sizes=({},) * 5, typical={}, limits={})
