"""The kinds of checkpoint that can be built: which pipeline's they are, and what their parts may be.

One more is an entry here and in `runtime.bundle.families`, and a text encoder in `runtime.text` if its prompts become
something else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel
from transformers import (
    ClapModel,
    ClapTextModelWithProjection,
    GPT2LMHeadModel,
    GPT2Model,
    SpeechT5HifiGan,
    T5EncoderModel,
    VitsModel,
)

from export import configs
from runtime.bundle.families import FAMILIES as RUNTIME
from runtime.bundle.schema import CallDefaults, FamilyName

Classes = Mapping[type, Any]

KINDS: Mapping[type, Any] = {  # what is read of the config of each class
    AudioLDM2ProjectionModel: configs.ProjectionConfig,
    AudioLDM2UNet2DConditionModel: configs.UNetConfig,
    AutoencoderKL: configs.VaeConfig,
    ClapModel: configs.ClapConfig,
    ClapTextModelWithProjection: configs.ClapTextAloneConfig,
    GPT2Model: configs.GPT2Config,
    SpeechT5HifiGan: configs.VocoderConfig,
    T5EncoderModel: configs.T5Config,
    UNet2DConditionModel: configs.UNetConfig,
    VitsModel: configs.VitsConfig,
}
SOUND: Mapping[str, Classes] = {
    "vae": {AutoencoderKL: AutoencoderKL},
    "vocoder": {SpeechT5HifiGan: SpeechT5HifiGan},
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of checkpoint.

    `modules`: what each part may be, by the class that `model_index.json` names, and the class that loads it.
    `tokenizers`: parts by the engine that reads what they make. `defaults`: the reference's, of calls that do not say.
    """

    name: FamilyName
    modules: Mapping[str, Classes]
    tokenizers: Mapping[str, str]
    defaults: CallDefaults

    @property
    def ranks(self) -> bool:
        """Whether it has CLAP's audio tower."""
        return RUNTIME[self.name].ranks

    @property
    def has_language_model(self) -> bool:
        """Whether the UNet attends to states of the texts; else it takes CLAP's embedding as its class."""
        return "language_model" in self.modules

    @property
    def engines(self) -> tuple[str, ...]:
        """The names that the runtime asks for."""
        return RUNTIME[self.name].engines


AUDIOLDM2 = Family(
    name="audioldm2",
    # GPT2's head is never used, and published checkpoints name GPT2Model: both load as the trunk.
    modules={
        "text_encoder": {ClapModel: ClapModel},
        "text_encoder_2": {T5EncoderModel: T5EncoderModel, VitsModel: VitsModel},
        "projection_model": {AudioLDM2ProjectionModel: AudioLDM2ProjectionModel},
        "language_model": {GPT2Model: GPT2Model, GPT2LMHeadModel: GPT2Model},
        "unet": {AudioLDM2UNet2DConditionModel: AudioLDM2UNet2DConditionModel},
        **SOUND,
    },
    tokenizers={"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
    defaults=CallDefaults(),
)
AUDIOLDM = Family(
    name="audioldm",
    modules={
        "text_encoder": {ClapTextModelWithProjection: ClapTextModelWithProjection},
        "unet": {UNet2DConditionModel: UNet2DConditionModel},
        **SOUND,
    },
    tokenizers={"text_encoder": "tokenizer"},
    defaults=CallDefaults(num_inference_steps=10, guidance_scale=2.5),
)
MUSICLDM = Family(
    name="musicldm",
    modules={**AUDIOLDM.modules, "text_encoder": {ClapModel: ClapModel}},
    tokenizers={"text_encoder": "tokenizer"},
    defaults=CallDefaults(num_inference_steps=200, guidance_scale=2.0),
)
BY_PIPELINE: Mapping[str, Family] = {
    RUNTIME[family.name].pipeline: family for family in (AUDIOLDM2, AUDIOLDM, MUSICLDM)
}
