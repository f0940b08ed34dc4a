"""A checkpoint in diffusers' layout: its configs, modules and tokenizers, from a folder or the hub."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel
from transformers import (
    AutoTokenizer,
    ClapModel,
    GPT2Model,
    PreTrainedModel,
    SpeechT5HifiGan,
    T5EncoderModel,
    VitsModel,
)
from transformers.tokenization_utils_base import LARGE_INTEGER

from export.errors import CheckpointError
from export.receptive_field import WINDOW_FRAMES, vocoder_context_frames
from runtime.bundle.manifest import AudioSpec, FeatureExtractorSpec, describe_file
from runtime.diffusion.schedulers import scheduler_names
from runtime.text.speech import AddedToken, Vocabulary

# What each part may be, by the class names of `model_index.json`, and the class that loads it. The language model's
# head is never used, and published checkpoints name GPT2Model: both load as the trunk.
_MODULES: dict[str, dict[str, Any]] = {
    "text_encoder": {"ClapModel": ClapModel},
    "text_encoder_2": {"T5EncoderModel": T5EncoderModel, "VitsModel": VitsModel},
    "projection_model": {"AudioLDM2ProjectionModel": AudioLDM2ProjectionModel},
    "language_model": {"GPT2Model": GPT2Model, "GPT2LMHeadModel": GPT2Model},
    "unet": {"AudioLDM2UNet2DConditionModel": AudioLDM2UNet2DConditionModel},
    "vae": {"AutoencoderKL": AutoencoderKL},
    "vocoder": {"SpeechT5HifiGan": SpeechT5HifiGan},
}
_HELPERS = {
    "tokenizer": ("RobertaTokenizer", "RobertaTokenizerFast"),
    "tokenizer_2": ("T5Tokenizer", "T5TokenizerFast", "VitsTokenizer"),
    "feature_extractor": ("ClapFeatureExtractor",),
    "scheduler": tuple(scheduler_names()),
}
_END_TOKEN_ID = 182  # of a transcription: a constant in the reference pipeline
_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class TokenizerInfo:
    """A tokenizer as `tokenizer.json` text, with what that file lacks."""

    json: str
    max_length: int
    pad_token_id: int


@dataclass(frozen=True, kw_only=True)
class SpeechInfo:
    """The fields of `runtime.bundle.manifest.SpeechSpec`, with the vocabulary in its file's place."""

    vocabulary: Vocabulary
    max_length: int
    pad_token_id: int
    unknown_token_id: int
    end_token_id: int
    embedding_rows: int
    normalize: bool
    phonemize: bool
    add_blank: bool
    language: str | None


class Checkpoint:
    """A local folder in diffusers' layout. Raises CheckpointError for a part that is missing or not supported."""

    def __init__(self, folder: Path, identifier: str, revision: str | None = None) -> None:
        self.folder, self.id, self.revision = folder, identifier, revision
        index = self._json("model_index.json")
        for part in (*_MODULES, *_HELPERS):
            known = tuple(_MODULES[part]) if part in _MODULES else _HELPERS[part]
            name = (index.get(part) or [None, None])[1]
            if name not in known:
                raise CheckpointError(
                    f"{identifier}: model_index.json names {name!r} for {part}; supported: {', '.join(known)}"
                )
        self._classes = {part: _MODULES[part][index[part][1]] for part in _MODULES}
        if self.speaks != (index["tokenizer_2"][1] == "VitsTokenizer"):
            raise CheckpointError(
                f"{identifier}: text_encoder_2 is {index['text_encoder_2'][1]}, tokenizer_2 {index['tokenizer_2'][1]}: "
                "not a pair"
            )

    @property
    def speaks(self) -> bool:
        """Whether it is for speech: its second text encoder is VITS's, and reads a transcription."""
        return self._classes["text_encoder_2"] is VitsModel

    def config(self, part: str) -> dict[str, Any]:
        """The config of a module, with its class's defaults where the file is silent."""
        cls = self._classes[part]
        config = self._json(f"{part}/config.json")
        if issubclass(cls, PreTrainedModel):
            filled: dict[str, Any] = cls.config_class(**config).to_dict()
            return filled
        return config

    def load(self, part: str) -> Any:
        """Load one module in FP32, on the CPU, in evaluation mode. Weights are data only: no code is unpickled."""
        cls = self._classes[part]
        dtype = {"dtype" if issubclass(cls, PreTrainedModel) else "torch_dtype": torch.float32}
        self._weight_files(part)
        try:
            module, info = cls.from_pretrained(
                self.folder / part, local_files_only=True, output_loading_info=True, **dtype, **self._options(cls)
            )
        except Exception as error:  # every loader has its own
            raise CheckpointError(f"{self.id}: {part} cannot be loaded: {_one_line(error)}") from error
        used = "text_encoder." if cls is VitsModel else ""  # the rest of VITS is not used
        missing = sorted(key for key in info["missing_keys"] if key.startswith(used))
        if missing or info["mismatched_keys"]:
            wrong = missing or sorted(str(key) for key in info["mismatched_keys"])
            raise CheckpointError(f"{self.id}: {part} lacks {len(wrong)} weights of its config, such as {wrong[0]}")
        return module.eval().requires_grad_(False)

    def tokenizer(self, part: str) -> TokenizerInfo:
        """One of the two tokenizers, converted where the checkpoint holds no `tokenizer.json`."""
        tokenizer = self._tokenizer(part)
        longest, pad = int(tokenizer.model_max_length), int(tokenizer.pad_token_id)
        return TokenizerInfo(tokenizer.backend_tokenizer.to_str(), longest, pad)

    def speech(self) -> SpeechInfo:
        """The VITS tokenizer of a speech checkpoint. Raises CheckpointError for options that are not supported."""
        tokenizer, config = self._tokenizer("tokenizer_2"), self.config("text_encoder_2")
        added = sorted(tokenizer.added_tokens_decoder.items())
        if tokenizer.is_uroman or any(token.single_word for _, token in added):
            raise CheckpointError(f"{self.id}: tokenizer_2 wants is_uroman or single_word, which are not supported")
        return SpeechInfo(
            vocabulary=Vocabulary(
                characters=tokenizer.encoder,
                added_tokens=tuple(
                    AddedToken(content=token.content, id=number, lstrip=token.lstrip, rstrip=token.rstrip)
                    for number, token in added
                ),
            ),
            max_length=int(tokenizer.model_max_length),
            pad_token_id=int(tokenizer.pad_token_id),
            unknown_token_id=int(tokenizer.unk_token_id),
            end_token_id=_END_TOKEN_ID,
            embedding_rows=config["vocab_size"],
            normalize=tokenizer.normalize,
            phonemize=tokenizer.phonemize,
            add_blank=tokenizer.add_blank,
            language=tokenizer.language,
        )

    def text_tokens(self) -> int:
        """The most tokens of the second text encoder; a speech checkpoint always has as many."""
        return int(self._tokenizer("tokenizer_2").model_max_length)

    def text_width(self) -> int:
        """Width of the second text encoder's states."""
        return int(self.config("text_encoder_2")["hidden_size" if self.speaks else "d_model"])

    def language_width(self) -> int:
        """Width of GPT2's states."""
        return int(self.config("language_model")["n_embd"])

    def audio(self) -> AudioSpec:
        """Rates, factors and default sizes."""
        vae, vocoder, unet = self.config("vae"), self.config("vocoder"), self.config("unet")
        hop = 1
        for rate in vocoder["upsample_rates"]:
            hop *= rate
        scale = 2 ** (len(vae["block_out_channels"]) - 1)
        mel_bins = vocoder["model_in_dim"]
        if mel_bins % scale:
            raise CheckpointError(f"{self.id}: {mel_bins} mel bins are no multiple of the VAE's scale factor {scale}")
        height = unet["sample_size"]
        return AudioSpec(
            sample_rate_hz=vocoder["sampling_rate"],
            hop_samples=hop,
            mel_bins=mel_bins,
            latent_channels=unet["in_channels"],
            default_latent_height=height if isinstance(height, int) else height[0],
            vae_scale_factor=scale,
            vae_scaling_factor=vae.get("scaling_factor", 0.18215),
            vocoder_context_frames=vocoder_context_frames(vocoder),
            vocoder_window_frames=WINDOW_FRAMES,
        )

    def max_new_tokens(self) -> int:
        """How many embeddings GPT2 generates."""
        return int(self.config("language_model").get("max_new_tokens", 8))

    def scheduler(self) -> dict[str, Any]:
        """The scheduler's config as the checkpoint has it."""
        return self._json("scheduler/scheduler_config.json")

    def feature_extractor(self) -> FeatureExtractorSpec:
        """CLAP's feature extractor. Raises CheckpointError for the fusion variant, which AudioLDM2 does not use."""
        config = self._json("feature_extractor/preprocessor_config.json")
        if config.get("truncation", "fusion") != "rand_trunc":
            raise CheckpointError(
                f"{self.id}: feature_extractor has truncation {config.get('truncation')!r}; supported: 'rand_trunc'"
            )
        rate = config.get("sampling_rate", 48_000)
        return FeatureExtractorSpec(
            sample_rate_hz=rate,
            fft_samples=config.get("fft_window_size", 1024),
            hop_samples=config.get("hop_length", 480),
            mel_bins=config.get("feature_size", 64),
            min_frequency_hz=config.get("frequency_min", 0),
            max_frequency_hz=config.get("frequency_max", 14_000),
            max_samples=int(config.get("max_length_s", 10) * rate),
            padding=config.get("padding", "repeatpad"),
        )

    @cached_property
    def weights_sha256(self) -> str:
        """One hash over all weight files and their names. They are gigabytes: read once."""
        digest = hashlib.sha256()
        for part in sorted(_MODULES):
            for path in self._weight_files(part):
                file = describe_file(self.folder, str(path.relative_to(self.folder)))
                digest.update(f"{file.name} {file.sha256}\n".encode())
        return digest.hexdigest()

    def _tokenizer(self, part: str) -> Any:
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder / part, local_files_only=True)
        except Exception as error:
            raise CheckpointError(f"{self.id}: {part} cannot be loaded: {_one_line(error)}") from error
        if tokenizer.model_max_length >= LARGE_INTEGER:
            raise CheckpointError(f"{self.id}: {part} has no model_max_length in tokenizer_config.json")
        return tokenizer

    def _weight_files(self, part: str) -> list[Path]:
        for suffix in _WEIGHTS:
            files = sorted((self.folder / part).glob(f"*{suffix}"))
            if files:
                return files
        raise CheckpointError(
            f"{self.id}: {part} has no weights: neither .safetensors nor .bin in {self.folder / part}"
        )

    @staticmethod
    def _options(cls: type) -> dict[str, Any]:
        # sdpa decomposes into shape-dependent nodes when traced; eager attention is plain matmul and softmax
        return (
            {"attn_implementation": "eager"} if issubclass(cls, PreTrainedModel) and cls is not SpeechT5HifiGan else {}
        )

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            content: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            raise CheckpointError(f"{self.id}: {path} is missing: not a checkpoint in diffusers' layout") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.id}: {path} cannot be read: {error}") from error
        return content


def _one_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
