"""A bundle: a folder with `manifest.json`, one engine a submodule and the tokenizers. Schema, reading, checking.

`export` writes bundles through this module, so that there is one definition of what a bundle is.
"""

import contextlib
import hashlib
import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import msgspec

from runtime.device import Device, HostDevice, gpu_is_usable, open_device
from runtime.engine import BuiltFor, Engine, ShapeProfile, TensorSpec, load_engine
from runtime.errors import BundleError, EngineError, IncompatibleEngineError, MissingDependencyError

SCHEMA = 3
MANIFEST = "manifest.json"
ENGINES_FOLDER = "engines"
ENGINES_VARIABLE = "TRT_AUDIOLDM2_ENGINES"


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

    `file` is a `runtime.speech.Vocabulary`; the text encoder knows `embedding_rows` ids.
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
    """Where the weights came from."""

    id: str
    revision: str | None
    weights_sha256: str


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


class Bundle:
    """A bundle on disk. Construct with `Bundle.read`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> "Bundle":
        """Read and check the manifest, and that every file is there in full. Hashes are checked when a file is opened.

        Raises BundleError with what is wrong and the command that mends it.
        """
        folder = Path(folder)
        bundle = cls(folder, _read_manifest(folder))
        for file in bundle.manifest.files():
            bundle._check_presence(file)
        return bundle

    @property
    def rebuild_command(self) -> str:
        """The command that makes this bundle anew, but for options of the builder."""
        return _build_command(self.manifest.checkpoint.id, self.folder, *self._target_flags())

    def needs_gpu(self) -> bool:
        """Whether its engines run on a GPU only."""
        return any(spec.built_for is not None for spec in self.manifest.engines.values())

    def default_device(self) -> str:
        """The device of `auto`: a GPU for engines that were compiled for one."""
        return "cuda" if self.needs_gpu() else "cpu"

    def open_device(self, name: str = "auto") -> Device:
        """The device to run on. Where it cannot be had the error names a bundle beside this one that needs no GPU."""
        try:
            if name == "cpu" and self.needs_gpu():
                raise EngineError(f"{self.folder} is compiled for GPUs: it does not run on device 'cpu'")
            return open_device(self.default_device() if name == "auto" else name)
        except (EngineError, MissingDependencyError) as error:
            others = [other.folder for other in self._siblings() if not other.needs_gpu()]
            hint = f"; for the CPU, from the same checkpoint: {others[0]}" if others and self.needs_gpu() else ""
            raise type(error)(f"{error}{hint}") from error

    def _siblings(self) -> Iterator["Bundle"]:
        """Readable bundles of the same weights in the same folder."""
        for path in sorted(self.folder.absolute().parent.glob(f"[!.]*/{MANIFEST}")):
            with contextlib.suppress(BundleError):
                other = Bundle.read(self.folder.parent / path.parent.name)
                if other.manifest.checkpoint.weights_sha256 == self.manifest.checkpoint.weights_sha256:
                    yield other

    def _target_flags(self) -> list[str]:
        spec = next(iter(self.manifest.engines.values()), None)
        flags = []
        if spec is not None and spec.built_for is not None:
            flags += ["--backend", spec.built_for.flavour.replace("_", "-")]
        if spec is not None and spec.precision != "fp32":
            flags += ["--precision", spec.precision]
        return flags

    def path(self, file: FileSpec) -> Path:
        """Check the hash of one of the bundle's files and return its path. Raises BundleError if it was altered."""
        path = self._check_presence(file)
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != file.sha256:
            raise BundleError(
                f"{path} was altered: its SHA-256 is {found[:12]}..., the manifest has {file.sha256[:12]}...; "
                f"rebuild: {self.rebuild_command}"
            )
        return path

    def open(self, name: str, device: Device | None = None) -> Engine:
        """Check and load one engine. Raises BundleError for a damaged file, EngineError if it cannot run here."""
        spec = self.manifest.engines.get(name)
        if spec is None:
            has = ", ".join(sorted(self.manifest.engines))
            raise BundleError(f"{self.folder} has no engine '{name}' (it has {has}); rebuild: {self.rebuild_command}")
        paths = [self.path(file) for file in spec.files]
        try:
            return load_engine(
                paths[0],
                backend=spec.backend,
                inputs=spec.inputs,
                outputs=spec.outputs,
                device=device,
                built_for=spec.built_for,
            )
        except IncompatibleEngineError as error:
            raise IncompatibleEngineError(f"{error}; rebuild: {self.rebuild_command}") from error

    def _check_presence(self, file: FileSpec) -> Path:
        name = PurePosixPath(file.name)
        path = self.folder / name
        try:
            inside, found = path.resolve().is_relative_to(self.folder.resolve()), path.is_file()
        except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a null byte
            raise BundleError(
                f"{self.folder / MANIFEST}: file name {file.name!r} cannot be used: {error}; "
                f"rebuild: {self.rebuild_command}"
            ) from error
        if name.is_absolute() or ".." in name.parts or not inside:
            raise BundleError(f"{self.folder / MANIFEST}: file name '{file.name}' leaves the bundle; do not use it")
        if not found:
            raise BundleError(f"{path} is missing; rebuild: {self.rebuild_command}")
        if path.stat().st_size != file.size_bytes:
            raise BundleError(
                f"{path} has {path.stat().st_size} bytes, the manifest says {file.size_bytes}; "
                f"rebuild: {self.rebuild_command}"
            )
        return path


class OpenEngines(Mapping[str, Engine]):
    """The engines of a bundle by name, each loaded at its first use.

    With `one_at_a_time` an engine is freed before the next is loaded, and at the end of the stage that used it.
    `loading_s` is the time spent loading so far.
    """

    def __init__(self, bundle: Bundle, device: Device | None = None, *, one_at_a_time: bool = False) -> None:
        self._bundle, self._device = bundle, device or HostDevice()
        self._one_at_a_time = one_at_a_time
        self._open: dict[str, Engine] = {}
        self.loading_s = 0.0

    def __getitem__(self, name: str) -> Engine:
        if name not in self._open:
            if self._one_at_a_time:
                self.close()
            start = time.perf_counter()
            self._open[name] = self._bundle.open(name, self._device)
            self.loading_s += time.perf_counter() - start
        return self._open[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._bundle.manifest.engines)

    def __len__(self) -> int:
        return len(self._bundle.manifest.engines)

    def open(self, *names: str) -> None:
        """Load the named engines now, unless they are loaded one at a time: then each waits for its use."""
        for name in () if self._one_at_a_time else names:
            self[name]

    def end_stage(self) -> None:
        """Free what the stage that ends has used, if engines are loaded one at a time."""
        if self._one_at_a_time:
            self.close()

    def close(self) -> None:
        """Free every engine; a later use loads it again."""
        while self._open:
            self._open.popitem()[1].close()


def describe_file(folder: Path, name: str) -> FileSpec:
    """Measure a file for the manifest."""
    path = folder / name
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileSpec(name=name, size_bytes=path.stat().st_size, sha256=digest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `folder`, for people too: indented, in the order of the fields."""
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def find_bundle(engines: str | None, environment: Mapping[str, str], device: str = "auto") -> Path:
    """The bundle to use: as asked, else by TRT_AUDIOLDM2_ENGINES, else the only one under `engines/` that fits.

    Where a GPU is usable, and `device` is not the CPU, bundles that were compiled for one come first; elsewhere they do
    not count. Raises BundleError with the build command if there is none, or with their names if there are several.
    """
    asked = engines or environment.get(ENGINES_VARIABLE)
    if asked:
        return Path(asked)
    found = sorted(path.parent for path in Path(ENGINES_FOLDER).glob(f"[!.]*/{MANIFEST}"))
    if not found:
        raise BundleError(
            f"no bundle under {ENGINES_FOLDER}/; build one: python -m export build --checkpoint cvssp/audioldm2 "
            "(or --checkpoint demo to try without a download)"
        )
    if len(found) > 1:
        with contextlib.suppress(BundleError):  # of a damaged one: then the choice is the user's
            found = _fitting([Bundle.read(path) for path in found], device) or found
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise BundleError(f"several bundles: {names}; choose one with --engines or {ENGINES_VARIABLE}")
    return found[0]


def _fitting(bundles: list[Bundle], device: str) -> list[Path]:
    """Bundles of the kind that this machine runs best."""
    compiled = [bundle.folder for bundle in bundles if bundle.needs_gpu()]
    graphs = [bundle.folder for bundle in bundles if not bundle.needs_gpu()]
    return (compiled or graphs) if device != "cpu" and gpu_is_usable() else graphs


def _build_command(checkpoint: str, folder: Path, *flags: str) -> str:
    return shlex.join(["python", "-m", "export", "build", "--checkpoint", checkpoint, *flags, "--out", str(folder)])


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    rebuild = f"rebuild it: {_build_command('ID_OR_FOLDER', folder)}"
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
