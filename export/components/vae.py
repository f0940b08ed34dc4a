"""The VAE: a log-mel spectrogram to the distribution of its latents, and latents to a log-mel spectrogram."""

import math

import torch
from diffusers import AutoencoderKL

from export.checkpoint import Checkpoint
from export.components.attention import FusedAttention, PlainAttention
from export.components.component import Component, Sizes, Tensors, normal, tensor
from export.components.upsample import fold_upsampling
from export.components.wide import turn_kernels

QUIETEST = math.log(1e-5)  # of a log-mel spectrogram
LOUDNESS = -5.0, 2.5  # mean and deviation of typical ones


class _Decoder(torch.nn.Module):
    """The decoder, on turned images and with upsampling by convolution: see `turn_kernels`, `FoldedUpsample`."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae
        turn_kernels(self)
        fold_upsampling(self)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        mel: torch.Tensor = self.vae.decode(latents.transpose(2, 3), return_dict=False)[0]  # type: ignore[attr-defined]
        return mel.squeeze(1).transpose(1, 2)


class _Encoder(torch.nn.Module):
    """The encoder, on turned images: see `turn_kernels`. The reference bounds the log variance too."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae
        turn_kernels(self)

    def forward(self, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        posterior = self.vae.encode(mel.transpose(1, 2)[:, None], return_dict=False)[0]  # type: ignore[attr-defined]
        return posterior.mean.transpose(2, 3), posterior.logvar.transpose(2, 3)


def encoder(checkpoint: Checkpoint) -> Component:
    """Mel (batch, frames, mel_bins) -> mean and log_variance (batch, channels, height, mel), not scaled."""
    vae, audio = checkpoint.load("vae"), checkpoint.audio()
    vae.set_attn_processor(PlainAttention())
    del vae.decoder, vae.post_quant_conv
    batch, factor = (1, None), audio.vae_scale_factor

    def draw(sizes: Sizes, generator: torch.Generator) -> Tensors:
        mel = normal(generator, sizes["batch"], sizes["frames"], audio.mel_bins)
        return {"mel": (LOUDNESS[0] + LOUDNESS[1] * mel).clamp(min=QUIETEST)}

    latents = tensor("float32", batch=batch, channels=audio.latent_channels, height=(1, None), mel=audio.latent_width)
    return Component(
        module=_Encoder(vae).eval(),
        inputs={"mel": tensor("float32", batch=batch, frames=(factor, None), mel_bins=audio.mel_bins)},
        outputs={"mean": latents, "log_variance": latents},
        draw=draw,
        sizes=(
            {"batch": 2, "frames": 21 * factor},
            {"batch": 1, "frames": factor},
            {"batch": 1, "frames": audio.default_latent_height * factor},
            {"batch": 3, "frames": 13 * factor},
        ),
        grows_with=("frames", factor),
        typical={"batch": 1, "frames": audio.default_latent_height * factor},
        fuse_attention=lambda: vae.set_attn_processor(FusedAttention()),
    )


def decoder(checkpoint: Checkpoint) -> Component:
    """Latents (batch, channels, height, mel), divided by the scaling factor -> mel (batch, frames, mel_bins)."""
    vae = checkpoint.load("vae")
    audio = checkpoint.audio()
    vae.set_attn_processor(PlainAttention())
    del vae.encoder, vae.quant_conv
    batch = (1, None)

    def draw(sizes: Sizes, generator: torch.Generator) -> Tensors:
        shape = (sizes["batch"], audio.latent_channels, sizes["height"], audio.latent_width)
        return {"latents": normal(generator, *shape) / audio.vae_scaling_factor}

    return Component(
        module=_Decoder(vae).eval(),
        inputs={
            "latents": tensor(
                "float32", batch=batch, channels=audio.latent_channels, height=(1, None), mel=audio.latent_width
            )
        },
        outputs={"mel": tensor("float32", batch=batch, frames=(audio.vae_scale_factor, None), mel_bins=audio.mel_bins)},
        draw=draw,
        sizes=(
            {"batch": 2, "height": 21},
            {"batch": 1, "height": 1},
            {"batch": 1, "height": audio.default_latent_height},
            {"batch": 3, "height": 13},
        ),
        grows_with=("height", 1),
        typical={"batch": 1, "height": audio.default_latent_height},
        fuse_attention=lambda: vae.set_attn_processor(FusedAttention()),
    )
