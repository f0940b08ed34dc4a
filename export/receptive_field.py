"""How far around its own place a sample of HiFi-GAN depends on the mel spectrogram, from the config alone."""

from collections.abc import Mapping, Sequence
from typing import Any

WINDOW_FRAMES = 1024  # mel frames that the vocoder makes audio of in one run; bench/LOG.md: what other lengths cost
EDGE_KERNEL = 7  # of SpeechT5HifiGan's first and last convolutions, which its config does not name


def vocoder_context_frames(config: Mapping[str, Any]) -> int:
    """Mel frames on either side of a frame that its samples depend on, for a SpeechT5HifiGan's config.

    The span of samples that belong to frame 0 is followed backwards through the layers, as positions (first, last).
    """
    rates, kernels = config["upsample_rates"], config["upsample_kernel_sizes"]
    reach = _block_reach(config["resblock_kernel_sizes"], config["resblock_dilation_sizes"])
    first, last = 0, 1
    for rate in rates:
        last *= rate
    first, last = _widen(first, last - 1, EDGE_KERNEL // 2)
    for rate, kernel in zip(reversed(rates), reversed(kernels), strict=True):
        first, last = _widen(first, last, reach)
        padding = (kernel - rate) // 2
        # ConvTranspose1d: output o is a sum over inputs i with 0 <= o + padding - i * rate < kernel
        first, last = -((kernel - 1 - padding - first) // rate), (last + padding) // rate
    first, last = _widen(first, last, EDGE_KERNEL // 2)
    return max(-first, last)


def _block_reach(kernels: Sequence[int], dilations: Sequence[Sequence[int]]) -> int:
    """Positions on either side that the widest block sees; each dilated convolution is followed by a plain one."""
    return max(
        sum((kernel - 1) // 2 * (dilation + 1) for dilation in block)
        for kernel, block in zip(kernels, dilations, strict=True)
    )


def _widen(first: int, last: int, by: int) -> tuple[int, int]:
    return first - by, last + by
