"""The kinds of model that a bundle may hold. What a prompt becomes in each is in `runtime.text`."""

from collections.abc import Mapping
from dataclasses import dataclass

SOUND_ENGINES = ("unet", "unet_shallow", "vae_decoder", "vocoder")  # of every family
RANKING_ENGINE = "audio_encoder"
_OF_LANGUAGE = (
    "transcription",
    "max_new_tokens",
    "prompt_weights",
    "generated_prompt_embeds",
    "negative_generated_prompt_embeds",
    "attention_mask",
    "negative_attention_mask",
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is the same for every model of a kind. The manifest has what differs."""

    pipeline: str  # the reference's class
    text_engines: tuple[str, ...]  # that a prompt goes through, in this order
    ranks: bool  # whether it has CLAP's audio tower
    lacks: tuple[str, ...] = ()  # arguments of a call that mean nothing to it

    @property
    def engines(self) -> tuple[str, ...]:
        """The names that the pipeline asks for."""
        return (*self.text_engines, *([RANKING_ENGINE] if self.ranks else []), *SOUND_ENGINES)


FAMILIES: Mapping[str, Family] = {
    "audioldm2": Family(
        pipeline="AudioLDM2Pipeline",
        text_engines=("text_encoder", "text_encoder_2", "projection_model", "language_model"),
        ranks=True,
    ),
    "audioldm": Family(pipeline="AudioLDMPipeline", text_engines=("text_encoder",), ranks=False, lacks=_OF_LANGUAGE),
    "musicldm": Family(pipeline="MusicLDMPipeline", text_engines=("text_encoder",), ranks=True, lacks=_OF_LANGUAGE),
}
