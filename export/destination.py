"""Where a bundle may be written: in an empty place, or over a bundle of ours that holds nothing else.

A build replaces the whole folder that `--out` names, so whatever a user keeps in it would be lost.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from export.errors import BuildError
from runtime.bundle.manifest import MANIFEST

_ADVICE = "choose another --out"


class _Checkpoint(msgspec.Struct):
    id: str
    weights_sha256: str


class _File(msgspec.Struct):
    name: str
    size_bytes: int
    sha256: str


class _Engine(msgspec.Struct):
    files: Annotated[tuple[_File, ...], msgspec.Meta(min_length=1)]


class _AnyManifest(msgspec.Struct):
    """What manifests of every schema have had in common since the first, and no other program's `manifest.json` has."""

    schema: int
    checkpoint: _Checkpoint
    engines: Annotated[dict[str, _Engine], msgspec.Meta(min_length=1)]


def resolve_destination(out: Path) -> Path:
    """Return the folder that a build for `out` writes, which is where a link at `out` leads.

    Raises BuildError, with nothing touched, if that is no place for a bundle: a file, a folder with anything in it that
    is not part of a bundle, the inside of another bundle, the working folder, or a folder that cannot be written to.
    """
    try:
        place = Path(os.path.realpath(out))
        problem = _problem(place)
    except OSError as error:
        problem = f"cannot be used: {error.strerror}"
    if problem is not None:
        raise BuildError(f"--out {os.fspath(out)!r} {problem}")
    return place


def _problem(place: Path) -> str | None:
    """What speaks against building in `place`; None if nothing does."""
    if Path.cwd().is_relative_to(place):
        return f"is the folder you work in, or holds it: {_ADVICE}, such as engines/NAME"
    for folder in place.parents:
        if bundle_files(folder) is not None:
            return f"lies inside of the bundle {folder}: {_ADVICE}"
    if place.is_symlink():
        return f"is a link that leads to itself: {_ADVICE}"
    if place.exists():
        return _occupied(place)
    above = next(folder for folder in place.parents if folder.exists())
    if not above.is_dir():
        return f"cannot be made: {above} is not a folder; {_ADVICE}"
    if not os.access(above, os.W_OK | os.X_OK):
        return f"cannot be made: {above} is not writable; {_ADVICE}"
    return None


def _occupied(place: Path) -> str | None:
    """What speaks against replacing what is at `place` now."""
    if not place.is_dir():
        return f"is a file: {_ADVICE}, or remove it"
    if os.path.ismount(place):
        return f"is a mount point, which cannot be replaced: {_ADVICE}, such as a folder inside of it"
    if not os.access(place.parent, os.W_OK | os.X_OK):
        return f"cannot be replaced: {place.parent} is not writable; {_ADVICE}"
    if next(place.iterdir(), None) is None:
        return None
    files = bundle_files(place)
    if files is None:
        return f"exists and is no bundle: {_ADVICE}, or remove it"
    foreign = next(_entries_beside(place, files), None)
    if foreign is None:
        return None
    return f"holds {str(foreign)!r}, which is no part of the bundle there: {_ADVICE}, or move it away"


def bundle_files(folder: Path) -> set[str] | None:
    """Names of the files that make the bundle in `folder`, which may be of an earlier schema or damaged.

    None if there is no manifest of a bundle in `folder`.
    """
    path = folder / MANIFEST
    try:
        if not path.is_file():
            return None
        manifest = json.loads(path.read_bytes())
        msgspec.convert(manifest, _AnyManifest)
    except (OSError, ValueError, RecursionError):  # msgspec.ValidationError is a ValueError
        return None
    return {MANIFEST, *(file.name for file in _files_in(manifest))}


def _files_in(part: Any) -> Iterator[_File]:
    """Every description of a file in a manifest, wherever its schema puts them."""
    if isinstance(part, dict) and part.keys() == set(_File.__struct_fields__):
        yield msgspec.convert(part, _File)
    elif isinstance(part, dict):
        for value in part.values():
            yield from _files_in(value)
    elif isinstance(part, list):
        for value in part:
            yield from _files_in(value)


def _entries_beside(folder: Path, files: set[str]) -> Iterator[Path]:
    """Everything in `folder`, by its path in there, but for `files` and the folders that lead to them."""
    leading = {str(above) for name in files for above in Path(name).parents}
    normal = {str(Path(name)) for name in files}
    for here, folders, names in os.walk(folder):
        inside = Path(here).relative_to(folder)
        links = [name for name in folders if Path(here, name).is_symlink()]
        for name in sorted(names + links):
            if str(inside / name) not in normal:
                yield inside / name
        for name in sorted(set(folders) - set(links)):
            if str(inside / name) not in leading:
                yield inside / name
