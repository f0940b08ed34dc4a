"""The fields that we use of a checkpoint's configs, with the bounds that they have to keep.

A field that is missing has the default of the library's class, as the reference has it.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from transformers import PreTrainedModel

from export.errors import CheckpointError
from export.weights import refuse_pointer

_LARGEST = 2**20  # of a size: above it a damaged field would ask for all memory before it is found wrong
Count = Annotated[int, msgspec.Meta(ge=1, le=_LARGEST)]
Index = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]
Positive = Annotated[float, msgspec.Meta(gt=0, lt=2**31)]
Counts = Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)]
Widths = Count | tuple[Count | tuple[Count | None, ...] | None, ...] | None


class _Config(msgspec.Struct, frozen=True, kw_only=True):
    """Other fields of the file are left to the library that makes the module."""


class ClapTextConfig(_Config, frozen=True):
    """CLAP's text tower. Positions are counted from `pad_token_id` + 1 on."""

    vocab_size: Count
    max_position_embeddings: Count
    pad_token_id: Index

    @property
    def max_tokens(self) -> int:
        """The most tokens that have a position."""
        return self.max_position_embeddings - self.pad_token_id - 1


class ClapAudioConfig(_Config, frozen=True):
    """CLAP's audio tower. Its image is a square of `spec_size`, folded from a longer strip of mel frames."""

    num_mel_bins: Count
    spec_size: Count

    @property
    def max_frames(self) -> int:
        """The most mel frames that fit into the image."""
        return self.spec_size * (self.spec_size // self.num_mel_bins)


class ClapConfig(_Config, frozen=True):
    """Both towers, and the width of their embeddings."""

    projection_dim: Count
    text_config: ClapTextConfig
    audio_config: ClapAudioConfig


class ClapTextAloneConfig(ClapTextConfig, frozen=True):
    """The text tower of a checkpoint that has no other."""

    projection_dim: Count

    @property
    def text_config(self) -> ClapTextConfig:
        """Itself, where a whole CLAP has its text tower's."""
        return self


class T5Config(_Config, frozen=True):
    """The T5 encoder. It has no positions, so that its texts may have any length."""

    vocab_size: Count
    width: Count = msgspec.field(name="d_model")


class VitsConfig(_Config, frozen=True):
    """VITS, of which the text encoder is used."""

    vocab_size: Count
    width: Count = msgspec.field(name="hidden_size")


class ProjectionConfig(_Config, frozen=True):
    """The projection of both texts into the language model's width; the reference spells that one so."""

    text_encoder_dim: Count
    text_encoder_1_dim: Count
    langauge_model_dim: Count
    use_learned_position_embedding: bool | None = None
    max_seq_length: Count | None = None


class GPT2Config(_Config, frozen=True):
    """The language model, and how many embeddings it makes where a call does not say."""

    n_embd: Count
    n_head: Count
    n_layer: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    n_positions: Count
    max_new_tokens: Count = 8


class UNetConfig(_Config, frozen=True):
    """The UNet. `sample_size` is the default height of the latents, or that and their width."""

    sample_size: Count | Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=2)]
    in_channels: Count
    out_channels: Count
    block_out_channels: Counts
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    cross_attention_dim: Widths
    # of a UNet that takes a text as its class
    class_embed_type: str | None = None
    projection_class_embeddings_input_dim: Count | None = None


class VaeConfig(_Config, frozen=True):
    """The VAE. Each level but the first halves the image."""

    out_channels: Count
    latent_channels: Count
    block_out_channels: Counts
    scaling_factor: Positive

    @property
    def scale_factor(self) -> int:
        """How many mel bins or frames one latent stands for, along either axis."""
        return int(2 ** (len(self.block_out_channels) - 1))


class VocoderConfig(_Config, frozen=True):
    """HiFi-GAN. Each of `upsample_rates` is the factor of one transposed convolution."""

    model_in_dim: Count
    sampling_rate: Count
    upsample_rates: Counts
    upsample_kernel_sizes: Counts
    resblock_kernel_sizes: Counts
    resblock_dilation_sizes: Annotated[tuple[Counts, ...], msgspec.Meta(min_length=1)]


class FeatureExtractorConfig(_Config, frozen=True):
    """CLAP's feature extractor, with the defaults of its class. The fusion variant is not what AudioLDM2 uses."""

    truncation: Literal["rand_trunc"]
    feature_extractor_type: str | None = None
    sampling_rate: Count = 48_000
    fft_window_size: Annotated[int, msgspec.Meta(ge=2, le=2**20)] = 1024
    hop_length: Count = 480
    feature_size: Count = 64
    frequency_min: Annotated[float, msgspec.Meta(ge=0)] = 0
    frequency_max: Positive = 14_000
    max_length_s: Positive = 10
    padding: Literal["repeatpad", "repeat", "pad"] = "repeatpad"


class Distilled(_Config, frozen=True):
    """What a checkpoint was taught: see `export.distill`."""

    steps: Annotated[int, msgspec.Meta(ge=1, le=1000)]


@dataclass(frozen=True, kw_only=True)
class Configs:
    """What we use of the modules' configs, by part."""

    text_encoder: Any  # ClapConfig, ClapTextAloneConfig
    unet: UNetConfig
    vae: VaeConfig
    vocoder: VocoderConfig
    # of AudioLDM2 alone
    text_encoder_2: Any = None  # T5Config, VitsConfig
    projection_model: Any = None  # ProjectionConfig
    language_model: Any = None  # GPT2Config


Config = TypeVar("Config", bound=_Config)


def read_json(path: Path, where: str) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError, which begins with `where`."""
    if not path.is_file():
        raise CheckpointError(f"{where}: {path} is missing: not a checkpoint in diffusers' layout")
    refuse_pointer(path, where)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: {path} cannot be read: {error}; download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{where}: {path} holds a {type(content).__name__}, not an object: download it again")
    return content


def fill_defaults(cls: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the defaults of the class that takes it: those of its config class, or of its arguments."""
    if issubclass(cls, PreTrainedModel):
        config_class: Any = cls.config_class
        return config_class(**raw).to_dict()
    arguments = inspect.signature(cls).parameters.values()
    return {**{a.name: a.default for a in arguments if a.default is not inspect.Parameter.empty}, **raw}


def convert(raw: Mapping[str, Any], to: type[Config], where: str) -> Config:
    """The fields that we use of a config. Raises CheckpointError, which begins with `where` and names the field."""
    try:
        return msgspec.convert(raw, to)
    except msgspec.ValidationError as error:
        reason = (
            str(error).replace("`$.", "`").replace("Object missing", "it lacks the").replace("required field", "field")
        )
        raise CheckpointError(f"{where}: {reason}; mend that field or download the file again") from error
