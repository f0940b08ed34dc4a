"""One file a submodule: the wrapper that is traced, its tensors, the sizes it is checked at.

`COMPONENTS` maps an engine's name to what makes its `Component` from a checkpoint, in the build's order, with the facts
that are known before that. A family has some of them: those that the runtime asks for, see `runtime.bundle.families`.
"""

from export.checkpoint import Checkpoint
from export.components import clap, gpt2, hifigan, projection, t5, unet, unet_shallow, vae, vits
from export.components.component import Component, Facts, Submodule
from runtime.bundle.schema import LATER_ENGINES


def _text_encoder_2(checkpoint: Checkpoint) -> Component:
    return vits.encoder(checkpoint) if checkpoint.speaks else t5.encoder(checkpoint)


COMPONENTS: dict[str, Submodule] = {
    "text_encoder": Submodule(clap.text_encoder),
    "audio_encoder": Submodule(clap.audio_encoder, Facts(rows="waveform")),
    "text_encoder_2": Submodule(_text_encoder_2),
    "projection_model": Submodule(projection.projection_model),
    "language_model": Submodule(gpt2.language_model),
    "unet": Submodule(unet.unet, Facts(spans_audio=True, quantized=True)),
    "unet_shallow": Submodule(unet_shallow.unet_shallow, Facts(spans_audio=True)),
    "vae_encoder": Submodule(vae.encoder, Facts(rows="sliceable", spans_audio=True)),
    "vae_decoder": Submodule(vae.decoder, Facts(rows="sliceable", spans_audio=True, quantized=True)),
    "vocoder": Submodule(hifigan.vocoder, Facts(rows="waveform", in_windows=True, audible=True, quantized=True)),
}


def names(checkpoint: Checkpoint) -> list[str]:
    """The engines of a checkpoint's family, in the build's order."""
    wanted = (*checkpoint.family.engines, *LATER_ENGINES)
    return [name for name in COMPONENTS if name in wanted]


__all__ = ["COMPONENTS", "Component", "Facts", "Submodule", "names"]
