"""Checkpoints by id: only the files that are needed, with one clear line when the hub cannot be had."""

import fnmatch
import logging
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from export.errors import CheckpointError, one_line
from export.weights import WEIGHTED, choose_weights, has_weights

logger = logging.getLogger(__name__)

_SMALL_FILES = ("*.json", "*.txt", "*.model")  # configs, indices and tokenizers
_REFUSALS = (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError)
_TIMEOUT_S = 30.0


def fetch(identifier: str, revision: str | None = None, variant: str | None = None) -> tuple[Path, str]:
    """Download what is needed of a checkpoint, or find it in the local cache. Returns the folder and the commit.

    Of each module one set of weights is downloaded, in `variant` where there are some. Raises CheckpointError when
    there is no such checkpoint or revision, it is gated, the download breaks off, or the hub cannot be reached and the
    cache does not hold it.
    """
    try:
        info = HfApi().model_info(identifier, revision=revision, timeout=_TIMEOUT_S)
    except _REFUSALS as error:
        raise _refused(identifier, revision, error) from None
    except Exception as error:  # besides the hub's own classes those of its HTTP client, which changes with its version
        folder = _from_cache(identifier, revision, error)
    else:
        files = needed_files([file.rfilename for file in info.siblings or []], variant, identifier)
        folder = _download(identifier, revision, files)
    return Path(folder), Path(folder).name


def _download(identifier: str, revision: str | None, files: list[str]) -> str:
    try:
        # by the revision as it was asked for: the cache then finds it under that name when the hub cannot be reached
        return snapshot_download(identifier, revision=revision, allow_patterns=files)
    except _REFUSALS as error:
        raise _refused(identifier, revision, error) from None
    except Exception as error:
        raise CheckpointError(
            f"checkpoint '{identifier}': the download broke off ({one_line(error)}); run the same command again "
            "to go on: complete files are kept"
        ) from error


def needed_files(files: list[str], variant: str | None = None, where: str = "checkpoint") -> list[str]:
    """Of a repository's files: configs, tokenizers, and each module's weights once, as `Checkpoint` will choose them.

    Raises CheckpointError, which begins with `where`, if no module has weights of `variant`, or if without it there are
    several variants and no plain weights.
    """
    files = [name for name in files if name.count("/") <= 1]  # diffusers' layout is one folder deep
    chosen = [name for name in files if any(fnmatch.fnmatch(name, pattern) for pattern in _SMALL_FILES)]
    variants = set()
    for part in WEIGHTED:
        names = [name.removeprefix(f"{part}/") for name in files if name.startswith(f"{part}/")]
        if not has_weights(names):
            continue  # `Checkpoint` says what is missing
        weights = choose_weights(names, variant, f"{where}: {part}")
        variants.add(weights.variant)
        chosen += [f"{part}/{name}" for name in weights.files]
    if variant is not None and variant not in variants:
        raise CheckpointError(f"{where}: no part has weights of the variant '{variant}'")
    return chosen


def _from_cache(identifier: str, revision: str | None, cause: Exception) -> str:
    try:
        # asked for one file only: of the whole repository most is left out on purpose, and would be reported missing
        folder = snapshot_download(
            identifier, revision=revision, local_files_only=True, allow_patterns=["model_index.json"]
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise CheckpointError(
            f"checkpoint '{identifier}' is not in the local cache and the hub cannot be reached ({one_line(cause)}); "
            "pass a local folder, or 'demo' for the embedded one"
        ) from cause
    logger.warning("the hub cannot be reached (%s): using the cached copy, %s", one_line(cause), folder)
    return folder


def _refused(identifier: str, revision: str | None, error: Exception) -> CheckpointError:
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            f"checkpoint '{identifier}' is gated: accept its terms on its page, then log in with 'hf auth login'"
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(f"checkpoint '{identifier}' has no revision '{revision}'")
    return CheckpointError(f"checkpoint '{identifier}' is neither a folder here nor a public repository")
