"""GPT2's new embeddings at base size, on random weights: our loop, which has a key-value cache, against one without.

Both run the graph that is built, in ONNX Runtime. Without the cache each step feeds the whole sequence, with no past.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.configs import BASE
from export.checkpoint import Checkpoint
from export.components import COMPONENTS
from export.demo import write_checkpoint
from export.onnx import export_onnx
from export.parity import relative_error
from runtime.backends.device import Array
from runtime.backends.engine import Engine, load_engine
from runtime.text.audioldm2 import LanguageEncoder


def run(new_tokens: int, length: int) -> dict[str, Any]:
    """Make `new_tokens` embeddings after a prompt of `length` positions, once each way; the slow way takes minutes.

    Returns the seconds of each way, their ratio, and the relative error between the two results.
    """
    engine = _engine()
    width = BASE["gpt2"]["n_embd"]
    embeds = torch.randn(1, length, width, generator=torch.Generator().manual_seed(0)).numpy()
    encoder = LanguageEncoder({"language_model": engine}, {})
    loops = {
        "key-value cache": lambda new: encoder.generate(embeds, np.ones((1, length), np.int64), new),
        "full recompute": lambda new: recompute(engine, embeds, new),
    }
    seconds, outputs = {}, {}
    for name, loop in loops.items():
        loop(2)  # warm up
        start = time.perf_counter()
        outputs[name] = loop(new_tokens)
        seconds[name] = time.perf_counter() - start
        print(f"{name:16} {seconds[name]:8.2f} s, {new_tokens / seconds[name]:7.1f} tokens a second")
    ratio = seconds["full recompute"] / seconds["key-value cache"]
    error = relative_error(outputs["key-value cache"], outputs["full recompute"])
    print(f"ratio {ratio:.1f}, relative error {error:.1e}")
    sizes = {"rows": 1, "length": length, "new_tokens": new_tokens}
    return {"sizes": sizes, "seconds": seconds, "ratio": ratio, "relative_error": error}


def recompute(engine: Engine, embeds: Array, new_tokens: int) -> Array:
    """The same embeddings, (1, new_tokens, width), made from the whole sequence at each step.

    `embeds` are those of the prompt, (1, length, width).
    """
    past = {
        name: np.zeros((1, spec.min_shape[1], 0, spec.min_shape[3]), spec.dtype)
        for name, spec in engine.inputs.items()
        if name.startswith("past_")
    }
    sequence = embeds
    for _ in range(new_tokens):
        mask, positions = np.ones(sequence.shape[:2], np.int64), np.arange(sequence.shape[1])
        feeds = {"inputs_embeds": sequence, "attention_mask": mask, "positions": positions, **past}
        state = engine.run(feeds)["last_hidden_state"][:, -1:]  # (1, 1, width)
        sequence = np.concatenate([sequence, state], axis=1)
    return sequence[:, embeds.shape[1] :]


def _engine() -> Engine:
    with tempfile.TemporaryDirectory() as work:
        overrides = {"gpt2": {**BASE["gpt2"], "vocab_size": 64}}  # embeddings come in: no token is ever looked up
        overrides["unet"] = {"cross_attention_dim": BASE["gpt2"]["n_embd"]}
        write_checkpoint(Path(work, "checkpoint"), overrides=overrides)
        component = COMPONENTS["language_model"](Checkpoint(Path(work, "checkpoint"), "base"))
        files = export_onnx(component, Path(work), "language_model")
        return load_engine(
            Path(work, files[0]), backend="onnxruntime", inputs=component.inputs, outputs=component.outputs
        )
