"""What a bundle's `manifest.json` holds: its schema, reading and writing. `export` writes through this module."""

import hashlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from runtime.backends.specs import BuiltFor, ShapeProfile, TensorSpec
from runtime.errors import BundleError

SCHEMA = 3
MANIFEST = "manifest.json"


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Frozen, and strict about unknown fields."""


class FileSpec(_Part, frozen=True):
    """A file of the bundle: a relative name inside it, its size and hash."""

    name: str
    size_bytes: int
    sha256: str


class ParityCheck(_Part, frozen=True):
    """One comparison of an engine with its torch module: sizes of the axes, worst relative L2 error of any output."""

    sizes: dict[str, int]
    relative_error: float


class Island(_Part, frozen=True):
    """A part of a half-precision graph that stays in float32, and why: relative errors at the traced size.

    `error_without` is what the whole graph's error would be if this part alone were half too; not finite: None.
    """

    name: str
    pattern: str
    nodes: int
    extra_bytes: int
    error_with: float
    error_without: float | None


class EngineSpec(_Part, frozen=True):
    """One engine: its files (the first is the one to open), how it runs, what it takes and gives, how exact it is.

    `parity` was measured on the engine itself or, where the build had no GPU, on its graph with every half tensor
    rounded: `parity_of` is "engine" or "graph". `build_key` is a hash of all that the engine was made from.
    `activation_bytes` are the coefficients c0, c1, c2 of the peak memory of one row, c0 + c1 h + c2 h^2 for latent
    height h; empty where memory does not grow with it.
    """

    files: Annotated[tuple[FileSpec, ...], msgspec.Meta(min_length=1)]
    backend: str
    precision: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    activation_bytes: tuple[float, ...]
    tolerance: float
    parity: tuple[ParityCheck, ...]
    parity_of: str
    build_key: str
    islands: tuple[Island, ...] = ()
    profiles: tuple[ShapeProfile, ...] = ()
    built_for: BuiltFor | None = None


class TokenizerSpec(_Part, frozen=True):
    """A `tokenizer.json` with the two numbers that it lacks. Longer texts are cut at `max_length` tokens."""

    file: FileSpec
    max_length: int
    pad_token_id: int


class SpeechSpec(_Part, frozen=True):
    """What a speech checkpoint reads its transcription with: fields of VitsTokenizer, and what the model adds to them.

    `file` is a `runtime.text.speech.Vocabulary`; the text encoder knows `embedding_rows` ids.
    """

    file: FileSpec
    max_length: int
    pad_token_id: int
    unknown_token_id: int
    end_token_id: int
    embedding_rows: int
    normalize: bool
    phonemize: bool
    add_blank: bool
    language: str | None


class FeatureExtractorSpec(_Part, frozen=True):
    """What turns audio into CLAP's log-mel features; fields of ClapFeatureExtractor with their units."""

    sample_rate_hz: int
    fft_samples: int
    hop_samples: int
    mel_bins: int
    min_frequency_hz: float
    max_frequency_hz: float
    max_samples: int
    padding: str


class CheckpointSpec(_Part, frozen=True):
    """Where the weights came from; `variant` is the one that was asked for, such as "fp16"."""

    id: str
    revision: str | None
    weights_sha256: str
    variant: str | None = None


class AudioSpec(_Part, frozen=True):
    """Numbers of the audio side. One latent row is `vae_scale_factor` mel frames of `hop_samples` samples each.

    A sample depends on at most `vocoder_context_frames` mel frames before and after its own.
    """

    sample_rate_hz: int
    hop_samples: int
    mel_bins: int
    latent_channels: int
    default_latent_height: int
    vae_scale_factor: int
    vae_scaling_factor: float
    vocoder_context_frames: int

    @property
    def row_samples(self) -> int:
        """Samples of one latent row."""
        return self.vae_scale_factor * self.hop_samples

    @property
    def latent_width(self) -> int:
        """Width of the latents: mel bins by the VAE's scale factor."""
        return self.mel_bins // self.vae_scale_factor


class Manifest(_Part, frozen=True):
    """All that the runtime needs to know of a checkpoint."""

    schema: int
    checkpoint: CheckpointSpec
    versions: dict[str, str]
    audio: AudioSpec
    max_new_tokens: int
    scheduler: dict[str, Any]
    feature_extractor: FeatureExtractorSpec
    tokenizers: dict[str, TokenizerSpec]
    engines: dict[str, EngineSpec]
    speech: SpeechSpec | None = None  # None: the second text encoder is T5, and reads the prompt

    def files(self) -> Iterator[FileSpec]:
        """Every file of the bundle but the manifest."""
        for tokenizer in self.tokenizers.values():
            yield tokenizer.file
        if self.speech is not None:
            yield self.speech.file
        for engine in self.engines.values():
            yield from engine.files


def describe_file(folder: Path, name: str) -> FileSpec:
    """Measure a file for the manifest."""
    path = folder / name
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileSpec(name=name, size_bytes=path.stat().st_size, sha256=digest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `folder`, for people too: indented, in the order of the fields."""
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def build_command(checkpoint: str, folder: Path, *flags: str) -> str:
    """The command that builds a bundle at `folder`, to be pasted."""
    return shlex.join(["python", "-m", "export", "build", "--checkpoint", checkpoint, *flags, "--out", str(folder)])


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`. Raises BundleError with what is wrong and the command that mends it."""
    path = folder / MANIFEST
    rebuild = f"rebuild it: {build_command('ID_OR_FOLDER', folder)}"
    try:
        raw = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{folder} is no bundle (it has no {MANIFEST}); {rebuild}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read: {error}; {rebuild}") from error
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema != SCHEMA:
        raise BundleError(f"{path} has schema {schema!r}, this version reads schema {SCHEMA}; {rebuild}")
    try:
        return msgspec.convert(raw, Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(f"{path} is not a valid manifest: {error}; {rebuild}") from error
