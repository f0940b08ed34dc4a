"""What benchmarks against the reference pipeline share: loading it, prompts, weights, operations and accuracy."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import time_in_turns

WORDS = ("loud", "sharp", "distant", "slow", "hollow", "sudden")  # 720 orders
# floating-point operations of one guided UNet step, and of the decoder and the vocoder, for one waveform
UNET_FLOP, DECODE_FLOP = 293e9, (636 + 1027) * 1e9


def prompts(call: int, batch: int) -> list[str]:
    """New prompts for each call. All have as many tokens: torch would compile again for another length."""
    orders = list(itertools.permutations(WORDS))
    numbers = range(call * batch, (call + 1) * batch)
    return [f"The sound of a {' '.join(orders[number % len(orders)])} hammer" for number in numbers]


def random_checkpoint(folder: Path) -> Path:
    """Write a checkpoint with random weights at base size to `folder`, and return that."""
    from bench.configs import BASE
    from export.demo import write_checkpoint

    write_checkpoint(folder, overrides=BASE)
    return folder


def load_reference(folder: Path, dtype: str, device: str) -> Any:
    """The reference pipeline, with GPT2LMHeadModel, without progress bars. `dtype` is a name of torch's."""
    import torch
    from diffusers import AudioLDM2Pipeline
    from transformers import GPT2LMHeadModel

    precision = getattr(torch, dtype)
    language_model = GPT2LMHeadModel.from_pretrained(folder / "language_model", dtype=precision)
    pipeline = AudioLDM2Pipeline.from_pretrained(folder, language_model=language_model, dtype=precision)
    pipeline.to(device).set_progress_bar_config(disable=True)
    return pipeline


def weight_bytes(checkpoint: Path) -> int:
    """Size on disk of a checkpoint's weights."""
    files = (file for suffix in ("safetensors", "bin") for file in checkpoint.rglob(f"*.{suffix}"))
    return sum(file.stat().st_size for file in files)


def matmul_flops(dtype: str, device: str, size: int, runs: int, warmup: int) -> float:
    """Operations a second in products of square matrices with `size` rows. `dtype` is torch's name."""
    import torch

    if dtype == "int8":
        a, b = (torch.randint(-128, 127, (size, size), dtype=torch.int8, device=device) for _ in range(2))
    else:
        a, b = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))

    def product() -> None:
        torch._int_mm(a, b) if dtype == "int8" else a @ b
        if device != "cpu":
            torch.cuda.synchronize()

    return 2 * size**3 / time_in_turns({"product": product}, runs, warmup)["product"]["median_s"]


def compare(actual_file: Path, expected_file: Path) -> dict[str, Any]:
    """How far a waveform is from another, both `.npy` of (rows, samples); `failed` says why there is no figure."""
    from export.parity import relative_error

    actual, expected = np.load(actual_file), np.load(expected_file)
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return {"failed": "a waveform has NaN or Inf"}
    distance = log_spectral_distance(actual, expected)
    return {"relative_error": relative_error(actual, expected), "log_spectral_distance_db": distance}


def log_spectral_distance(actual: np.ndarray, expected: np.ndarray) -> float:
    """The RMS difference of log power spectra in dB, averaged over frames, of two waveforms of (rows, samples).

    Frames have 1024 samples, every 256, under a Hann window. Powers below 1e-10 of the expected one's highest count as
    that.
    """

    def powers(audio: np.ndarray) -> np.ndarray:  # (rows, frames, bins)
        frames = np.lib.stride_tricks.sliding_window_view(audio.astype(np.float64), 1024, axis=-1)[:, ::256]
        return np.abs(np.fft.rfft(frames * np.hanning(1024))) ** 2

    ours, theirs = powers(actual), powers(expected)
    floor = 1e-10 * theirs.max()
    difference = 10 * np.log10(np.maximum(ours, floor) / np.maximum(theirs, floor))
    return float(np.sqrt((difference**2).mean(axis=-1)).mean())
