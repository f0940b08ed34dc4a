"""Upsampling and the convolution after it as one convolution of the small image."""

from typing import cast

import torch
from diffusers.models.upsampling import Upsample2D


class FoldedUpsample(torch.nn.Module):
    """Nearest-neighbor upsampling by two, then a 3 x 3 convolution: 4/9 of the arithmetic, the same image.

    Of the nine pixels that such a convolution sees, pairs are copies of one pixel of the small image, so each of the
    four pixels that a small one becomes needs a 2 x 2 kernel of sums. All four kernels are one convolution; its result
    has a border of one pixel, because the small image is padded on every side. A UNet upsamples to odd sizes too, where
    the last pair has one pixel and other sums: this is for decoders.
    """

    def __init__(self, conv: torch.nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        kernels = _fold(_fold(conv.weight.data.double(), 2), 4)  # (out, in, row, phase, column, phase)
        weight = kernels.permute(0, 3, 5, 1, 2, 4).reshape(4 * conv.out_channels, conv.in_channels, 2, 2)
        self.conv = torch.nn.Conv2d(conv.in_channels, 4 * conv.out_channels, 2, padding=1)
        self.conv.weight.data = weight.to(conv.weight.dtype)
        self.conv.bias = torch.nn.Parameter(conv.bias.data.repeat_interleave(4))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) to twice the size."""
        return torch.nn.functional.pixel_shuffle(self.conv(hidden_states), 2)[:, :, 1:-1, 1:-1]


def fold_upsampling(module: torch.nn.Module) -> None:
    """Replace every upsampling of a decoder of the reference's by its folded form."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Upsample2D):
                setattr(parent, name, FoldedUpsample(cast(torch.nn.Conv2d, child.conv)))


def _fold(kernel: torch.Tensor, axis: int) -> torch.Tensor:
    """A kernel's axis of three as two axes of two: taps on the small image, and the pixel that it makes.

    Pixel 0 here is the later one of its pair: see above for where they lie.
    """
    first, middle, last = kernel.unbind(axis)
    later = torch.stack([first + middle, last], dim=axis)
    earlier = torch.stack([first, middle + last], dim=axis)
    return torch.stack([later, earlier], dim=axis + 1)
