"""The tokenizers of a checkpoint, asked for what they can do and not for what they are called."""

from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import LARGE_INTEGER

from export.errors import CheckpointError, one_line
from export.weights import refuse_pointer
from runtime.text.speech import AddedToken, Vocabulary

_SPEECH_FIELDS = ("encoder", "normalize", "phonemize", "add_blank", "language", "is_uroman")


def load_tokenizer(folder: Path, named: str, where: str) -> Any:
    """The tokenizer in `folder`; `named` is its class in `model_index.json`, for folders that do not say it.

    Raises CheckpointError, which begins with `where`, if a file is missing or damaged, or there is no pad token.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{where} is missing: there is no folder {folder}")
    for path in folder.iterdir():
        refuse_pointer(path, where)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        tokenizer = _load_as(named, folder)
        if tokenizer is None:
            raise CheckpointError(f"{where} cannot be loaded: {one_line(error)}") from error
    _check_vocabulary_files(tokenizer, folder, where)
    if tokenizer.pad_token_id is None:
        raise CheckpointError(
            f"{where} has no pad token, so that texts cannot be padded: name it in {folder.name}'s files"
        )
    return tokenizer


def length_limit(tokenizer: Any, where: str) -> int | None:
    """The most tokens of a text, special ones among them; None if the tokenizer does not say."""
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest >= 1:
        raise CheckpointError(
            f"{where} has model_max_length {longest!r} in tokenizer_config.json: 1 or more are needed"
        )
    return None if longest >= LARGE_INTEGER else int(longest)


def tokenizer_json(tokenizer: Any, where: str) -> str:
    """The text of its `tokenizer.json`, converted where the checkpoint holds none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(f"{where} is a {type(tokenizer).__name__}, which has no form as tokenizer.json")
    text: str = backend.to_str()
    return text


def vocabulary(tokenizer: Any, where: str) -> Vocabulary:
    """What a speech checkpoint's tokenizer knows. Raises CheckpointError for options that are not supported."""
    if missing := [field for field in _SPEECH_FIELDS if not hasattr(tokenizer, field)]:
        raise CheckpointError(f"{where} is a {type(tokenizer).__name__}, which has no {missing[0]}: VitsTokenizer has")
    added = sorted(tokenizer.added_tokens_decoder.items())
    if tokenizer.is_uroman or any(token.single_word for _, token in added):
        raise CheckpointError(f"{where} wants is_uroman or single_word, which are not supported")
    tokens = (AddedToken(content=t.content, id=number, lstrip=t.lstrip, rstrip=t.rstrip) for number, t in added)
    return Vocabulary(characters=tokenizer.encoder, added_tokens=tuple(tokens))


def _load_as(named: str, folder: Path) -> Any:
    """The tokenizer by the class that `model_index.json` names, as diffusers loads it; None if that fails as well."""
    cls = getattr(transformers, named, None)
    if not (isinstance(cls, type) and issubclass(cls, PreTrainedTokenizerBase)):
        return None
    try:
        return cls.from_pretrained(folder, local_files_only=True)
    except Exception:  # the first attempt's reason is reported
        return None


def _check_vocabulary_files(tokenizer: Any, folder: Path, where: str) -> None:
    """Without its files a tokenizer loads all the same, with special tokens and nothing else."""
    needed = dict(tokenizer.vocab_files_names)
    whole = needed.pop("tokenizer_file", None)
    if whole is not None and (folder / whole).is_file():
        return
    missing = [name for name in needed.values() if not (folder / name).is_file()]
    if missing or not needed:
        names = " or ".join(name for name in (whole, " and ".join(needed.values())) if name)
        raise CheckpointError(f"{where} has no vocabulary: {folder} lacks {names}")
