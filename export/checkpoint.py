"""A checkpoint in diffusers' layout: its configs, modules and tokenizers, from a folder or the hub."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import msgspec
import transformers
from diffusers.pipelines.audioldm2 import modeling_audioldm2
from transformers import ClapFeatureExtractor, ClapProcessor, PreTrainedModel, VitsModel

from export.configs import (
    Configs,
    Distilled,
    FeatureExtractorConfig,
    convert,
    fill_defaults,
    read_json,
)
from export.errors import CheckpointError, one_line
from export.families import BY_PIPELINE, KINDS, Family
from export.lora import Lora
from export.modules import load_module
from export.receptive_field import WINDOW_FRAMES, vocoder_context_frames
from export.tokenizer import length_limit, load_tokenizer, tokenizer_json, vocabulary
from export.weights import Weights
from runtime.bundle.manifest import (
    AudioSpec,
    CallDefaults,
    FeatureExtractorSpec,
    FileSpec,
    MelSpec,
    SpeechSpec,
    TokenizerSpec,
    describe_file,
)
from runtime.diffusion.schedulers import scheduler_names
from runtime.errors import InputError
from runtime.text.speech import Vocabulary

Spec = TypeVar("Spec", bound=msgspec.Struct)
WIDE_BAND_HZ = 48_000  # sample rate from which the original project leaves out the lowest 20 Hz
PROJECTED_EXTRA = 5  # positions that the projection adds to the second text's
END_TOKEN_ID = 182  # of a transcription: a constant in the reference pipeline
VOCABULARY = "vocabulary.json"
DISTILLED = "distilled.json"  # in a checkpoint that `export.distill` has written


class Checkpoint:
    """A local folder in diffusers' layout. Raises CheckpointError for a part that is missing or not supported.

    With `variant` the weights of that variant are taken, such as "fp16", of every part that has it. `loras`, each
    FILE or FILE:SCALE, are merged into the weights. Nothing but them and `model_index.json` is read here:
    `export.consistency.check_consistency` looks at the rest.
    """

    def __init__(
        self,
        folder: Path,
        identifier: str,
        revision: str | None = None,
        variant: str | None = None,
        loras: Sequence[str] = (),
    ) -> None:
        self.folder, self.id, self.revision, self.variant = folder, identifier, revision, variant
        index = read_json(folder / "model_index.json", identifier)
        self.family = _family(index.get("_class_name"), identifier)
        tokenizers = self.family.tokenizers.values()
        parts = (*self.family.modules, *tokenizers, "feature_extractor", "scheduler")
        self._named = {part: _class_name(index.get(part)) for part in parts}
        self._loaded_tokenizers: dict[str, Any] = {}
        self._classes = {part: self._module_class(part) for part in self.family.modules}
        for part in tokenizers:
            if self._named[part] is None:
                raise CheckpointError(f"{identifier}: model_index.json names no {part}")
        if self._named["scheduler"] not in scheduler_names():
            self._refuse("scheduler", ", ".join(scheduler_names()))
        heard = self.family.ranks
        if heard and not _is_one(_library_class(self._named["feature_extractor"]), ClapFeatureExtractor, ClapProcessor):
            self._refuse("feature_extractor", "ClapFeatureExtractor")
        if self.speaks != (self._named.get("tokenizer_2") == "VitsTokenizer"):
            raise CheckpointError(
                f"{identifier}: text_encoder_2 is {self._named['text_encoder_2']}, tokenizer_2 "
                f"{self._named['tokenizer_2']}: not a pair"
            )
        self.loras = tuple(Lora.read(text, tuple(self.family.modules)) for text in loras)

    @property
    def speaks(self) -> bool:
        """Whether it is for speech: its second text encoder is VITS's, and reads a transcription."""
        return self._classes.get("text_encoder_2") is VitsModel

    @cached_property
    def configs(self) -> Configs:
        """The fields that we use of all modules'  Raises CheckpointError for one that has no possible value."""
        return Configs(**{part: self._config(part, KINDS[kind]) for part, kind in self._classes.items()})

    def weights(self, part: str) -> Weights:
        """The files of a module's weights. Raises CheckpointError if one is missing, incomplete or a pointer."""
        return Weights.find(self.folder / part, self.variant, f"{self.id}: {part}")

    def has_variant(self) -> bool:
        """Whether any module has weights of the variant that was asked for."""
        return any(self.weights(part).names.variant == self.variant for part in self.family.modules)

    def load(self, part: str) -> Any:
        """Load one module in FP32, on the CPU, in evaluation mode. Weights are data only: no code is unpickled."""
        module = load_module(self._classes[part], part, self.weights(part), f"{self.id}: {part}")
        for lora in self.loras:
            lora.merge(part, module)
        return module

    def tokenizer(self, part: str) -> tuple[TokenizerSpec, str]:
        """One of the two tokenizers of prompts: its entry in the manifest, and the text of its `tokenizer.json`.

        Texts are cut where the tokenizer says, or before that where the modules that read the tokens say so.
        """
        loaded, where = self._tokenizer(part), f"{self.id}: {part}"
        text = tokenizer_json(loaded, where)
        limits = (length_limit(loaded, where), self._positions(part))
        longest = min(limit for limit in limits if limit is not None)
        file = _describe(f"{part}.json", text.encode())
        return TokenizerSpec(file=file, max_length=longest, pad_token_id=int(loaded.pad_token_id)), text

    def highest_token_id(self, part: str) -> int:
        """The highest id that a tokenizer of prompts can give."""
        return max(self._tokenizer(part).get_vocab().values())

    def speech(self) -> tuple[SpeechSpec, Vocabulary]:
        """The VITS tokenizer of a speech checkpoint: its entry in the manifest, and the vocabulary in that one's file.

        Raises CheckpointError for options that are not supported.
        """
        loaded, where = self._tokenizer("tokenizer_2"), f"{self.id}: tokenizer_2"
        known = vocabulary(loaded, where)
        with self._as_ours("tokenizer_2"):
            spec = _within_bounds(
                SpeechSpec(
                    file=_describe(VOCABULARY, msgspec.json.encode(known)),
                    max_length=self.text_tokens(),
                    pad_token_id=int(loaded.pad_token_id),
                    unknown_token_id=int(loaded.unk_token_id),
                    end_token_id=END_TOKEN_ID,
                    embedding_rows=self.configs.text_encoder_2.vocab_size,
                    normalize=loaded.normalize,
                    phonemize=loaded.phonemize,
                    add_blank=loaded.add_blank,
                    language=loaded.language,
                )
            )
        return spec, known

    def text_tokens(self) -> int:
        """The most tokens of the second text encoder; a speech checkpoint always has as many."""
        if not self.speaks:
            return self.tokenizer("tokenizer_2")[0].max_length
        where = f"{self.id}: tokenizer_2"
        length = length_limit(self._tokenizer("tokenizer_2"), where)
        if length is None:
            raise CheckpointError(f"{where} has no model_max_length in tokenizer_config.json, and pads to it")
        return length

    def text_width(self) -> int:
        """Width of the second text encoder's states."""
        return self.configs.text_encoder_2.width

    def language_width(self) -> int:
        """Width of GPT2's states."""
        return self.configs.language_model.n_embd

    def audio(self) -> AudioSpec:
        """Rates, factors and default sizes."""
        vae, vocoder, unet = self.configs.vae, self.configs.vocoder, self.configs.unet
        height = unet.sample_size
        with self._as_ours("vae and vocoder"):
            return _within_bounds(
                AudioSpec(
                    sample_rate_hz=vocoder.sampling_rate,
                    hop_samples=math.prod(vocoder.upsample_rates),
                    mel_bins=vocoder.model_in_dim,
                    latent_channels=unet.in_channels,
                    default_latent_height=height if isinstance(height, int) else height[0],
                    vae_scale_factor=vae.scale_factor,
                    vae_scaling_factor=vae.scaling_factor,
                    vocoder_context_frames=vocoder_context_frames(msgspec.structs.asdict(vocoder)),
                    vocoder_window_frames=WINDOW_FRAMES,
                    mel=_mel(vocoder.sampling_rate),
                )
            )

    def max_new_tokens(self) -> int:
        """How many embeddings GPT2 generates."""
        return int(self.configs.language_model.max_new_tokens)

    def scheduler(self) -> dict[str, Any]:
        """The scheduler's config as the checkpoint has it."""
        config = read_json(self.folder / "scheduler" / "scheduler_config.json", self.id)
        return {"_class_name": self._named["scheduler"], **config}

    def call_defaults(self) -> CallDefaults:
        """What calls take that do not say: the steps that the checkpoint was taught, without guidance, if it was."""
        if not (path := self.folder / DISTILLED).is_file():
            return self.family.defaults
        taught = convert(read_json(path, self.id), Distilled, f"{self.id}: {DISTILLED}")
        return CallDefaults(num_inference_steps=taught.steps, guidance_scale=1.0)

    def feature_extractor(self) -> FeatureExtractorSpec:
        """CLAP's feature extractor. Raises CheckpointError for the fusion variant, which AudioLDM2 does not use."""
        where = f"{self.id}: feature_extractor"
        raw = self._feature_extractor_json()
        kind = raw.get("feature_extractor_type") or "ClapFeatureExtractor"
        if not _is_one(_library_class(kind), ClapFeatureExtractor):
            raise CheckpointError(f"{where} is a {kind!r}; supported: ClapFeatureExtractor")
        config = convert(raw, FeatureExtractorConfig, where)
        with self._as_ours("feature_extractor"):
            return _within_bounds(
                FeatureExtractorSpec(
                    sample_rate_hz=config.sampling_rate,
                    fft_samples=config.fft_window_size,
                    hop_samples=config.hop_length,
                    mel_bins=config.feature_size,
                    min_frequency_hz=config.frequency_min,
                    max_frequency_hz=config.frequency_max,
                    max_samples=int(config.max_length_s * config.sampling_rate),
                    padding=config.padding,
                )
            )

    @cached_property
    def weights_sha256(self) -> str:
        """One hash over the files of weights that are used, and their names. They are gigabytes: read once."""
        digest = hashlib.sha256()
        for part in sorted(self.family.modules):
            for path in self.weights(part).files:
                file = describe_file(self.folder, str(path.relative_to(self.folder)))
                digest.update(f"{file.name} {file.sha256}\n".encode())
        for lora in self.loras:
            digest.update(f"lora {lora.sha256} {lora.scale}\n".encode())
        return digest.hexdigest()

    @contextmanager
    def _as_ours(self, parts: str) -> Iterator[None]:
        """What the manifest refuses of these parts' numbers is the checkpoint's fault."""
        try:
            yield
        except (InputError, msgspec.ValidationError) as error:
            raise CheckpointError(f"{self.id}: {parts} cannot be used: {one_line(error)}") from error

    def _module_class(self, part: str) -> Any:
        """The class that loads a module, for the class that `model_index.json` names or one that it descends from."""
        named = _library_class(self._named[part])
        for accepted, loaded in self.family.modules[part].items():
            if _is_one(named, accepted):
                return loaded
        return self._refuse(part, ", ".join(accepted.__name__ for accepted in self.family.modules[part]))

    def _refuse(self, part: str, supported: str) -> None:
        named = self._named[part]
        raise CheckpointError(f"{self.id}: model_index.json names {named!r} for {part}; supported: {supported}")

    def _config(self, part: str, kind: Any) -> Any:
        cls, where = self._classes[part], f"{self.id}: {part}/config.json"
        raw = read_json(self.folder / part / "config.json", self.id)
        model_type = cls.config_class.model_type if issubclass(cls, PreTrainedModel) else None
        if model_type and raw.get("model_type", model_type) != model_type:
            raise CheckpointError(f"{where} is of a {raw['model_type']!r} model, model_index.json names {cls.__name__}")
        try:
            filled = fill_defaults(cls, raw)
        except Exception as error:  # the classes check some fields themselves, each in its own way
            raise CheckpointError(f"{where} cannot be used: {one_line(error)}") from error
        return convert(filled, kind, where)

    def _tokenizer(self, part: str) -> Any:
        if part not in self._loaded_tokenizers:
            named = str(self._named[part])
            self._loaded_tokenizers[part] = load_tokenizer(self.folder / part, named, f"{self.id}: {part}")
        return self._loaded_tokenizers[part]

    def _positions(self, part: str) -> int:
        """How many tokens of a text the modules have positions for: CLAP's own, or for T5, which has none, GPT2's.

        Of GPT2's the new embeddings take some, and the projection's five: CLAP's embedding, a start and an end of each.
        """
        if part == "tokenizer":
            return self.configs.text_encoder.text_config.max_tokens
        language_model = self.configs.language_model
        return language_model.n_positions - PROJECTED_EXTRA - (language_model.max_new_tokens - 1)

    def _feature_extractor_json(self) -> dict[str, Any]:
        """Its config: of its own file, or where a processor was saved a part of that one's, which goes first."""
        folder = self.folder / "feature_extractor"
        processor = folder / "processor_config.json"
        if processor.is_file():
            nested = read_json(processor, self.id)
            for key in ("feature_extractor", "audio_processor"):
                if isinstance(nested.get(key), dict):
                    found: dict[str, Any] = nested[key]
                    return found
        return read_json(folder / "preprocessor_config.json", self.id)


def _mel(sample_rate_hz: int) -> MelSpec:
    """The mel spectrograms that the autoencoders were trained on, which no config of a checkpoint tells.

    Source: the original project's settings for 16, 32 and 48 kHz, in all of which a window is the power of two below
    64 ms, or just that.
    """
    fft_samples = 1 << max(int(0.064 * sample_rate_hz).bit_length() - 1, 1)
    low_hz = 20.0 if sample_rate_hz >= WIDE_BAND_HZ else 0.0
    return MelSpec(fft_samples=fft_samples, min_frequency_hz=low_hz, max_frequency_hz=sample_rate_hz / 2)


def _family(pipeline: Any, identifier: str) -> Family:
    """The family of a pipeline's class. Raises CheckpointError for one that is not known, with those that are."""
    if not isinstance(pipeline, str) or pipeline not in BY_PIPELINE:
        known = ", ".join(BY_PIPELINE)
        raise CheckpointError(f"{identifier}: model_index.json names the pipeline {pipeline!r}; supported: {known}")
    return BY_PIPELINE[pipeline]


def _class_name(entry: Any) -> str | None:
    """Of an entry of `model_index.json`, library and class, the class; None where there is none."""
    return entry[1] if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str) else None


def _library_class(name: str | None) -> Any:
    """The class of that name in transformers, diffusers or the reference pipeline's own file; None if there is none."""
    for library in (transformers, diffusers, modeling_audioldm2):
        with suppress(Exception):  # a library fails in its own way for a class whose dependency is not installed
            return getattr(library, str(name))
    return None


def _is_one(cls: Any, *kinds: type) -> bool:
    return isinstance(cls, type) and issubclass(cls, kinds)


def _within_bounds(spec: Spec) -> Spec:
    """A part of the manifest, held to the bounds that it will be read with: making one does not check them."""
    return msgspec.convert(msgspec.to_builtins(spec), type(spec))


def _describe(name: str, content: bytes) -> FileSpec:
    return FileSpec(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
