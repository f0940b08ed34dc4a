"""Prompt to conditioning: tokens, CLAP and T5 (or VITS) states, their projection, GPT2's new embeddings."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from runtime.backends.device import Array, Device, HostDevice
from runtime.backends.engine import Engine
from runtime.backends.graphs import Graphs
from runtime.bundle.manifest import TokenizerSpec
from runtime.errors import InputError
from runtime.text.speech import VitsTokenizer
from runtime.wording import readable

logger = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
CAPTURED_TOKENS = 32  # speech makes 512, each with a longer cache: its graph would be large
CACHED_PROMPTS = 32  # conditioning of one is 0.2 MB at base size, 4 MB for speech


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is conditioned on, one row a waveform."""

    prompt_embeds: Array  # (rows, tokens, T5 or VITS width)
    attention_mask: Array  # (rows, tokens), int64: 1 where there is a token
    generated_prompt_embeds: Array  # (rows, new tokens, GPT2 width)

    def row(self, index: int) -> "Conditioning":
        """One row alone."""
        one = slice(index, index + 1)
        return Conditioning(self.prompt_embeds[one], self.attention_mask[one], self.generated_prompt_embeds[one])

    def on(self, xp: ModuleType) -> "Conditioning":
        """The same in arrays of `xp`."""
        return Conditioning(*(xp.asarray(array) for array in self._arrays()))

    def padded(self, length: int) -> "Conditioning":
        """The same with masked tokens up to `length`."""
        missing = length - self.attention_mask.shape[1]
        return Conditioning(
            np.pad(self.prompt_embeds, [(0, 0), (0, missing), (0, 0)]),
            np.pad(self.attention_mask, [(0, 0), (0, missing)]),
            self.generated_prompt_embeds,
        )

    @classmethod
    def pair(cls, negative: "Conditioning", positive: "Conditioning") -> "Conditioning":
        """Rows of both, the negative ones first, the shorter one padded."""
        longest = max(part.attention_mask.shape[1] for part in (negative, positive))
        parts = [negative.padded(longest), positive.padded(longest)]
        return cls(*(np.concatenate(arrays) for arrays in zip(*map(cls._arrays, parts), strict=True)))

    @classmethod
    def batch(cls, prompts: "list[Conditioning]", repeats: int) -> "Conditioning":
        """Stack prompts into one batch, each row `repeats` times.

        Rows are in the UNet's order: all negative ones, then all positive ones. Shorter prompts are padded and masked.
        """
        longest = max(prompt.attention_mask.shape[1] for prompt in prompts)

        def stack(arrays: tuple[Array, ...]) -> Array:
            rows = np.stack(arrays, axis=1)  # (guided pair, prompts, ...)
            return np.repeat(rows.reshape(-1, *rows.shape[2:]), repeats, axis=0)

        parts = [prompt.padded(longest) for prompt in prompts]
        return cls(*(stack(arrays) for arrays in zip(*map(cls._arrays, parts), strict=True)))

    def _arrays(self) -> tuple[Array, Array, Array]:
        return self.prompt_embeds, self.attention_mask, self.generated_prompt_embeds


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

    def pad(self, rows: list[list[int]], length: int | None = None) -> tuple[Ints, Ints]:
        """Right-pad to the longest row, or to `length`. Returns ids and mask, each (rows, longest), int64."""
        longest = length or max(len(row) for row in rows)
        ids = np.full((len(rows), longest), self._pad, np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        return ids, mask


class PromptEncoder:
    """Runs the four text engines. Each prompt is encoded with its own negative prompt alone, so that no prompt's sound
    depends on what else is in the batch.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        tokenizers: Mapping[str, TextTokenizer],
        device: Device | None = None,
        speech: VitsTokenizer | None = None,
        graphs: Graphs | None = None,
    ) -> None:
        self._engines, self._tokenizers, self._speech = engines, tokenizers, speech
        self._device = device or HostDevice()
        self._graphs = graphs or Graphs(engines, self._device)
        self.encode = lru_cache(CACHED_PROMPTS)(self._encode)

    def _encode(
        self, prompt: str, negative_prompt: str | None, max_new_tokens: int, transcription: str | None = None
    ) -> Conditioning:
        """Encode one prompt. With a negative prompt there are two rows, the negative one first.

        A speech checkpoint's second text encoder reads the transcription, CLAP the prompt. CLAP's ids are padded to the
        longer of the two texts, not to 512: its pooled vector does not depend on right padding.
        """
        texts = [prompt] if negative_prompt is None else [negative_prompt, prompt]
        if transcription is None:
            states, mask = self._t5_states(texts)
        else:
            states, mask = self._speech_states(transcription, guided=negative_prompt is not None)
        return self._project_and_generate(texts, states, mask, max_new_tokens)

    def encode_negative(self, text: str, positive: Conditioning, max_new_tokens: int) -> Conditioning:
        """Encode one negative prompt alone, for a positive row that came as embeddings: cut or padded to its length."""
        if self._speech is not None:
            states, mask = np.zeros_like(positive.prompt_embeds), np.zeros_like(positive.attention_mask)
        else:
            states, mask = self._t5_states([text], length=positive.prompt_embeds.shape[1])
        return self._project_and_generate([text], states, mask, max_new_tokens)

    def _project_and_generate(self, texts: list[str], states: Array, mask: Ints, max_new_tokens: int) -> Conditioning:
        clap = self.text_embeds(texts)[:, None]  # (rows, 1, CLAP width)

        def work(clap: Array, states: Array, mask: Array) -> tuple[Array]:
            projected = self._run(
                "projection_model",
                hidden_states=clap,
                attention_mask=self._device.xp.ones((len(texts), 1), np.int64),
                hidden_states_1=states,
                attention_mask_1=mask,
            )
            return (self.generate(projected["projected_states"], projected["projected_mask"], max_new_tokens),)

        if max_new_tokens <= CAPTURED_TOKENS:
            name = f"generate {max_new_tokens}"
            (generated,) = self._graphs.run(name, "language_model", work, clap, states, mask)
        else:
            (generated,) = work(clap, states, mask)
        return Conditioning(prompt_embeds=states, attention_mask=mask, generated_prompt_embeds=generated)

    def _t5_states(self, texts: list[str], length: int | None = None) -> tuple[Array, Ints]:
        """States (texts, tokens, width) and mask (texts, tokens).

        As in the reference the last text, the prompt, sets the number of tokens, and a negative one before it is cut or
        padded to that; or all are, to `length`.
        """
        t5 = self._tokenizers["text_encoder_2"]
        prompt = t5.ids(texts[-1], max_length=length)
        length = length or len(prompt)
        rows = t5.pad([*(t5.ids(text, max_length=length) for text in texts[:-1]), prompt], length)
        ids, mask = map(self._device.xp.asarray, rows)
        return self._encoded("text_encoder_2", "last_hidden_state", ids, mask), mask

    def _speech_states(self, transcription: str, *, guided: bool) -> tuple[Array, Ints]:
        """States (rows, tokens, width) and mask (rows, tokens). The negative row says nothing: all zeros, in both."""
        if self._speech is None:
            raise InputError("transcription is for speech checkpoints: this bundle has no VITS tokenizer")
        ids, mask = map(self._device.xp.asarray, self._speech.row(transcription))
        states = self._encoded("text_encoder_2", "last_hidden_state", ids, mask)
        if not guided:
            return states, mask
        return np.concatenate([np.zeros_like(states), states]), np.concatenate([np.zeros_like(mask), mask])

    def text_embeds(self, texts: list[str]) -> Array:
        """CLAP's text embeddings of unit length, (texts, width)."""
        clap = self._tokenizers["text_encoder"]
        ids, mask = map(self._device.xp.asarray, clap.pad([clap.ids(text) for text in texts]))
        return self._encoded("text_encoder", "text_embeds", ids, mask)

    def generate(self, inputs_embeds: Array, attention_mask: Array, max_new_tokens: int) -> Array:
        """GPT2's next embeddings, (rows, max_new_tokens, width): each is the last hidden state, fed back.

        `inputs_embeds` (rows, length, width), `attention_mask` (rows, length). The first run has an empty past. Raises
        InputError if there are more new tokens than the model has positions for.
        """
        engine = self._engines["language_model"]
        rows, length = attention_mask.shape
        positions = engine.inputs["attention_mask"].max_shape[1]
        if positions is not None and length + max_new_tokens - 1 > positions:  # the last one is not fed back
            raise InputError(
                f"max_new_tokens is {max_new_tokens}: the language model has {positions} positions, of which the texts "
                f"take {length}, so at most {positions - length + 1}"
            )
        xp = self._device.xp
        past = {
            name: xp.zeros((rows, spec.min_shape[1], 0, spec.min_shape[3]), spec.dtype)
            for name, spec in engine.inputs.items()
            if name.startswith("past_")
        }
        mask, new = attention_mask, []
        for _ in range(max_new_tokens):
            outputs = engine.run({"inputs_embeds": inputs_embeds, "attention_mask": mask, **past})
            inputs_embeds = outputs["last_hidden_state"][:, -1:].copy()  # (rows, 1, width)
            new.append(self._device.watch("language_model", inputs_embeds))  # not the cache: long, at every step
            past = {name: outputs[name.replace("past_", "present_")] for name in past}
            mask = np.concatenate([mask, xp.ones((rows, 1), mask.dtype)], axis=1)
        return np.concatenate(new, axis=1)

    def _encoded(self, name: str, output: str, ids: Array, mask: Array) -> Array:
        """One output of a text encoder."""

        def work(ids: Array, mask: Array) -> tuple[Array]:
            return (self._run(name, input_ids=ids, attention_mask=mask)[output],)

        (states,) = self._graphs.run(name, name, work, ids, mask)
        return states

    def _run(self, name: str, **feeds: Array) -> Mapping[str, Array]:
        outputs = self._engines[name].run(feeds)
        return {key: self._device.watch(f"{name} ({key})", array) for key, array in outputs.items()}
