"""The HiFi-GAN vocoder: a log-mel spectrogram to a waveform."""

import torch
from torch.nn.utils import parametrize
from transformers import SpeechT5HifiGan

from export.checkpoint import Checkpoint
from export.components.component import Component, Sizes, Tensors, normal, tensor


class _Vocoder(torch.nn.Module):
    def __init__(self, hifigan: SpeechT5HifiGan) -> None:
        super().__init__()
        self.hifigan = hifigan

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        return self.hifigan(mel)


def vocoder(checkpoint: Checkpoint) -> Component:
    """Mel (batch, frames, mel_bins) -> waveform (batch, samples)."""
    hifigan = checkpoint.load("vocoder")
    _fold_weight_norm(hifigan)
    audio = checkpoint.audio()
    batch, typical = (1, None), audio.default_latent_height * audio.vae_scale_factor

    def draw(sizes: Sizes, generator: torch.Generator) -> Tensors:
        return {"mel": normal(generator, sizes["batch"], sizes["frames"], audio.mel_bins)}

    return Component(
        module=_Vocoder(hifigan).eval(),
        inputs={"mel": tensor("float32", batch=batch, frames=(1, None), mel_bins=audio.mel_bins)},
        outputs={"waveform": tensor("float32", batch=batch, samples=(1, None))},
        draw=draw,
        sizes=(
            {"batch": 2, "frames": 20},
            {"batch": 1, "frames": 1},
            {"batch": 1, "frames": typical},
            {"batch": 3, "frames": 13},
        ),
        grows_with=("frames", audio.vae_scale_factor),
        bf16_islands={"transposed convolutions": "^ConvTranspose "},  # TensorRT has none in BF16
        typical={"batch": 1, "frames": typical},
        limits={"frames": audio.longest_vocoder_frames},
    )


def _fold_weight_norm(module: torch.nn.Module) -> None:
    """Replace each weight-normed weight, old style or parametrised, by its value."""
    for layer in module.modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")
        elif hasattr(layer, "weight_g"):
            torch.nn.utils.remove_weight_norm(layer)
