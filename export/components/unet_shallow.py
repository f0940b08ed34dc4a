"""The outermost level of the UNet, which runs on deep features that were kept from an earlier step.

The levels below cost most of the UNet, and what they give changes little from step to step: DeepCache, Ma et al. 2023,
arXiv:2312.00858.
"""

from dataclasses import replace
from typing import Any

import torch

from export.checkpoint import Checkpoint
from export.components.component import Component, Sizes, Tensors, normal
from export.components.unet import DEEP, UNet, unet


class _Shallow(torch.nn.Module):
    """The whole UNet's own forward, cut to its first and last block, with the deep features for all between them."""

    def __init__(self, whole: UNet) -> None:
        super().__init__()
        model: Any = whole.unet
        model.down_blocks, model.up_blocks = model.down_blocks[:1], model.up_blocks[-1:]
        model.down_blocks[0].downsamplers = None
        model.num_upsamplers = 0
        self.whole, self.between = whole, _Given()
        model.mid_block = self.between

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        *others, self.between.value = inputs
        noise: torch.Tensor = self.whole(*others)[0]
        return noise


class _Given(torch.nn.Module):
    """Stands for a block, and gives what it was given."""

    value: torch.Tensor

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        return self.value


def unet_shallow(checkpoint: Checkpoint) -> Component:
    """The UNet's inputs, and its deep_features (batch, deep channels, mel, height), on their side -> noise_pred.

    With the deep features of the same sample and timestep it gives what the UNet gives. The graph keeps what that
    level uses: in the published checkpoints it attends to no text.
    """
    whole = unet(checkpoint)
    assert isinstance(whole.module, UNet)
    spec = whole.outputs[DEEP]
    channels, mel = spec.min_shape[1:3]

    def draw(sizes: Sizes, generator: torch.Generator) -> Tensors:
        deep = normal(generator, sizes["batch"], channels, mel, sizes["height"])
        return {**whole.draw(sizes, generator), DEEP: deep}

    return replace(
        whole,
        module=_Shallow(whole.module).eval(),
        inputs={**whole.inputs, DEEP: spec},
        outputs={"noise_pred": whole.outputs["noise_pred"]},
        draw=draw,
    )
