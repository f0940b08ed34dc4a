"""Texts to the token ids that CLAP and T5 read."""

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from runtime.bundle import Bundle
from runtime.bundle.manifest import TokenizerSpec
from runtime.text.speech import VitsTokenizer
from runtime.text.weights import Weighted
from runtime.wording import readable

logger = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]


class TextTokenizer:
    """A `tokenizer.json`, with truncation as the reference's tokenizers do it: special tokens stay."""

    def __init__(self, path: Path, spec: TokenizerSpec) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_length, self._pad = spec.max_length, spec.pad_token_id

    def ids(self, text: str, max_length: int | None = None) -> list[int]:
        """Token ids with special tokens, at most `max_length`; by default the model's own limit, with a warning."""
        encoding = self._tokenizer.encode(text)
        limit = max_length or self._max_length
        if len(encoding.ids) <= limit:
            return list(encoding.ids)
        mask = encoding.special_tokens_mask
        closing = next((i for i, special in enumerate(reversed(mask)) if not special), len(mask))
        body, tail = encoding.ids[: len(mask) - closing], encoding.ids[len(mask) - closing :]
        keep = max(limit - closing, 0)
        if max_length is None:
            cut = self._tokenizer.decode(body[keep:])
            logger.warning("the prompt is cut at %d tokens; dropped: '%s'", limit, readable(cut.strip()))
        return list(body[:keep] + tail)

    def weights(self, text: Weighted, count: int) -> list[float]:
        """What each of the first `count` tokens of a text counts; special tokens, which stand for nothing in it, 1."""
        encoding = self._tokenizer.encode(text.text)
        spans = zip(encoding.special_tokens_mask[:count], encoding.offsets, strict=False)
        found = [1.0 if special else text.of(*span) for special, span in spans]
        return found + [1.0] * (count - len(found))

    def pad(self, rows: list[list[int]], length: int | None = None) -> tuple[Ints, Ints]:
        """Right-pad to the longest row, or to `length`. Returns ids and mask, each (rows, longest), int64."""
        longest = length or max(len(row) for row in rows)
        ids = np.full((len(rows), longest), self._pad, np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        return ids, mask


def open_tokenizers(bundle: Bundle) -> tuple[dict[str, TextTokenizer], VitsTokenizer | None]:
    """A bundle's tokenizers by the engine that they feed, and VITS's where it is a speech checkpoint's."""
    manifest = bundle.manifest
    tokenizers = {name: TextTokenizer(bundle.path(spec.file), spec) for name, spec in manifest.tokenizers.items()}
    speech = manifest.speech
    return tokenizers, None if speech is None else VitsTokenizer(bundle.path(speech.file), speech)
