"""What the teacher does: the ways that its latents take from noise to sound, recorded with what conditioned them."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from runtime import AudioLDM2Pipeline
from runtime.backends.device import Array

Half = npt.NDArray[np.float16]
# From pure noise on and evenly, so that the times of any divisor of the number of steps are among them.
TEACHER = {"_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "trailing"}
TOGETHER = 8  # sounds of one call
SETTINGS = "settings.json"


@dataclass(frozen=True)
class Settings:
    """How the teacher is run: `steps` of its own, with guidance, of which every `every`-th sample is kept."""

    teacher_sha256: str  # of its weights
    steps: int
    every: int
    guidance_scale: float
    duration_s: float | None
    scheduler: Mapping[str, Any]


@dataclass(frozen=True)
class Trajectories:
    """Latents (samples, kept + 1, channels, height, width) from the first noise on, and the texts of each sample.

    `new` (samples, new tokens, width) are the language model's states; `states` (samples, tokens, width) and `mask`
    (samples, tokens) those of the second text encoder, padded to the longest text.
    """

    latents: Half
    new: Half
    states: Half
    mask: npt.NDArray[np.bool_]

    @classmethod
    def open(cls, folder: Path) -> "Trajectories":
        """All parts that `record` has written into `folder`."""
        parts = [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]
        tokens = max(part["states"].shape[1] for part in parts)
        for part in parts:
            missing = tokens - part["states"].shape[1]
            part["states"] = np.pad(part["states"], [(0, 0), (0, missing), (0, 0)])
            part["mask"] = np.pad(part["mask"], [(0, 0), (0, missing)])
        return cls(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def thinned(self, n: int) -> "Trajectories":
        """Every n-th sample of each way, its first and last among them."""
        return replace(self, latents=self.latents[:, ::n])

    def __len__(self) -> int:
        return len(self.latents)

    def texts(self, rows: npt.NDArray[np.int64], device: torch.device) -> dict[str, torch.Tensor]:
        """What the UNet is conditioned on, by the names of its arguments."""
        floats = {"encoder_hidden_states": self.new[rows], "encoder_hidden_states_1": self.states[rows]}
        found = {name: torch.from_numpy(array.astype(np.float32)).to(device) for name, array in floats.items()}
        return {**found, "encoder_attention_mask_1": torch.from_numpy(self.mask[rows].astype(np.int64)).to(device)}


def record(
    pipeline: AudioLDM2Pipeline,
    prompts: Sequence[str],
    settings: Settings,
    folder: Path,
    report: Callable[[str], None],
) -> Trajectories:
    """Record one sound a prompt into `folder`, a file for every few; those that are there are not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    keep_if_same(folder / SETTINGS, {**vars(settings), "prompts": list(prompts)}, folder.glob("*.npz"))
    for start in range(0, len(prompts), TOGETHER):
        path = folder / f"{start:08}.npz"
        if path.exists():
            continue
        part = _recorded(pipeline, list(prompts[start : start + TOGETHER]), settings, seed=start)
        fresh = path.with_suffix(".part")
        with fresh.open("wb") as file:
            np.savez(file, **part)
        fresh.replace(path)
        if start // TOGETHER % 20 == 0:
            report(f"trajectories: {start + len(part['latents'])} of {len(prompts)}")
    return Trajectories.open(folder)


def keep_if_same(file: Path, asked: Mapping[str, Any], made: Iterable[Path]) -> None:
    """Note in `file` what is asked for, and remove what was made for something else."""
    text = json.dumps(asked, default=str)
    if not file.exists() or file.read_text() != text:
        for path in made:
            path.unlink(missing_ok=True)
    file.write_text(text)


def _recorded(pipeline: AudioLDM2Pipeline, prompts: list[str], settings: Settings, seed: int) -> dict[str, Array]:
    states, mask, new = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False)
    call = {
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance_scale,
        "scheduler": settings.scheduler,
        "audio_length_in_s": settings.duration_s,
        "output_type": "latent",
    }
    shape = pipeline.check(prompts, **call).latent_shape
    first = np.random.default_rng(seed).standard_normal(shape, np.float32)
    way: list[Array] = []

    def keep(*step: Any) -> None:
        latents = step[-1]
        way.append(latents.get() if hasattr(latents, "get") else latents.copy())  # of a GPU, or of the CPU

    pipeline(prompts, latents=first, callback=keep, **call)
    latents = np.stack([first, *way[settings.every - 1 :: settings.every]], axis=1)
    return {
        "latents": latents.astype(np.float16),
        "new": new.astype(np.float16),
        "states": states.astype(np.float16),
        "mask": mask.astype(bool),
    }
