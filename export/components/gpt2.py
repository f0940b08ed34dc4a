"""GPT2 with its key-value cache as named inputs and outputs: one graph for the prefill and for every later step.

The cache may have places that nothing was written into yet: the mask leaves them out. So every step after the prefill
has one shape, which a CUDA graph needs, and whoever runs it writes what is new into a cache of its own.
"""

from typing import Any

import torch
from transformers import DynamicCache, GPT2Model

from export.checkpoint import PROJECTED_EXTRA, Checkpoint
from export.components.component import TYPICAL_TOKENS, Component, Sizes, Tensors, normal, tensor


class _Cache(DynamicCache):
    """A cache that tells what each layer added."""

    def __init__(self, past: tuple[torch.Tensor, ...]) -> None:
        super().__init__(list(zip(past[::2], past[1::2], strict=True)))
        self.added: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's keys and values, old and new."""
        self.added += [key_states, value_states]
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


class _Decoder(torch.nn.Module):
    """One forward pass over new positions, given the cache of the earlier ones."""

    def __init__(self, gpt2: GPT2Model) -> None:
        super().__init__()
        self.gpt2 = gpt2

    def forward(
        self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor, positions: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        cache = _Cache(past)
        output = self.gpt2(
            inputs_embeds=inputs_embeds,
            attention_mask=_causal_bias(attention_mask, inputs_embeds),
            position_ids=positions[None],
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state, *cache.added


def _causal_bias(attention_mask: torch.Tensor, inputs_embeds: torch.Tensor) -> torch.Tensor:
    """Additive mask (batch, 1, new, all): no position sees a later one or one that the mask leaves out.

    The model's own mask depends on Python values of the lengths; this one traces.
    """
    total, new = attention_mask.shape[1], inputs_embeds.shape[1]
    position = torch.arange(total)
    causal = position[None, :] <= position[total - new :, None]  # (new, all)
    seen = causal[None, None] & (attention_mask[:, None, None, :] == 1)
    lowest = torch.finfo(inputs_embeds.dtype).min
    return torch.where(seen, 0.0, lowest).to(inputs_embeds.dtype)


def language_model(checkpoint: Checkpoint) -> Component:
    """inputs_embeds (batch, new, width), attention_mask (batch, all), positions, past_* -> last_hidden_state, new_*.

    What is new follows what is past, in the mask too; `positions` (new,) say where in the sequence it is.
    """
    gpt2 = checkpoint.load("language_model")
    config = gpt2.config
    width, heads, longest = config.n_embd, config.n_head, config.n_positions
    batch, new, past, total = (1, None), (1, longest), (0, longest - 1), (1, longest)
    cache = {"batch": batch, "heads": heads, "past": past, "head_width": width // heads}
    prompt = min(checkpoint.text_tokens() + PROJECTED_EXTRA, longest - 1)  # the longest that the projection makes
    start = min(TYPICAL_TOKENS + PROJECTED_EXTRA, prompt)
    cached = min(start + max(checkpoint.max_new_tokens() - 2, 0), longest - 1)
    first = {"batch": 2, "past": 0, "new": start, "all": start}
    later = {"batch": 2, "past": cached, "new": 1, "all": cached + 1}
    names = [f"{kind}_{layer}" for layer in range(config.n_layer) for kind in ("key", "value")]

    def draw(sizes: Sizes, generator: torch.Generator) -> Tensors:
        rows, past_length, length = sizes["batch"], sizes["past"], sizes["all"] - sizes["past"]
        mask = torch.randint(0, 2, (rows, sizes["all"]), generator=generator)
        mask[:, 0] = 1
        positions = past_length + torch.arange(length)
        tensors = {"inputs_embeds": normal(generator, rows, length, width), "attention_mask": mask}
        tensors["positions"] = positions - torch.randint(0, past_length + 1, (1,), generator=generator)
        for name in names:
            tensors[f"past_{name}"] = normal(generator, rows, heads, past_length, width // heads)
        return tensors

    return Component(
        module=_Decoder(gpt2).eval(),
        inputs={
            "inputs_embeds": tensor("float32", batch=batch, new=new, width=width),
            "attention_mask": tensor("int64", batch=batch, all=total),
            "positions": tensor("int64", new=new),
            **{f"past_{name}": tensor("float32", **cache) for name in names},
        },
        outputs={
            "last_hidden_state": tensor("float32", batch=batch, new=new, width=width),
            **{
                f"new_{name}": tensor("float32", batch=batch, heads=heads, new=new, head_width=width // heads)
                for name in names
            },
        },
        draw=draw,
        sizes=(
            {"batch": 2, "past": 5, "all": 8},
            {"batch": 1, "past": 0, "all": 1},
            {"batch": 2, "past": 0, "all": 24},
            {"batch": 3, "past": 24, "all": 25},
            {"batch": 1, "past": 100, "all": 101},
        ),
        typical=later,
        limits={"new": prompt, "past": longest - 1, "all": longest},
        ranges=(
            (first, {"new": prompt, "past": longest - prompt, "all": longest}),
            (later, {"new": 1, "past": longest - 1, "all": longest}),
        ),
    )
