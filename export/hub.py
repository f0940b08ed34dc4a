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

from export.errors import CheckpointError

logger = logging.getLogger(__name__)

_SMALL_FILES = ("*.json", "*.txt", "*.model")  # configs, indices and tokenizers
_REFUSALS = (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError)
_TIMEOUT_S = 30.0


def fetch(identifier: str, revision: str | None = None) -> tuple[Path, str]:
    """Download what is needed of a checkpoint, or find it in the local cache. Returns the folder and the commit.

    Raises CheckpointError when there is no such checkpoint or revision, it is gated, the download breaks off, or the
    hub cannot be reached and the cache does not hold it.
    """
    try:
        info = HfApi().model_info(identifier, revision=revision, timeout=_TIMEOUT_S)
    except _REFUSALS as error:
        raise _refused(identifier, revision, error) from None
    except Exception as error:  # besides the hub's own classes those of its HTTP client, which changes with its version
        folder = _from_cache(identifier, revision, error)
    else:
        folder = _download(identifier, revision, needed_files([file.rfilename for file in info.siblings or []]))
    return Path(folder), Path(folder).name


def _download(identifier: str, revision: str | None, files: list[str]) -> str:
    try:
        # by the revision as it was asked for: the cache then finds it under that name when the hub cannot be reached
        return snapshot_download(identifier, revision=revision, allow_patterns=files)
    except _REFUSALS as error:
        raise _refused(identifier, revision, error) from None
    except Exception as error:
        raise CheckpointError(
            f"checkpoint '{identifier}': the download broke off ({_reason(error)}); run the same command again "
            "to go on: complete files are kept"
        ) from error


def needed_files(files: list[str]) -> list[str]:
    """Of a repository's files: configs, tokenizers, and each part's weights once, `.safetensors` if it has them."""
    files = [name for name in files if name.count("/") <= 1]  # diffusers' layout is one folder deep
    chosen = [name for name in files if any(fnmatch.fnmatch(name, pattern) for pattern in _SMALL_FILES)]
    parts = sorted({name.split("/")[0] for name in files if name.count("/") == 1})
    for part in parts:
        for suffix in (".safetensors", ".bin"):
            weights = [name for name in files if name.startswith(f"{part}/") and name.endswith(suffix)]
            weights = [name for name in weights if not _is_variant(name)]
            if weights:
                chosen += weights
                break
    return chosen


def _is_variant(name: str) -> bool:
    """`model.fp16.safetensors` is a variant of `model.safetensors`; shards have no such infix."""
    return Path(name).name.count(".") > 1


def _from_cache(identifier: str, revision: str | None, cause: Exception) -> str:
    try:
        # asked for one file only: of the whole repository most is left out on purpose, and would be reported missing
        folder = snapshot_download(
            identifier, revision=revision, local_files_only=True, allow_patterns=["model_index.json"]
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise CheckpointError(
            f"checkpoint '{identifier}' is not in the local cache and the hub cannot be reached ({_reason(cause)}); "
            "pass a local folder, or 'demo' for the embedded one"
        ) from cause
    logger.warning("the hub cannot be reached (%s): using the cached copy, %s", _reason(cause), folder)
    return folder


def _refused(identifier: str, revision: str | None, error: Exception) -> CheckpointError:
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            f"checkpoint '{identifier}' is gated: accept its terms on its page, then log in with 'hf auth login'"
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(f"checkpoint '{identifier}' has no revision '{revision}'")
    return CheckpointError(f"checkpoint '{identifier}' is neither a folder here nor a public repository")


def _reason(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
