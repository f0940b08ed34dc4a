"""The files that hold a module's weights: found by the names that diffusers and transformers give them, and checked.

A folder of a published checkpoint holds the same weights many times over: as `.safetensors` and as `.bin`, whole and in
shards, in full precision and in variants such as `fp16`, beside files of a training that are no weights at all.
"""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import safe_open

from export.errors import CheckpointError
from runtime.checks import reason

# The folders of a checkpoint that hold weights. `export.families` says of which classes.
WEIGHTED = ("text_encoder", "text_encoder_2", "projection_model", "language_model", "unet", "vae", "vocoder")

_STEM = r"(?P<stem>model|pytorch_model|diffusion_pytorch_model)"
# model.safetensors, model.fp16.safetensors, model.fp16-00001-of-00002.safetensors, and as older versions of diffusers
# wrote it: diffusion_pytorch_model-00001-of-00002.fp16.safetensors
_WEIGHTS = re.compile(
    _STEM + r"(\.(?P<variant>[^.]+?))?(?P<shard>-\d{5}-of-\d{5})?(\.(?P<older>[^.]+))?\.(?P<kind>safetensors|bin)"
)
# model.safetensors.index.json, model.safetensors.index.fp16.json, and the older model.safetensors.fp16.index.json
_INDEX = re.compile(_STEM + r"\.(?P<kind>safetensors|bin)(\.(?P<older>[^.]+))?\.index(\.(?P<variant>[^.]+))?\.json")
_ADAPTER = re.compile(r"(adapter_model|pytorch_lora_weights)(\.[^.]+)?\.(safetensors|bin)")
_POINTER = b"version https://git-lfs.github.com/spec/"
_LEGACY_PICKLE = b"\x80\x02"  # what torch wrote before 1.6: it has no directory that could be checked


@dataclass(frozen=True)
class WeightNames:
    """The names of one complete set of weights in a folder: one whole file, or an index and its shards."""

    kind: str  # "safetensors" or "bin"
    variant: str | None
    files: tuple[str, ...]
    index: str | None = None


def choose_weights(names: Iterable[str], variant: str | None, where: str) -> WeightNames:
    """Of a folder's file names those of the weights to use.

    They are those of `variant`, where the folder has it, and else the plain ones; where there is nothing but one
    variant, that one. Of equal ones `.safetensors` comes before `.bin`, and a whole file before shards. Raises
    CheckpointError, which begins with `where`, if there are none, or if the choice is the user's.
    """
    names = sorted(names)
    found = _sets(names)
    if not found:
        held = f": there are only {', '.join(names[:4])}" if names else ""
        raise CheckpointError(f"{where} has no weights, neither .safetensors nor .bin{held}")
    for wanted in dict.fromkeys((variant, None)):
        if matching := [weights for weights in found if weights.variant == wanted]:
            return matching[0]
    variants = sorted({str(weights.variant) for weights in found})
    if variant is None and len(variants) == 1:
        return found[0]
    asked = "" if variant is None else f", but not '{variant}'"
    raise CheckpointError(f"{where} has weights in the variants {', '.join(variants)}{asked}: choose with --variant")


def has_weights(names: Iterable[str]) -> bool:
    """Whether there are any weights among a folder's file names."""
    return bool(_sets(sorted(names)))


def _sets(names: list[str]) -> list[WeightNames]:
    """All sets of weights among the names, the preferred ones first. Shards count only with their index."""
    whole: list[tuple[re.Match[str], str]] = []
    shards: list[tuple[re.Match[str], str]] = []
    for name in names:
        match = _WEIGHTS.fullmatch(name)
        if match is None:
            continue
        (shards if match["shard"] else whole).append((match, name))
    sets = [WeightNames(match["kind"], match["variant"] or match["older"], (name,)) for match, name in whole]
    for name in names:
        if index := _INDEX.fullmatch(name):
            key = index["stem"], index["kind"], index["variant"] or index["older"]
            parts = tuple(part for m, part in shards if (m["stem"], m["kind"], m["variant"] or m["older"]) == key)
            sets.append(WeightNames(key[1], key[2], parts, name))
    return sorted(sets, key=lambda weights: (weights.kind == "bin", weights.index is not None))


@dataclass(frozen=True)
class Weights:
    """The weights of one module in a local folder. Their files exist, and are whole as far as their headers tell."""

    folder: Path
    names: WeightNames
    files: tuple[Path, ...]

    @classmethod
    def find(cls, folder: Path, variant: str | None, where: str) -> "Weights":
        """Choose and check the weights in `folder`. Raises CheckpointError, which begins with `where`."""
        if not folder.is_dir():
            raise CheckpointError(f"{where} is missing: there is no folder {folder}")
        present = sorted(path.name for path in folder.iterdir())
        if adapters := [name for name in present if _ADAPTER.fullmatch(name)]:
            raise CheckpointError(
                f"{where} has a LoRA beside its weights, {adapters[0]}, which nothing would use: merge it into the "
                "weights and save them, or remove it"
            )
        names = choose_weights(present, variant, where)
        files = names.files if names.index is None else _shards(folder / names.index, where)
        for name in files:
            check_weights(folder / name, where)
        return cls(folder, names, tuple(folder / name for name in files))

    @contextmanager
    def as_library_names_them(self, stem: str) -> Iterator[Path]:
        """A folder with the module's config and these weights alone, under the names that the libraries look for.

        The libraries choose by name too, and not always as we do: so they get no choice. `stem` is the one of the
        module's library. Files are linked, or copied where the file system has no links.
        """
        with TemporaryDirectory(prefix="weights-", ignore_cleanup_errors=True) as work:
            view = Path(work)
            shutil.copyfile(self.folder / "config.json", view / "config.json")
            renamed = {file.name: f"{stem}-{i:05}.{self.names.kind}" for i, file in enumerate(self.files, 1)}
            if self.names.index is None:
                renamed = {file.name: f"{stem}.{self.names.kind}" for file in self.files}
            else:
                index = json.loads((self.folder / self.names.index).read_bytes())
                index.setdefault("metadata", {})  # diffusers reads it
                index["weight_map"] = {key: renamed[name] for key, name in index["weight_map"].items()}
                (view / f"{stem}.{self.names.kind}.index.json").write_text(json.dumps(index))
            for file in self.files:
                _link(file.absolute(), view / renamed[file.name])
            yield view


def check_weights(path: Path, where: str) -> None:
    """Raise CheckpointError if a file of weights is missing, or its header shows that it is not whole."""
    if not path.is_file():
        raise CheckpointError(f"{where} lacks the file {path}: download it again")
    refuse_pointer(path, where)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):  # reads the header, and compares it with the file's size
                return
        with path.open("rb") as stream:
            legacy = stream.read(2) == _LEGACY_PICKLE
        if not legacy:
            zipfile.ZipFile(path).close()  # its directory is at the end
    except Exception as error:  # safetensors has a class of its own for each kind of damage
        raise CheckpointError(
            f"{where} cannot be loaded: {path} is damaged or incomplete ({reason(error)}): download it again"
        ) from error


def refuse_pointer(path: Path, where: str) -> None:
    """Raise CheckpointError if a file is the pointer that git leaves where git-lfs has not fetched the file itself."""
    if not path.is_file():  # what is no file at all is for its reader to say
        return
    with suppress(OSError), path.open("rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise CheckpointError(
                f"{where}: {path} is a pointer of git-lfs, not the file itself: run 'git lfs pull' in that folder"
            )


def _shards(index: Path, where: str) -> list[str]:
    """The names of the files that an index lists; all lie beside it."""
    refuse_pointer(index, where)
    try:
        listed = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{where} cannot be loaded: {index} is no index of weights: {error!r}") from error
    if not listed or not all(isinstance(name, str) and name == Path(name).name for name in listed):
        raise CheckpointError(f"{where} cannot be loaded: {index} lists no files, or files of another folder")
    return listed


def _link(source: Path, target: Path) -> None:
    for link in (os.symlink, os.link, shutil.copyfile):
        with suppress(OSError, NotImplementedError):
            link(source, target)
            return
    raise CheckpointError(f"{source} can be neither linked nor copied to {target.parent}")
