"""Prompt to conditioning. CLAP reads the prompts of every family; what else does is in a file of each family."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from runtime.backends.device import Array, Device, HostDevice
from runtime.backends.engine import Engine
from runtime.backends.graphs import Graphs, rounded
from runtime.text.conditioning import Conditioning
from runtime.text.speech import VitsTokenizer
from runtime.text.tokenizer import TextTokenizer

CACHED_PROMPTS = 32  # conditioning of one is 0.2 MB at base size, 4 MB for speech


@dataclass(frozen=True)
class Prompt:
    """One prompt of a call: a text, or in its place one row of embeddings that were made of a text before.

    Both negative parts are None where there is no guidance. Where a prompt has `weights`, both texts may have some.
    """

    text: str | None
    spoken: str | None = None  # the transcription, for a speech checkpoint
    embeds: Conditioning | None = None
    negative: str | None = None
    negative_embeds: Conditioning | None = None
    weights: bool = False


class PromptEncoder(ABC):
    """Runs the text engines. Each prompt is encoded with its own negative prompt alone, so that no prompt's sound
    depends on what else is in the batch.
    """

    _captured_with: tuple[str, ...] = ()  # engines that have to be captured for a text's to be

    def __init__(
        self,
        engines: Mapping[str, Engine],
        tokenizers: Mapping[str, TextTokenizer],
        speech: VitsTokenizer | None = None,
        device: Device | None = None,
        graphs: Graphs | None = None,
    ) -> None:
        self._engines, self._tokenizers, self._speech = engines, tokenizers, speech
        self._device = device or HostDevice()
        self._graphs = graphs or Graphs(engines, self._device)
        self.encode = lru_cache(CACHED_PROMPTS)(self._encode)

    def conditioning(self, prompt: Prompt, max_new_tokens: int) -> Conditioning:
        """What a prompt conditions the UNet on: one row, or with guidance two, the negative one first."""
        if prompt.weights and prompt.text is not None:
            return self._weighted(prompt, max_new_tokens)
        if prompt.text is not None:
            encoded = self.encode(prompt.text, prompt.negative, max_new_tokens, prompt.spoken)
        else:
            assert prompt.embeds is not None
            encoded = prompt.embeds.on(self._device.xp)
            if prompt.negative is not None:
                negative = self.encode_negative(prompt.negative, encoded, max_new_tokens)
                encoded = Conditioning.pair(negative, encoded)
        if prompt.negative_embeds is not None:
            encoded = Conditioning.pair(prompt.negative_embeds.on(self._device.xp), encoded)
        return encoded

    @abstractmethod
    def _encode(
        self, prompt: str, negative_prompt: str | None, max_new_tokens: int, transcription: str | None = None
    ) -> Conditioning:
        """Encode one prompt. With a negative prompt there are two rows, the negative one first."""

    @abstractmethod
    def encode_negative(self, text: str, positive: Conditioning, max_new_tokens: int) -> Conditioning:
        """Encode one negative prompt alone, for a positive row that came as embeddings."""

    # What only a family with a language model has; calls of others are refused before.

    def _weighted(self, prompt: Prompt, max_new_tokens: int) -> Conditioning:
        """What a prompt with weights conditions the UNet on."""
        raise NotImplementedError

    def generate(
        self, inputs_embeds: Array, attention_mask: Array, max_new_tokens: int, positions: Array | None = None
    ) -> Array:
        """The language model's next embeddings."""
        raise NotImplementedError

    def text_embeds(self, texts: list[str]) -> Array:
        """CLAP's text embeddings of unit length, (texts, width)."""
        clap = self._tokenizers["text_encoder"]
        rows = [clap.ids(text) for text in texts]
        length = self._rounded("text_encoder", "input_ids", max(map(len, rows)))
        ids, mask = map(self._device.xp.asarray, clap.pad(rows, length))
        return self._encoded("text_encoder", "text_embeds", ids, mask)

    def _rounded(self, engine: str, name: str, tokens: int) -> int:
        """So many tokens, or where steps are captured for their shapes the next of a few numbers of them."""
        if not self._graphs.captures(engine, *self._captured_with):
            return tokens
        return rounded(tokens, self._graphs.token_multiple, self._engines[engine].inputs[name].max_shape[1])

    def _encoded(self, name: str, output: str, ids: Array, mask: Array) -> Array:
        """One output of a text encoder."""

        def work(ids: Array, mask: Array) -> tuple[Array]:
            return (self._run(name, input_ids=ids, attention_mask=mask)[output],)

        (states,) = self._graphs.run(name, name, work, ids, mask)
        return states

    def _run(self, name: str, **feeds: Array) -> Mapping[str, Array]:
        outputs = self._engines[name].run(feeds)
        return {key: self._device.watch(f"{name} ({key})", array) for key, array in outputs.items()}
