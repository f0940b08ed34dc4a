"""A transcription to the ids that a speech checkpoint's text encoder reads. Source: transformers' VitsTokenizer."""

import logging
import re
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from runtime.bundle.manifest import SpeechSpec
from runtime.checks import reason
from runtime.errors import InputError, MissingDependencyError
from runtime.install import install_command
from runtime.wording import readable

logger = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
BLANK = 0  # the id between characters


class AddedToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A token that is found before the text is split into characters; it may take the spaces at its sides with it."""

    content: str
    id: int
    lstrip: bool
    rstrip: bool


class Vocabulary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The bundle's vocabulary file. The order of `characters` counts: see `VitsTokenizer._lower`."""

    characters: dict[str, int]
    added_tokens: tuple[AddedToken, ...]


class VitsTokenizer:
    """Text to phonemes or letters to ids, one a character."""

    def __init__(self, path: Path, spec: SpeechSpec) -> None:
        vocabulary = msgspec.json.decode(path.read_bytes(), type=Vocabulary)
        self._spec, self._characters = spec, vocabulary.characters
        self._added = {token.content: token for token in vocabulary.added_tokens}
        self._words = [*self._characters, *self._added]
        longest_first = sorted(self._added, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if self._added else None

    def row(self, text: str) -> tuple[Ints, Ints]:
        """One row for the text encoder: ids and mask, each (1, max_length), int64.

        The end id takes the place of the first id 0, as in the reference: the first of the padding where that is 0, but
        of the blanks or characters where those are; a full row without a 0 has no end.
        """
        spec, kept = self._spec, self.ids(text)
        ids = np.full((1, spec.max_length), spec.pad_token_id, np.int64)
        mask = np.zeros((1, spec.max_length), np.int64)
        ids[0, : len(kept)], mask[0, : len(kept)] = kept, 1
        for end in np.flatnonzero(ids[0] == 0)[:1]:
            ids[0, end], mask[0, end] = spec.end_token_id, 1
        return ids, mask

    def ids(self, text: str) -> list[int]:
        """Ids of the characters, cut at the model's limit with a warning.

        Raises InputError if there are none, or the model has no embedding for one: the reference fails there too. Where
        the checkpoint wants phonemes, MissingDependencyError without phonemizer or espeak-ng.
        """
        tokens, limit = self._tokens(self._prepare(text)), self._spec.max_length
        if not tokens:
            raise InputError(f"transcription: there is nothing to say in '{readable(text)}'")
        if len(tokens) > limit:
            dropped = "".join(character for character, _ in tokens[limit:])
            logger.warning("the transcription is cut at %d tokens; dropped: '%s'", limit, readable(dropped.strip()))
        for character, token_id in tokens[:limit]:
            if token_id >= self._spec.embedding_rows:
                raise InputError(f"transcription: the checkpoint has no entry for {character!r}; leave it out")
        return [token_id for _, token_id in tokens[:limit]]

    def _prepare(self, text: str) -> str:
        """Lower case, phonemes, or letters that are in the vocabulary: as the checkpoint was trained."""
        spec = self._spec
        if spec.normalize:
            text = self._lower(text)
        if spec.language == "ron":
            text = text.replace("\u021b", "\u0163")  # t with a comma below, as its vocabulary has it: with a cedilla
        if spec.phonemize:
            return re.sub(r"\s+", " ", phonemes(text))
        if spec.normalize:
            return "".join(character for character in text if character in self._characters).strip()
        return text

    def _lower(self, text: str) -> str:
        """Lower case, except for what the vocabulary has as it stands; its first entry that matches is taken."""
        kept, i = [], 0
        while i < len(text):
            word = next((word for word in self._words if word and text.startswith(word, i)), None)
            kept.append(word or text[i].lower())
            i += len(word or text[i])
        return "".join(kept)

    def _tokens(self, text: str) -> list[tuple[str, int]]:
        """Characters with their ids; blanks, if the checkpoint has them, around each but at the added tokens."""
        pieces = self._split.split(text) if self._split else [text]  # text, added token, text, ...
        for i in range(1, len(pieces), 2):
            if self._added[pieces[i]].lstrip:
                pieces[i - 1] = pieces[i - 1].rstrip()
            if self._added[pieces[i]].rstrip:
                pieces[i + 1] = pieces[i + 1].lstrip()
        tokens: list[tuple[str, int]] = []
        for i, piece in enumerate(pieces):
            if i % 2:
                tokens.append((piece, self._added[piece].id))
                continue
            for character in piece:
                token = (character, self._characters.get(character, self._spec.unknown_token_id))
                tokens += [("", BLANK), token] if self._spec.add_blank else [token]
            if piece and self._spec.add_blank:
                tokens.append(("", BLANK))
        return tokens


def phonemes(text: str) -> str:
    """American English in IPA, with stress marks and punctuation: the reference asks for it whatever the language.

    Raises MissingDependencyError if phonemizer or the espeak-ng library is absent.
    """
    try:
        import phonemizer
    except ImportError as error:
        raise MissingDependencyError(f"phonemizer is not installed: {install_command('tts')}") from error
    try:
        spoken: str = phonemizer.phonemize(
            text, language="en-us", backend="espeak", strip=True, preserve_punctuation=True, with_stress=True
        )
    except RuntimeError as error:  # all it says of a library that is not there
        raise MissingDependencyError(
            f"espeak-ng cannot be used ({reason(error)}): apt-get install espeak-ng"
        ) from error
    return spoken
