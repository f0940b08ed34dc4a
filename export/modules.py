"""Loading a module's weights so that all of them are used, and none is missing."""

import re
from typing import Any

import torch
from transformers import PreTrainedModel, SpeechT5HifiGan, VitsModel

from export.errors import CheckpointError, one_line
from export.weights import Weights

# Keys that files of published checkpoints hold and the modules do not use: buffers that are computed by now, halves of
# a model whose other half is used. Whatever else is not used would change the sound, and is an error.
HARMLESS = {
    "text_encoder": r"\.position_ids$|\.num_batches_tracked$",
    "text_encoder_2": r"^decoder\.|^lm_head\.|^encoder\.embed_tokens\.weight$|^shared\.weight$",
    "language_model": r"\.attn\.(masked_)?bias$|\.position_ids$|^lm_head\.weight$",
    "vocoder": r"^(mean|scale)$",
}
_USED_OF_VITS = "text_encoder."  # the rest of VITS is not used


def load_module(cls: Any, part: str, weights: Weights, where: str) -> Any:
    """A module of class `cls` in FP32, on the CPU, in evaluation mode.

    Raises CheckpointError, which begins with `where`, if it cannot be loaded, its weights are not those of its config,
    or one of them is no number.
    """
    is_transformer = issubclass(cls, PreTrainedModel)
    options: dict[str, Any] = {"dtype" if is_transformer else "torch_dtype": torch.float32}
    if is_transformer and cls is not SpeechT5HifiGan:
        # sdpa decomposes into shape-dependent nodes when traced; eager attention is plain matmul and softmax
        options["attn_implementation"] = "eager"
    safe = weights.names.kind == "safetensors"
    stem = ("model" if safe else "pytorch_model") if is_transformer else "diffusion_pytorch_model"
    with weights.as_library_names_them(stem) as folder:
        try:
            module, info = cls.from_pretrained(
                folder,
                local_files_only=True,
                output_loading_info=True,
                use_safetensors=safe,
                ignore_mismatched_sizes=True,  # they are refused below, by their names
                **options,
            )
        except Exception as error:  # every loader has its own
            raise CheckpointError(f"{where} cannot be loaded: {one_line(error)}") from error
    used = _USED_OF_VITS if cls is VitsModel else ""
    _check_keys(part, info, used, where)
    _check_numbers(module, used, where)
    return module.eval().requires_grad_(False)


def _check_keys(part: str, info: Any, used: str, where: str) -> None:
    """Keys count that begin with `used`."""
    harmless = re.compile(HARMLESS.get(part, "$^"))
    unexpected = sorted(k for k in info["unexpected_keys"] if k.startswith(used) and not harmless.search(k))
    if unexpected:
        lora = any("lora" in key.lower() for key in unexpected)
        mend = "merge the LoRA into the weights before it is saved" if lora else "take the weights of this config"
        raise CheckpointError(
            f"{where} holds {len(unexpected)} weights that nothing uses, such as {unexpected[0]}: {mend}"
        )
    if mismatched := sorted(info["mismatched_keys"]):
        key, found, wanted = mismatched[0]
        raise CheckpointError(
            f"{where} has {len(mismatched)} weights of other shapes than its config says, such as {key}: "
            f"{tuple(found)} instead of {tuple(wanted)}"
        )
    if missing := sorted(key for key in info["missing_keys"] if key.startswith(used)):
        raise CheckpointError(f"{where} lacks {len(missing)} weights of its config, such as {missing[0]}")


def _check_numbers(module: torch.nn.Module, used: str, where: str) -> None:
    for name, weight in module.state_dict().items():
        if name.startswith(used) and weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise CheckpointError(f"{where} has NaN or Inf in the weight {name}: download the file again")
