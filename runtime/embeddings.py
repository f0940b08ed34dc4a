"""Embeddings that come as arrays in place of texts: checked, and turned into what the engines take."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from runtime.arguments import Arguments
from runtime.backends.device import Array
from runtime.backends.specs import TensorSpec
from runtime.bundle.manifest import EngineSpec
from runtime.checks import MOST, integer, real_array, shown
from runtime.errors import InputError
from runtime.text.conditioning import Conditioning


def embedding_specs(engines: Mapping[str, EngineSpec]) -> dict[str, TensorSpec]:
    """What a bundle's engines take as `prompt_embeds` and `generated_prompt_embeds`, each (rows, tokens, width)."""
    feeds = {
        "prompt_embeds": (("projection_model", "hidden_states_1"), ("unet", "encoder_hidden_states_1")),
        "generated_prompt_embeds": (("unet", "encoder_hidden_states"),),
    }  # the last that there is counts: a speech checkpoint's UNet does not see the prompt's states
    return {
        name: engines[engine].inputs[feed]
        for name, places in feeds.items()
        for engine, feed in places
        if engine in engines and feed in engines[engine].inputs
    }


def positive_embeds(given: Arguments, specs: Mapping[str, TensorSpec]) -> Conditioning | None:
    """The prompts' own embeddings, if they come in place of texts. `specs`: see `embedding_specs`."""
    parts = (given.prompt_embeds, given.generated_prompt_embeds, given.attention_mask)
    if given.prompt is not None:
        if any(part is not None for part in parts):
            raise InputError("give either prompt, or prompt_embeds with generated_prompt_embeds, not both")
        return None
    if given.prompt_embeds is None or given.generated_prompt_embeds is None:
        raise InputError("give either prompt, or both prompt_embeds and generated_prompt_embeds")
    return _conditioning("", specs, *parts)


def negative_embeds(
    given: Arguments, specs: Mapping[str, TensorSpec], embeds: Conditioning | None, count: int
) -> Conditioning | None:
    """The negative prompts' embeddings, if they come in place of texts, for `count` prompts or their own `embeds`."""
    parts = (given.negative_prompt_embeds, given.negative_generated_prompt_embeds, given.negative_attention_mask)
    if all(part is None for part in parts):
        return None
    if given.negative_prompt is not None:
        raise InputError("give either negative_prompt or negative_prompt_embeds, not both")
    if parts[0] is None or parts[1] is None:
        raise InputError("negative_prompt_embeds and negative_generated_prompt_embeds go together: give both")
    negative = _conditioning("negative_", specs, *parts)
    for name in ("prompt_embeds", "generated_prompt_embeds"):
        ours = getattr(negative, name).shape
        wanted = (count, *ours[1:]) if embeds is None else getattr(embeds, name).shape
        if ours != wanted:
            raise InputError(f"negative_{name} has shape {ours}, {name} has {wanted}: they have to be the same")
    return negative


def check_language_model_inputs(
    spec: TensorSpec, inputs_embeds: Array, attention_mask: Array | None, max_new_tokens: int | None
) -> tuple[Array, Array, int | None]:
    """What a user gives to `generate_language_model`, checked: embeddings, mask, new tokens or None.

    `spec` is the language model's own `inputs_embeds`. Raises InputError for what it does not take.
    """
    embeds = _states("inputs_embeds", inputs_embeds)
    _check_size("inputs_embeds", embeds, spec)
    mask = _mask("attention_mask", attention_mask, "inputs_embeds", embeds)
    new_tokens = None if max_new_tokens is None else integer("max_new_tokens", max_new_tokens, 1, MOST)
    return embeds, mask, new_tokens


def _conditioning(prefix: str, specs: Mapping[str, TensorSpec], states: Any, generated: Any, mask: Any) -> Conditioning:
    """Arrays as the engines take them; a missing mask is all ones."""
    states = _states(f"{prefix}prompt_embeds", states)
    generated = _states(f"{prefix}generated_prompt_embeds", generated)
    if len(generated) != len(states):
        raise InputError(
            f"{prefix}generated_prompt_embeds has {len(generated)} prompts, {prefix}prompt_embeds {len(states)}: "
            "they have to be as many"
        )
    mask = _mask(f"{prefix}attention_mask", mask, f"{prefix}prompt_embeds", states)
    for name, array in (("prompt_embeds", states), ("generated_prompt_embeds", generated)):
        if name in specs:
            _check_size(f"{prefix}{name}", array, specs[name])
    return Conditioning(prompt_embeds=states, attention_mask=mask, generated_prompt_embeds=generated)


def _states(name: str, value: Any) -> Array:
    """Embeddings, float32, (prompts, length, width), none of them 0."""
    array = real_array(name, value)
    if array.ndim != 3 or not array.size:
        raise InputError(f"{name} has shape {array.shape}, not (prompts, length, width)")
    return array


def _mask(name: str, value: Any, states_name: str, states: Array) -> Array:
    """A mask of 0 and 1, int64, (prompts, tokens), for those states. A row may be all 0, as the reference's own are."""
    if value is None:
        return np.ones(states.shape[:2], np.int64)
    try:
        mask = np.asarray(value)
    except Exception as error:  # any that the conversion of somebody's own type raises
        raise InputError(f"{name} is no array: {shown(value)}") from error
    if mask.shape != states.shape[:2]:
        raise InputError(f"{name} has shape {mask.shape}, {states_name} {states.shape}: its first two differ")
    if mask.dtype.kind not in "biuf" or not ((mask == 0) | (mask == 1)).all():
        raise InputError(f"{name} has to hold 0 and 1 only, got {shown(value)}")
    return mask.astype(np.int64)


def _check_size(name: str, array: Array, spec: TensorSpec) -> None:
    axes = zip(("number of tokens", "width"), array.shape[1:], spec.min_shape[1:], spec.max_shape[1:], strict=True)
    for axis, size, low, high in axes:
        if size < low or (high is not None and size > high):
            accepted = low if low == high else f"{low} or more" if high is None else f"{low} to {high}"
            raise InputError(f"{name} has shape {array.shape}: its {axis} has to be {accepted}, not {size}")
