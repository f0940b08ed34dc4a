"""One guided UNet step of the base model on random weights: our engine against eager diffusers FP32."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from bench.configs import BASE
from bench.report import time_in_turns
from export.checkpoint import Checkpoint
from export.components import COMPONENTS
from export.demo import write_checkpoint
from export.onnx import export_onnx
from export.parity import relative_error
from runtime.backends.engine import load_engine

TOKENS = 14  # of an average prompt


def run(runs: int, height: int) -> dict[str, Any]:
    """Time both sides in turns at a latent height, 25 a second of audio.

    Returns their times, the ratio of the medians and the relative error between the two outputs.
    """
    with tempfile.TemporaryDirectory() as work:
        overrides = {part: BASE[part] for part in ("unet", "gpt2", "t5")}
        small_t5 = {**overrides["t5"], "num_layers": 1}  # only its width matters here
        small_gpt2 = {**overrides["gpt2"], "n_layer": 1, "vocab_size": 64}
        write_checkpoint(Path(work, "checkpoint"), overrides={**overrides, "t5": small_t5, "gpt2": small_gpt2})
        component = COMPONENTS["unet"](Checkpoint(Path(work, "checkpoint"), "base"))
        files = export_onnx(component, Path(work), "unet")
        engine = load_engine(
            Path(work, files[0]), backend="onnxruntime", inputs=component.inputs, outputs=component.outputs
        )
    sizes = {"batch": 2, "height": height, "tokens": TOKENS, "new_tokens": 8}
    inputs = component.draw(sizes, torch.Generator())
    rival = component.module
    rival.unet.set_attn_processor(AttnProcessor2_0())  # type: ignore[operator, union-attr]  # as diffusers runs it
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}

    @torch.no_grad()
    def eager() -> torch.Tensor:
        output: torch.Tensor = rival(*inputs.values())[0]
        return output

    error = relative_error(engine.run(feeds)["noise_pred"], eager().numpy())
    times = time_in_turns({"onnxruntime fp32": lambda: engine.run(feeds), "diffusers eager fp32": eager}, runs)
    for name, figures in times.items():
        print(f"{name:24} median {figures['median_s']:.3f} s, p90 {figures['p90_s']:.3f} s")
    ratio = times["onnxruntime fp32"]["median_s"] / times["diffusers eager fp32"]["median_s"]
    print(f"ratio {ratio:.3f}, relative error {error:.1e}")
    return {"sizes": sizes, "times": times, "ratio": ratio, "relative_error": error}
