"""The training set, drawn once into a folder: spectrograms and captions of every clip, audio of some."""

import json
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from export.demo.sounds import CLASSES, Clip, draw, generator
from export.demo.sounds.captions import write_caption
from export.demo.sounds.clip import SOUNDS
from export.demo.training.mel import log_mel

SECONDS, CAPTIONS = 2.56, 4
POOR_QUALITY = "low quality"


@dataclass(frozen=True)
class Dataset:
    """What `write` wrote, in memory: mapped files made random rows a tenth as fast."""

    mels: np.ndarray  # (clips, 256, 64) float16
    captions: list[list[str]]  # a few of each clip
    labels: np.ndarray  # (clips,) index in CLASSES
    audio: np.ndarray  # (clips with audio, 40960) int16
    audio_rows: np.ndarray  # (clips with audio,) row in `mels`

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Read what `write` wrote into `folder`."""
        return cls(
            np.load(folder / "mels.npy"),
            json.loads((folder / "captions.json").read_text()),
            np.load(folder / "labels.npy"),
            np.load(folder / "audio.npy"),
            np.load(folder / "audio_rows.npy"),
        )


def write(folder: Path, per_class: int = 600, audio_per_class: int = 80, poor: float = 0.04, seed: int = 1) -> None:
    """Draw `per_class` clips of each class from the training split. A share of `poor` is spoiled, and called so."""
    folder.mkdir(parents=True, exist_ok=True)
    samples, count = round(SECONDS * 16_000), per_class * len(CLASSES)
    mels = np.lib.format.open_memmap(folder / "mels.npy", "w+", np.float16, (count, samples // 160, 64))
    kept = audio_per_class * len(CLASSES)
    audio = np.lib.format.open_memmap(folder / "audio.npy", "w+", np.int16, (kept, samples))
    captions: list[list[str]] = []
    labels: list[int] = []
    audio_rows: list[int] = []
    for label, name in enumerate(CLASSES):
        rng = generator(name, seed)
        drawn = np.zeros((per_class, samples), np.float32)
        for index in range(per_class):
            clip = draw(name, rng, "train", SECONDS)
            words = [_caption(clip, rng) for _ in range(CAPTIONS)]
            drawn[index] = clip.audio
            if index >= audio_per_class and rng.uniform() < poor:
                drawn[index] = spoil(clip.audio, rng)
                words = [f"{POOR_QUALITY}, {text}" for text in words[:2]] + [POOR_QUALITY] * (CAPTIONS - 2)
            captions.append(words)
        first = label * per_class
        mels[first : first + per_class] = log_mel(torch.from_numpy(drawn)).numpy()
        keep = slice(label * audio_per_class, (label + 1) * audio_per_class)
        audio[keep] = np.round(drawn[:audio_per_class] * 32767)
        audio_rows += range(first, first + audio_per_class)
        labels += [label] * per_class
    (folder / "captions.json").write_text(json.dumps(captions))
    np.save(folder / "labels.npy", np.asarray(labels))
    np.save(folder / "audio_rows.npy", np.asarray(audio_rows))


def spoil(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A bad recording of (samples,): clipped, hissing, and without what lies above 1 to 3 kHz."""
    spectrum = np.fft.rfft(np.clip(audio, *np.asarray([-1, 1]) * rng.uniform(0.1, 0.4) * np.abs(audio).max()))
    spectrum[round(len(spectrum) * rng.uniform(1, 3) / 8) :] = 0
    hiss = rng.normal(size=len(audio)) * rng.uniform(0.01, 0.05)
    spoiled: np.ndarray = (np.fft.irfft(spectrum, len(audio)) + hiss).astype(np.float32)
    return spoiled


def vary(caption: str, rng: np.random.Generator) -> str:
    """The caption as another person types it: now and then with a capital and a full stop, or with unknown words."""
    if rng.uniform() < 0.2:
        letters = rng.choice(list(string.ascii_lowercase), rng.integers(2, 8))
        caption = f"{''.join(letters)} {caption}"
        if rng.uniform() < 0.5:
            caption = f"{''.join(rng.permutation(letters))} {caption}"
    if rng.uniform() < 0.3:
        caption = caption[:1].upper() + caption[1:]
    return f"{caption}." if rng.uniform() < 0.3 else caption


def _caption(clip: Clip, rng: np.random.Generator) -> str:
    word = str(clip.settings.get("word", ""))
    return write_caption(rng, SOUNDS[clip.name], word, clip.quantiles, "train")
