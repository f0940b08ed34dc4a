"""Embeddings that come as arrays in place of texts: checked, and turned into what the engines take."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from runtime.arguments import Arguments
from runtime.backends.device import Array
from runtime.backends.specs import TensorSpec
from runtime.bundle.manifest import EngineSpec, Manifest
from runtime.checks import MOST, integer, real_array, shown
from runtime.errors import InputError
from runtime.text.conditioning import CLASS, MASK, NEW_STATES, STATES, Conditioning

PLACES = {  # of each argument's arrays: the engines and their inputs, of which the last that there is counts
    "prompt_embeds": (("projection_model", "hidden_states_1"), ("unet", STATES), ("unet", CLASS)),
    "generated_prompt_embeds": (("unet", NEW_STATES),),
}  # a speech checkpoint's UNet does not see the prompt's states


def embedding_specs(engines: Mapping[str, EngineSpec]) -> dict[str, TensorSpec]:
    """What a bundle's engines take as `prompt_embeds` and `generated_prompt_embeds`.

    Each is (rows, tokens, width); `prompt_embeds` of a model without a language model are (rows, width).
    """
    return {
        name: engines[engine].inputs[feed]
        for name, places in PLACES.items()
        for engine, feed in places
        if engine in engines and feed in engines[engine].inputs
    }


def positive_embeds(given: Arguments, specs: Mapping[str, TensorSpec]) -> Conditioning | None:
    """The prompts' own embeddings, if they come in place of texts. `specs`: see `embedding_specs`."""
    parts = (given.prompt_embeds, given.generated_prompt_embeds, given.attention_mask)
    both = "" if _of_labels(specs) else " with generated_prompt_embeds"
    if given.prompt is not None:
        if any(part is not None for part in parts):
            raise InputError(f"give either prompt, or prompt_embeds{both}, not both")
        return None
    if given.prompt_embeds is None or (both and given.generated_prompt_embeds is None):
        raise InputError(f"give either prompt, or prompt_embeds{both}")
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
    if parts[0] is None or (parts[1] is None and not _of_labels(specs)):
        raise InputError("negative_prompt_embeds and negative_generated_prompt_embeds go together: give both")
    negative = _conditioning("negative_", specs, *parts)
    for name, feed in _feeds(specs).items():
        ours = negative.feeds[feed].shape
        wanted = (count, *ours[1:]) if embeds is None else embeds.feeds[feed].shape
        if ours != wanted:
            raise InputError(f"negative_{name} has shape {ours}, {name} has {wanted}: they have to be the same")
    return negative


def check_language_model_inputs(
    manifest: Manifest, inputs_embeds: Array, attention_mask: Array | None, max_new_tokens: int | None
) -> tuple[Array, Array, int]:
    """What a user gives to `generate_language_model`, checked: embeddings, mask, new tokens.

    Raises InputError for what the language model does not take, and where there is none.
    """
    if manifest.max_new_tokens is None:
        raise InputError(f"{manifest.kind.pipeline} has no language model")
    embeds = _states("inputs_embeds", inputs_embeds)
    _check_size("inputs_embeds", embeds, manifest.engines["language_model"].inputs["inputs_embeds"])
    mask = _mask("attention_mask", attention_mask, "inputs_embeds", embeds)
    if max_new_tokens is None:
        return embeds, mask, manifest.max_new_tokens
    return embeds, mask, integer("max_new_tokens", max_new_tokens, 1, MOST)


def _conditioning(prefix: str, specs: Mapping[str, TensorSpec], states: Any, generated: Any, mask: Any) -> Conditioning:
    """Arrays as the engines take them; a missing mask is all ones."""
    given = {"prompt_embeds": states, "generated_prompt_embeds": generated}
    axes = ("prompts", "width") if _of_labels(specs) else ("prompts", "length", "width")
    arrays = {name: _states(f"{prefix}{name}", given[name], axes) for name in _feeds(specs)}
    first, *others = arrays.items()
    for name, array in others:
        if len(array) != len(first[1]):
            raise InputError(
                f"{prefix}{name} has {len(array)} prompts, {prefix}{first[0]} {len(first[1])}: they have to be as many"
            )
    masks = {} if _of_labels(specs) else {MASK: _mask(f"{prefix}attention_mask", mask, f"{prefix}{first[0]}", first[1])}
    for name, array in arrays.items():
        if name in specs:
            _check_size(f"{prefix}{name}", array, specs[name])
    return Conditioning({feed: arrays[name] for name, feed in _feeds(specs).items()} | masks)


def _of_labels(specs: Mapping[str, TensorSpec]) -> bool:
    """Whether the UNet takes one embedding of a whole text as its class label, and no states of its tokens."""
    return "prompt_embeds" in specs and len(specs["prompt_embeds"].axes) == 2


def _feeds(specs: Mapping[str, TensorSpec]) -> dict[str, str]:
    """The UNet's input for the array of each argument."""
    if _of_labels(specs):
        return {"prompt_embeds": CLASS}
    return {"prompt_embeds": STATES, "generated_prompt_embeds": NEW_STATES}


def _states(name: str, value: Any, axes: tuple[str, ...] = ("prompts", "length", "width")) -> Array:
    """Embeddings, float32, of these axes, none of them 0."""
    array = real_array(name, value)
    if array.ndim != len(axes) or not array.size:
        raise InputError(f"{name} has shape {array.shape}, not ({', '.join(axes)})")
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
    names = ("number of tokens", "width")[-(array.ndim - 1) :]
    axes = zip(names, array.shape[1:], spec.min_shape[1:], spec.max_shape[1:], strict=True)
    for axis, size, low, high in axes:
        if size < low or (high is not None and size > high):
            accepted = low if low == high else f"{low} or more" if high is None else f"{low} to {high}"
            raise InputError(f"{name} has shape {array.shape}: its {axis} has to be {accepted}, not {size}")
