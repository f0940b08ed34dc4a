"""AudioLDM2: CLAP and T5 (or VITS) states, their projection, and GPT2's new embeddings."""

from dataclasses import replace

import numpy as np

from runtime.backends.device import Array
from runtime.errors import InputError
from runtime.text.cache import GROWTH, Cache
from runtime.text.conditioning import MASK, NEW_STATES, STATES, Conditioning
from runtime.text.encoder import Prompt, PromptEncoder
from runtime.text.tokenizer import Ints
from runtime.text.weights import weighted

CAPTURED_TOKENS = 32  # speech makes 512, each with a longer cache: its graph would be large
_BEFORE, _AFTER = 4, 1  # of what the projection puts around T5's states: a start, CLAP's state, an end, a start; an end


class LanguageEncoder(PromptEncoder):
    """Runs the four text engines."""

    _captured_with = ("language_model",)

    def _weighted(self, prompt: Prompt, max_new_tokens: int) -> Conditioning:
        """What a prompt with weights conditions the UNet on: its text without brackets, and T5's states scaled."""
        texts = [weighted(text) for text in (prompt.negative, prompt.text) if text is not None]
        plain = replace(prompt, text=texts[-1].text, negative=texts[0].text if len(texts) > 1 else None, weights=False)
        encoded, t5 = self.conditioning(plain, max_new_tokens), self._tokenizers["text_encoder_2"]
        rows, count = encoded.feeds[MASK].shape
        scales = np.ones((rows, count), np.float32)  # a first row of embeddings that were given stays as it is
        scales[rows - len(texts) :] = [t5.weights(text, count) for text in texts]
        return encoded.weighted(self._device.xp.asarray(scales))

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
            states, mask = np.zeros_like(positive.feeds[STATES]), np.zeros_like(positive.feeds[MASK])
        else:
            states, mask = self._t5_states([text], length=positive.feeds[STATES].shape[1])
        return self._project_and_generate([text], states, mask, max_new_tokens)

    def _project_and_generate(self, texts: list[str], states: Array, mask: Ints, max_new_tokens: int) -> Conditioning:
        clap, length = self.text_embeds(texts)[:, None], states.shape[1]  # (rows, 1, CLAP width)
        captured = max_new_tokens <= CAPTURED_TOKENS
        longer = self._rounded("projection_model", "hidden_states_1", length) - length if captured else 0
        if longer and not self._has_room(_BEFORE + length + longer + _AFTER + max_new_tokens - 1):
            longer = 0
        if longer:  # what is added is masked, and what follows it keeps its position
            states, mask = (np.pad(array, [(0, 0), (0, longer), (0, 0)][: array.ndim]) for array in (states, mask))
        first, last = np.arange(_BEFORE + length), np.full(_AFTER, _BEFORE + length)
        positions = self._device.xp.asarray(np.concatenate([first, np.zeros(longer, np.int64), last]))

        def work(clap: Array, states: Array, mask: Array, positions: Array) -> tuple[Array]:
            projected = self._run(
                "projection_model",
                hidden_states=clap,
                attention_mask=self._device.xp.ones((len(texts), 1), np.int64),
                hidden_states_1=states,
                attention_mask_1=mask,
            )
            inputs = projected["projected_states"], projected["projected_mask"]
            return (self.generate(*inputs, max_new_tokens, positions),)

        name, arrays = f"generate {max_new_tokens}", (clap, states, mask, positions)
        (generated,) = self._graphs.run(name, "language_model", work, *arrays) if captured else work(*arrays)
        return Conditioning({NEW_STATES: generated, STATES: _cut(states, length), MASK: _cut(mask, length)})

    def _t5_states(self, texts: list[str], length: int | None = None) -> tuple[Array, Ints]:
        """States (texts, tokens, width) and mask (texts, tokens).

        As in the reference the last text, the prompt, sets the number of tokens, and a negative one before it is cut or
        padded to that; or all are, to `length`.
        """
        t5 = self._tokenizers["text_encoder_2"]
        prompt = t5.ids(texts[-1], max_length=length)
        length = length or len(prompt)
        rows = [*(t5.ids(text, max_length=length) for text in texts[:-1]), prompt]
        padded = t5.pad(rows, self._rounded("text_encoder_2", "input_ids", length))
        ids, mask = map(self._device.xp.asarray, padded)
        states = self._encoded("text_encoder_2", "last_hidden_state", ids, mask)
        return _cut(states, length), _cut(mask, length)

    def _speech_states(self, transcription: str, *, guided: bool) -> tuple[Array, Ints]:
        """States (rows, tokens, width) and mask (rows, tokens). The negative row says nothing: all zeros, in both."""
        if self._speech is None:
            raise InputError("transcription is for speech checkpoints: this bundle has no VITS tokenizer")
        ids, mask = map(self._device.xp.asarray, self._speech.row(transcription))
        states = self._encoded("text_encoder_2", "last_hidden_state", ids, mask)
        if not guided:
            return states, mask
        return np.concatenate([np.zeros_like(states), states]), np.concatenate([np.zeros_like(mask), mask])

    def generate(
        self, inputs_embeds: Array, attention_mask: Array, max_new_tokens: int, positions: Array | None = None
    ) -> Array:
        """GPT2's next embeddings, (rows, max_new_tokens, width): each is the last hidden state, fed back.

        `inputs_embeds` (rows, length, width), `attention_mask` (rows, length). The first run has an empty past. The
        later ones see a cache with room for more, and a mask of what there is of it: up to CAPTURED_TOKENS have one
        shape. `positions` (length,) are those of the model, if they do not simply count. Raises InputError if there are
        more new tokens than the model has positions for.
        """
        engine = self._engines["language_model"]
        rows, length = attention_mask.shape
        most = engine.inputs["attention_mask"].max_shape[1]
        if most is not None and length + max_new_tokens - 1 > most:  # the last one is not fed back
            raise InputError(
                f"max_new_tokens is {max_new_tokens}: the language model has {most} positions, of which the texts "
                f"take {length}, so at most {most - length + 1}"
            )
        xp, most = self._device.xp, length + max(max_new_tokens - 2, 0)  # the last one sees the one before as new
        room = most if max_new_tokens <= CAPTURED_TOKENS else min(most, length + GROWTH)
        cache = Cache(engine, attention_mask, room, most)
        feeds = {"inputs_embeds": inputs_embeds, "attention_mask": attention_mask, **cache.empty()}
        positions = xp.arange(length) if positions is None else positions
        made = xp.empty((rows, max_new_tokens, inputs_embeds.shape[2]), np.float32)
        for i in range(max_new_tokens):
            outputs = engine.run({**feeds, "positions": positions})
            made[:, i] = outputs["last_hidden_state"][:, -1]
            if i < max_new_tokens - 1:
                feeds = cache.add(outputs, attention_mask if i == 0 else 1)
                feeds["inputs_embeds"], positions = made[:, i : i + 1].copy(), positions[-1:] + 1
        return self._device.watch("language_model", made)

    def _has_room(self, positions: int) -> bool:
        """Whether the language model has so many positions."""
        most = self._engines["language_model"].inputs["attention_mask"].max_shape[1]
        return most is None or positions <= most


def _cut(array: Array, length: int) -> Array:
    """The first `length` tokens of (rows, tokens, ...), without gaps in memory."""
    return array if array.shape[1] == length else array[:, :length].copy()
