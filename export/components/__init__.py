"""One file a submodule: the wrapper that is traced, its tensors, the sizes it is checked at.

`COMPONENTS` maps an engine's name to the function that makes its `Component` from a checkpoint, in the build's order.
"""

from collections.abc import Callable

from export.checkpoint import Checkpoint
from export.components import clap, gpt2, hifigan, projection, t5, unet, unet_shallow, vae, vits
from export.components.component import Component


def _text_encoder_2(checkpoint: Checkpoint) -> Component:
    return vits.encoder(checkpoint) if checkpoint.speaks else t5.encoder(checkpoint)


COMPONENTS: dict[str, Callable[[Checkpoint], Component]] = {
    "text_encoder": clap.text_encoder,
    "audio_encoder": clap.audio_encoder,
    "text_encoder_2": _text_encoder_2,
    "projection_model": projection.projection_model,
    "language_model": gpt2.language_model,
    "unet": unet.unet,
    "unet_shallow": unet_shallow.unet_shallow,
    "vae_decoder": vae.decoder,
    "vocoder": hifigan.vocoder,
}

__all__ = ["COMPONENTS", "Component"]
