"""What a bundle's `manifest.json` may hold: every field with its bounds, and which fields have to agree.

The bounds are those of any sane bundle, wide enough for every checkpoint: a number outside of them is a mistake, and is
refused when the manifest is read rather than in the middle of a run.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Final, Literal

import msgspec

from runtime.backends.specs import BuiltFor, ShapeProfile, Size, TensorSpec, Word
from runtime.bundle.families import FAMILIES, Family
from runtime.bundle.names import problem_with_name
from runtime.errors import InputError

SCHEMA: Final = 4
FamilyName = Literal["audioldm2", "audioldm", "musicldm"]
Backend = Literal["onnxruntime", "openvino", "tensorrt"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
EIGHT_BITS = ("int8", "fp8")  # calibrated on recorded inputs, with engines in FP16 beside them
LATER_ENGINES = ("vae_encoder",)  # which bundles lack that were built before there were these
LATER_INPUTS = {"language_model": "positions"}  # of an engine: what it lacks if it was built before there was this

Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]  # of samples, frames, bins, channels, tokens
TokenId = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
Rate = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
Frequency = Annotated[float, msgspec.Meta(ge=0, le=10_000_000)]
Error = Annotated[float, msgspec.Meta(ge=0, le=1e9)]  # relative L2
Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
# Ids and places of checkpoints are shown to users too, and may be long.
Place = Annotated[str, msgspec.Meta(min_length=1, max_length=4096, pattern=r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z")]
Coefficient = Annotated[float, msgspec.Meta(ge=0, le=1e18)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Frozen, and strict about unknown fields."""


class FileSpec(_Part, frozen=True):
    """A file of the bundle: a relative name inside its folder, its size and its hash."""

    name: str  # see `runtime.bundle.names`
    size_bytes: Bytes
    sha256: Sha256


class ParityCheck(_Part, frozen=True):
    """One comparison of an engine with its torch module: sizes of the axes, worst relative L2 error of any output.

    `half_error` is the error of the torch module itself in the engine's half precision, on the same inputs. It is there
    where the engine's is above its tolerance, and was admitted for it.
    """

    sizes: dict[Word, Size]
    relative_error: Error
    half_error: Error | None = None


class Island(_Part, frozen=True):
    """A part of a half-precision graph that stays in float32, and why: relative errors at the traced size.

    `error_without` is what the whole graph's error would be if this part alone were half too; None: not finite.
    """

    name: Word
    pattern: Place
    nodes: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
    extra_bytes: Annotated[int, msgspec.Meta(ge=-(1 << 50), le=1 << 50)]
    error_with: Error
    error_without: Error | None


class BuildRecord(_Part, frozen=True):
    """How an engine was made and how exact it is. The builder and people read it; a run does not.

    `build_key` is a hash of all that the engine was made from. `parity` are the comparisons with the torch module, each
    at most `tolerance`: `parity_of` says whether the engine itself was measured or, where the build had no GPU, its
    graph with every half tensor rounded. `profiles` are the shapes that an engine for a GPU was compiled for: the
    bounds of `EngineSpec.inputs` come from them.
    """

    build_key: Sha256
    tolerance: Annotated[float, msgspec.Meta(gt=0, le=1e9)]
    parity: tuple[ParityCheck, ...]
    parity_of: Literal["engine", "graph"]
    islands: tuple[Island, ...] = ()
    profiles: tuple[ShapeProfile, ...] = ()


class EngineSpec(_Part, frozen=True):
    """One engine: its files (the first is the one to open), how it runs, what it takes and what it gives.

    - `rows`: how many rows it gets in one run. "waveform": one for each waveform. "guided": two for each waveform where
      there is guidance, one where there is none. "sliceable": one for each waveform, or one alone with `vae_slicing`.
    - `in_windows`: it never sees more than one window of `AudioSpec.vocoder_window_frames` and its context.
    - `audible`: its output is heard as it is, so that what is rounded away inside it is heard as hiss.
    - `activation_bytes`: the coefficients c0, c1, c2 of the peak memory of one row beside the weights, in bytes:
      c0 + c1 h + c2 h^2 for the latent height h. Empty: too little to count, at any height. None: not known.
    """

    files: Annotated[tuple[FileSpec, ...], msgspec.Meta(min_length=1)]
    backend: Backend
    precision: Precision
    inputs: Annotated[dict[Word, TensorSpec], msgspec.Meta(min_length=1)]
    outputs: Annotated[dict[Word, TensorSpec], msgspec.Meta(min_length=1)]
    rows: Literal["waveform", "guided", "sliceable"]
    in_windows: bool
    audible: bool
    activation_bytes: Annotated[tuple[Coefficient, ...], msgspec.Meta(max_length=3)] | None
    record: BuildRecord
    built_for: BuiltFor | None = None  # None: a graph, which runs anywhere

    def recorded(self, **changes: Any) -> "EngineSpec":
        """The same with fields of its record changed."""
        return msgspec.structs.replace(self, record=msgspec.structs.replace(self.record, **changes))

    def __post_init__(self) -> None:
        if (self.backend == "tensorrt") != (self.built_for is not None):
            raise InputError(f"an engine of backend {self.backend} has built_for {self.built_for}")


class TokenizerSpec(_Part, frozen=True):
    """A `tokenizer.json` with the two numbers that it lacks. Longer texts are cut at `max_length` tokens."""

    file: FileSpec
    max_length: Count
    pad_token_id: TokenId


class SpeechSpec(_Part, frozen=True):
    """What a speech checkpoint reads its transcription with: fields of VitsTokenizer, and what the model adds to them.

    `file` is a `runtime.text.speech.Vocabulary`; the text encoder knows `embedding_rows` ids. The id of unknown
    characters may be none of them, as in published checkpoints: a text with such a character is refused when it comes.
    """

    file: FileSpec
    max_length: Count
    pad_token_id: TokenId
    unknown_token_id: TokenId
    end_token_id: TokenId
    embedding_rows: Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]
    normalize: bool
    phonemize: bool
    add_blank: bool
    language: Word | None

    def __post_init__(self) -> None:
        for name in ("pad_token_id", "end_token_id"):
            if getattr(self, name) >= self.embedding_rows:
                raise InputError(f"{name} is {getattr(self, name)}, the text encoder has {self.embedding_rows} ids")


class FeatureExtractorSpec(_Part, frozen=True):
    """What turns audio into CLAP's log-mel features; fields of ClapFeatureExtractor with their units."""

    sample_rate_hz: Rate
    fft_samples: Annotated[int, msgspec.Meta(ge=2, le=1 << 20)]
    hop_samples: Count
    mel_bins: Annotated[int, msgspec.Meta(ge=1, le=1 << 14)]
    min_frequency_hz: Frequency
    max_frequency_hz: Frequency
    max_samples: Annotated[int, msgspec.Meta(ge=1, le=1 << 30)]
    padding: Literal["repeat", "repeatpad", "pad"]

    def __post_init__(self) -> None:
        low, high, limit = self.min_frequency_hz, self.max_frequency_hz, self.sample_rate_hz / 2
        if not low < high <= limit:
            raise InputError(
                f"feature extractor: frequencies {low:g} to {high:g} Hz have to rise and end at {limit:g} Hz at most"
            )
        if self.max_samples <= self.fft_samples // 2:
            raise InputError(
                f"feature extractor: max_samples is {self.max_samples}, a window has {self.fft_samples}: too short"
            )

    @property
    def frames(self) -> int:
        """Frames of the features of one waveform, whatever its length."""
        return self.max_samples // self.hop_samples + 1


class LoraSpec(_Part, frozen=True):
    """A LoRA that was merged into the weights."""

    path: Place
    scale: Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]
    sha256: Sha256


class CheckpointSpec(_Part, frozen=True):
    """Where the weights came from; `variant` is the one that was asked for, such as "fp16"."""

    id: Place
    revision: Place | None
    weights_sha256: Sha256
    variant: Place | None = None
    loras: tuple[LoraSpec, ...] = ()


class MelSpec(_Part, frozen=True):
    """What turns audio into the log-mel spectrogram that the autoencoder takes; hop and bins are AudioSpec's."""

    fft_samples: Annotated[int, msgspec.Meta(ge=2, le=1 << 20)]
    min_frequency_hz: Frequency
    max_frequency_hz: Frequency

    def __post_init__(self) -> None:
        if not self.min_frequency_hz < self.max_frequency_hz:
            raise InputError(f"mel: frequencies {self.min_frequency_hz:g} to {self.max_frequency_hz:g} Hz do not rise")


class AudioSpec(_Part, frozen=True):
    """Numbers of the audio side. One latent row is `vae_scale_factor` mel frames of `hop_samples` samples each.

    A sample depends on at most `vocoder_context_frames` mel frames before and after its own. The vocoder makes longer
    audio in windows of `vocoder_window_frames`, each with its context.
    """

    sample_rate_hz: Rate
    hop_samples: Count
    mel_bins: Annotated[int, msgspec.Meta(ge=1, le=1 << 14)]
    latent_channels: Annotated[int, msgspec.Meta(ge=1, le=1 << 14)]
    default_latent_height: Count
    vae_scale_factor: Annotated[int, msgspec.Meta(ge=1, le=1 << 10)]
    vae_scaling_factor: Annotated[float, msgspec.Meta(ge=1e-6, le=1e6)]
    vocoder_context_frames: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)]
    vocoder_window_frames: Count
    mel: MelSpec | None = None  # None: in a bundle without the engine that would take it

    def __post_init__(self) -> None:
        if self.mel_bins % self.vae_scale_factor:
            raise InputError(
                f"{self.mel_bins} mel bins are no multiple of the VAE's scale factor {self.vae_scale_factor}"
            )

    @property
    def row_samples(self) -> int:
        """Samples of one latent row."""
        return self.vae_scale_factor * self.hop_samples

    @property
    def default_duration_s(self) -> float:
        """Length of a sound whose length is left out."""
        return self.default_latent_height * self.row_samples / self.sample_rate_hz

    @property
    def latent_width(self) -> int:
        """Width of the latents: mel bins by the VAE's scale factor."""
        return self.mel_bins // self.vae_scale_factor

    @property
    def longest_vocoder_frames(self) -> int:
        """The most mel frames that the vocoder sees in one run: a window with its context on either side."""
        return self.vocoder_window_frames + 2 * self.vocoder_context_frames


class CallDefaults(_Part, frozen=True):
    """What a call takes where it does not say: the reference's, or what a distilled checkpoint was taught."""

    num_inference_steps: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200
    guidance_scale: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 3.5

    @property
    def distilled(self) -> bool:
        """Whether they were taught: guidance is part of what a student learns, and no call of it has any."""
        return self.guidance_scale <= 1


class Manifest(_Part, frozen=True):
    """All that the runtime needs to know of a checkpoint, and the record of the build beside it."""

    schema: Literal[4]
    family: FamilyName  # the kind of model, which says what the engines are called and how they work together
    checkpoint: CheckpointSpec
    versions: dict[Word, Word]  # of all that made the engines
    audio: AudioSpec
    token_multiple: Annotated[int, msgspec.Meta(ge=1, le=1 << 12)]  # on a GPU texts are padded to a multiple of it
    scheduler: dict[str, Any]  # the config as diffusers has it, see runtime.diffusion.schedulers
    tokenizers: dict[str, TokenizerSpec]
    engines: dict[str, EngineSpec]
    max_new_tokens: Count | None = None  # None: there is no language model
    feature_extractor: FeatureExtractorSpec | None = None  # None: there is no audio tower of CLAP's
    speech: SpeechSpec | None = None  # None: the second text encoder is T5, and reads the prompt
    defaults: CallDefaults = CallDefaults()

    def __post_init__(self) -> None:
        kind = self.kind
        if self.speech is not None and "text_encoder_2" not in kind.text_engines:
            raise InputError(f"{self.family} has no speech")
        spoken = ["text_encoder_2"] if self.speech is not None else []
        read = [name for name in ("text_encoder", "text_encoder_2") if name in kind.text_engines and name not in spoken]
        _check_names("tokenizers", self.tokenizers, read)
        _check_names("engines", self.engines, kind.engines, LATER_ENGINES)
        for name, found, wanted in (
            ("max_new_tokens", self.max_new_tokens, "language_model" in kind.engines),
            ("feature_extractor", self.feature_extractor, kind.ranks),
        ):
            if (found is not None) != wanted:
                raise InputError(f"{self.family} {'needs' if wanted else 'has no'} {name}")
        _check_files([file.name for file in self.files()])
        _check_sizes(self)
        if not isinstance(self.scheduler.get("_class_name"), str):
            raise InputError(f"scheduler has _class_name {self.scheduler.get('_class_name')!r}, not a class's name")

    @property
    def kind(self) -> Family:
        """What is the same for every model of its family."""
        return FAMILIES[self.family]

    @property
    def ranking_features(self) -> FeatureExtractorSpec:
        """What CLAP's audio tower hears. Raises InputError where there is none."""
        if self.feature_extractor is None:
            raise InputError(f"{self.kind.pipeline}'s models have no audio tower of CLAP's to rank by")
        return self.feature_extractor

    def files(self) -> Iterator[FileSpec]:
        """Every file of the bundle but the manifest."""
        for tokenizer in self.tokenizers.values():
            yield tokenizer.file
        if self.speech is not None:
            yield self.speech.file
        for engine in self.engines.values():
            yield from engine.files


def _check_names(kind: str, found: Collection[str], wanted: Collection[str], more: Collection[str] = ()) -> None:
    """Raise InputError unless a table of the manifest has exactly the wanted names, and maybe some `more`."""
    if missing := sorted(set(wanted) - set(found)):
        raise InputError(f"{kind} has no {', '.join(missing)}")
    if unknown := sorted(set(found) - set(wanted) - set(more)):
        raise InputError(f"{kind} has {', '.join(map(repr, unknown))}, which nothing here reads")


def _check_files(names: Collection[str]) -> None:
    """Raise InputError for a name that cannot be used, or two that are one file where capitals do not count."""
    for name in names:
        if problem := problem_with_name(name):
            raise InputError(problem)
    counts = Counter(name.casefold() for name in names)
    if twice := sorted(name for name in names if counts[name.casefold()] > 1):
        raise InputError(f"file name '{twice[0]}' is used more than once")


def _check_sizes(manifest: Manifest) -> None:
    """Raise InputError where an engine does not take what the rest of the manifest says that it gets.

    A run would find that too, but in its middle, or after it where waveforms are ranked.
    """
    audio, extractor, engines = manifest.audio, manifest.feature_extractor, manifest.engines
    heard = None if extractor is None else (None, 1, extractor.frames, extractor.mel_bins)
    latents = (None, audio.latent_channels, None, audio.latent_width)  # None: any size
    lengths = {name: tokenizer.max_length for name, tokenizer in manifest.tokenizers.items()}
    if manifest.speech is not None:
        lengths["text_encoder_2"] = manifest.speech.max_length
    for name, tensor, shape in (
        *([] if heard is None else [("audio_encoder", "input_features", heard)]),
        ("unet", "sample", latents),
        ("vae_decoder", "latents", latents),
        *([("vae_encoder", "mel", (None, None, audio.mel_bins))] if "vae_encoder" in engines else []),
        ("vocoder", "mel", (None, None, audio.mel_bins)),
        *((name, "input_ids", (None, length)) for name, length in lengths.items()),
    ):
        spec = engines[name].inputs.get(tensor)
        if spec is None or not spec.holds(shape):
            expected = ", ".join("any" if size is None else str(size) for size in shape)
            raise InputError(
                f"{name} does not take '{tensor}' of shape ({expected}), which the rest of the manifest asks for"
            )
