"""The reference pipeline with its modules swapped for OpenVINO models, as in OpenVINO's AudioLDM2 notebook.

`python -m bench.latency.swapped CHECKPOINT FOLDER` converts each module by `openvino.convert_model` with dynamic
shapes. Its weights are FP16 on disk, which is what `openvino.save_model` does by itself. They are compiled with the CPU
plugin's own settings: BF16 where the CPU has it. As in the notebook GPT2 has no cache: each of its 8 runs takes the
whole sequence, which adds less than 1 % to a call's operations at 20 steps. No torch weights are loaded beside the
models, which takes less memory than the notebook.
"""

import gc
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from bench.rivals import load_reference

Tensors = tuple[torch.Tensor, ...]


def convert(checkpoint: Path, folder: Path) -> None:
    """Write an OpenVINO model of each part of a checkpoint in diffusers' layout into `folder`."""
    import openvino

    pipe = load_reference(checkpoint, "float32", "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    for name, (function, inputs) in _traced(pipe).items():
        part = _Function(getattr(pipe, name), function).eval()
        with torch.no_grad():
            model = openvino.convert_model(part, example_input=inputs)
        openvino.save_model(model, folder / f"{name}.xml")
        setattr(pipe, name, None)  # one module less in memory
        del model, part
        gc.collect()


def load(checkpoint: Path, folder: Path) -> Any:
    """The reference pipeline over the converted models; configs, tokenizers and scheduler are the checkpoint's."""
    import openvino
    from diffusers import AudioLDM2Pipeline, DPMSolverMultistepScheduler
    from transformers import AutoTokenizer

    core = openvino.Core()

    def swapped(name: str, part: type[_Swapped]) -> _Swapped:
        return part(core.compile_model(folder / f"{name}.xml", "CPU"), _config(checkpoint / name))

    pipe: Any = AudioLDM2Pipeline(
        **{name: swapped(name, part) for name, part in SWAPPED.items()},
        tokenizer=AutoTokenizer.from_pretrained(checkpoint / "tokenizer"),
        tokenizer_2=AutoTokenizer.from_pretrained(checkpoint / "tokenizer_2"),
        feature_extractor=None,  # for ranking only
        scheduler=DPMSolverMultistepScheduler.from_pretrained(checkpoint / "scheduler"),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


class _Function(torch.nn.Module):
    """A function of a module and tensors, as a module."""

    def __init__(self, module: torch.nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(self.module, *inputs)


def _traced(pipe: Any) -> dict[str, tuple[Callable[..., Any], Tensors]]:
    """By part: what of it is converted, and inputs to trace it with, of sizes that no two axes share by chance."""
    tokens, new, clap = 13, 8, pipe.text_encoder.config.projection_dim
    t5, gpt2 = pipe.text_encoder_2.config.d_model, pipe.language_model.config.n_embd
    unet, mel_bins = pipe.unet.config, pipe.vocoder.config.model_in_dim
    latents = torch.randn(2, unet.in_channels, 40, mel_bins // pipe.vae_scale_factor)
    ids, mask = torch.ones(1, tokens, dtype=torch.long), torch.ones(1, tokens, dtype=torch.long)
    return {
        "text_encoder": (_clap, (ids, mask)),
        "text_encoder_2": (lambda t5, ids, mask: t5(ids, attention_mask=mask)[0], (ids, mask)),
        "projection_model": (_project, (torch.randn(1, 1, clap), torch.randn(1, tokens, t5), mask[:, :1], mask)),
        "language_model": (_gpt2, (torch.randn(1, 17, gpt2), torch.ones(1, 17, dtype=torch.long))),
        "unet": (
            _unet,
            (latents, torch.tensor(1), torch.randn(2, new, gpt2), torch.randn(2, tokens, t5), mask.repeat(2, 1)),
        ),
        "vae": (lambda vae, latents: vae.decode(latents).sample, (latents[:1],)),
        "vocoder": (lambda vocoder, mel: vocoder(mel), (torch.randn(1, 40 * pipe.vae_scale_factor, mel_bins),)),
    }


def _clap(clap: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return clap.get_text_features(ids, attention_mask=mask).pooler_output


def _project(
    model: Any, first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor, mask_1: torch.Tensor
) -> Tensors:
    output = model(hidden_states=first, hidden_states_1=second, attention_mask=mask, attention_mask_1=mask_1)
    return output.hidden_states, output.attention_mask


def _gpt2(model: Any, embeds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return model.transformer(inputs_embeds=embeds, attention_mask=mask, use_cache=False)[0]


def _unet(
    unet: Any, latents: torch.Tensor, step: torch.Tensor, first: torch.Tensor, second: torch.Tensor, mask: Any
) -> Any:
    states = {"encoder_hidden_states": first, "encoder_hidden_states_1": second, "encoder_attention_mask_1": mask}
    return unet(latents, step, **states, return_dict=False)[0]


def _config(folder: Path) -> Any:
    """A part's config: diffusers' and transformers' are both JSON."""
    return SimpleNamespace(**json.loads((folder / "config.json").read_text()))


class _Swapped(torch.nn.Module):
    """An OpenVINO model where the pipeline expects a module of torch's."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__()
        self.model, self.config = model, config

    def outputs(self, *inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        found = self.model([tensor.numpy() for tensor in inputs])
        return [torch.from_numpy(found[i]) for i in range(len(self.model.outputs))]


class _Clap(_Swapped):
    def get_text_features(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.outputs(ids, attention_mask)[0]


class _T5(_Swapped):
    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> Sequence[torch.Tensor]:
        return self.outputs(ids, attention_mask)


class _Projection(_Swapped):
    def forward(self, **given: torch.Tensor) -> Any:
        names = ("hidden_states", "hidden_states_1", "attention_mask", "attention_mask_1")
        states, mask = self.outputs(*(given[name] for name in names))
        return SimpleNamespace(hidden_states=states, attention_mask=mask)


class _Gpt2(_Swapped):
    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(hidden_states=self.outputs(inputs_embeds, attention_mask))

    def _update_model_kwargs_for_generation(self, _: Any, given: dict[str, Any]) -> dict[str, Any]:
        mask = given["attention_mask"]
        return {**given, "attention_mask": torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)}


class _Unet(_Swapped):
    def forward(self, latents: torch.Tensor, step: torch.Tensor, **given: Any) -> Sequence[torch.Tensor]:
        states = (f"encoder_{name}" for name in ("hidden_states", "hidden_states_1", "attention_mask_1"))
        return self.outputs(latents, step, *(given[name] for name in states))


class _Vae(_Swapped):
    def decode(self, latents: torch.Tensor) -> Any:
        return SimpleNamespace(sample=self.outputs(latents)[0])


class _Vocoder(_Swapped):
    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        return self.outputs(mel)[0]


SWAPPED: dict[str, type[_Swapped]] = {
    "text_encoder": _Clap,
    "text_encoder_2": _T5,
    "projection_model": _Projection,
    "language_model": _Gpt2,
    "unet": _Unet,
    "vae": _Vae,
    "vocoder": _Vocoder,
}

if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
