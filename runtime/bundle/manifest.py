"""Reading and writing a bundle's `manifest.json`. `export` writes through this module; `schema` says what it holds."""

import hashlib
import shlex
from pathlib import Path
from typing import Any

import msgspec

from runtime.bundle.schema import (
    SCHEMA,
    AudioSpec,
    BuildRecord,
    CallDefaults,
    CheckpointSpec,
    EngineSpec,
    FeatureExtractorSpec,
    FileSpec,
    Island,
    LoraSpec,
    Manifest,
    MelSpec,
    ParityCheck,
    SpeechSpec,
    TokenizerSpec,
)
from runtime.checks import shown
from runtime.errors import BundleError
from runtime.wording import readable

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "AudioSpec",
    "BuildRecord",
    "CallDefaults",
    "CheckpointSpec",
    "EngineSpec",
    "FeatureExtractorSpec",
    "FileSpec",
    "Island",
    "LoraSpec",
    "Manifest",
    "MelSpec",
    "ParityCheck",
    "SpeechSpec",
    "TokenizerSpec",
    "build_command",
    "describe_file",
    "read_manifest",
    "write_manifest",
]

MANIFEST = "manifest.json"
LONGEST_BYTES = 16 << 20  # far more than any manifest has: a larger file is something else, and is not read
LONGEST_QUOTE = 300  # characters of what a library says of a file: it repeats names from it
NEW_BUNDLE = "build one: python -m export build --checkpoint ID_OR_FOLDER"


def describe_file(folder: Path, name: str) -> FileSpec:
    """Measure a file for the manifest: its size in bytes and its SHA-256."""
    path = folder / name
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileSpec(name=name, size_bytes=path.stat().st_size, sha256=digest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `folder`, for people too: indented, in the order of the fields.

    Raises BundleError, and writes nothing, where it could not be read again: a value is outside of its bounds.
    """
    data = msgspec.json.encode(manifest)
    try:
        msgspec.json.decode(data, type=Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(f"{folder / MANIFEST} cannot be written: {readable(str(error), LONGEST_QUOTE)}") from error
    (folder / MANIFEST).write_bytes(msgspec.json.format(data, indent=2) + b"\n")


def build_command(checkpoint: str, folder: Path, *flags: str) -> str:
    """The command that builds a bundle at `folder`, to be pasted."""
    return shlex.join(["python", "-m", "export", "build", "--checkpoint", checkpoint, *flags, "--out", str(folder)])


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`.

    Raises BundleError with what is wrong and what mends it. To build into `folder` is advised only where it holds a
    bundle or does not exist: a folder of something else is the user's own.
    """
    path = folder / MANIFEST
    raw = _decoded(path, _content(folder, path))
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if isinstance(schema, bool) or not isinstance(schema, int):
        raise BundleError(f"{path} is not a bundle's manifest (it has schema {shown(schema)}); {NEW_BUNDLE}")
    rebuild = f"rebuild it: {build_command('ID_OR_FOLDER', folder)}"
    if schema != SCHEMA:
        raise BundleError(f"{path} has schema {schema}, this version reads schema {SCHEMA}; {rebuild}")
    try:
        return msgspec.convert(raw, Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(
            f"{path} is not a valid manifest: {readable(str(error), LONGEST_QUOTE)}; {rebuild}"
        ) from error


def _content(folder: Path, path: Path) -> bytes:
    """The file's bytes. Only a regular file is opened: a pipe or a device would make the reader wait for ever."""
    try:
        if not folder.exists():
            wanted = build_command("ID_OR_FOLDER", folder)
            raise BundleError(f"{folder} does not exist; give the folder of a bundle, or build one there: {wanted}")
        if not folder.is_dir():
            raise BundleError(f"{folder} is no folder; give the folder of a bundle, or {NEW_BUNDLE}")
        if not path.is_file():
            raise BundleError(_no_manifest(folder, path))
        size = path.stat().st_size
        if size > LONGEST_BYTES:
            raise BundleError(f"{path} has {size} bytes: no manifest is so long; {NEW_BUNDLE}")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # no permission, a name too long; a null byte
        raise BundleError(f"{path} cannot be read: {error}; give the folder of a bundle, or {NEW_BUNDLE}") from error


def _no_manifest(folder: Path, path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return f"{path} cannot be read: it is a link to nothing; {NEW_BUNDLE}"
    if path.exists():
        return f"{path} cannot be read: it is no regular file; {NEW_BUNDLE}"
    return f"{folder} is no bundle: it has no {MANIFEST}; give the folder of one, or {NEW_BUNDLE}"


def _decoded(path: Path, content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read: {readable(str(error), LONGEST_QUOTE)}; {NEW_BUNDLE}") from error
