"""Checkpoints by id: only the files that are needed, with one clear line when the hub cannot be had."""

import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from export.errors import CheckpointError

_SMALL_FILES = ("*.json", "*.txt", "*.model")  # configs, indices and tokenizers
_UNREACHABLE = (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError)


def fetch(identifier: str, revision: str | None = None) -> tuple[Path, str]:
    """Download what is needed of a checkpoint, or find it in the local cache. Returns the folder and the commit.

    Raises CheckpointError when there is no such checkpoint or revision, it is gated, or the hub cannot be reached and
    the cache does not hold it.
    """
    try:
        info = HfApi().model_info(identifier, revision=revision)
        files = needed_files([file.rfilename for file in info.siblings or []])
        folder = snapshot_download(identifier, revision=info.sha, allow_patterns=files)
    except GatedRepoError:
        raise CheckpointError(
            f"checkpoint '{identifier}' is gated: accept its terms on its page, then log in with 'hf auth login'"
        ) from None
    except RevisionNotFoundError:
        raise CheckpointError(f"checkpoint '{identifier}' has no revision '{revision}'") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise CheckpointError(f"checkpoint '{identifier}' is neither a folder here nor a public repository") from None
    except _UNREACHABLE as error:
        folder = _from_cache(identifier, revision, error)
    return Path(folder), Path(folder).name


def needed_files(files: list[str]) -> list[str]:
    """Of a repository's files: configs, tokenizers, and each part's weights once, `.safetensors` if it has them."""
    chosen = [name for name in files if any(fnmatch.fnmatch(name, pattern) for pattern in _SMALL_FILES)]
    chosen = [name for name in chosen if name.count("/") <= 1]
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
        return snapshot_download(identifier, revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        reason = str(cause).strip().splitlines()[0]
        raise CheckpointError(
            f"checkpoint '{identifier}' is not in the local cache and the hub cannot be reached ({reason}); "
            "pass a local folder, or 'demo' for the embedded one"
        ) from cause
