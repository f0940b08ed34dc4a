"""What the UNet is conditioned on."""

from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from runtime.backends.device import Array


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is conditioned on, one row a waveform."""

    prompt_embeds: Array  # (rows, tokens, T5 or VITS width)
    attention_mask: Array  # (rows, tokens), int64: 1 where there is a token
    generated_prompt_embeds: Array  # (rows, new tokens, GPT2 width)

    def feeds(self) -> dict[str, Array]:
        """The same by the names of the UNet's inputs; a UNet may lack some of them."""
        return {
            "encoder_hidden_states": self.generated_prompt_embeds,
            "encoder_hidden_states_1": self.prompt_embeds,
            "encoder_attention_mask_1": self.attention_mask,
        }

    def row(self, index: int) -> "Conditioning":
        """One row alone."""
        one = slice(index, index + 1)
        return Conditioning(self.prompt_embeds[one], self.attention_mask[one], self.generated_prompt_embeds[one])

    def weighted(self, weights: Array) -> "Conditioning":
        """The same with the states of the second text encoder scaled, by (rows, tokens)."""
        return replace(self, prompt_embeds=self.prompt_embeds * weights[:, :, None])

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
