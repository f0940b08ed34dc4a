"""A student UNet that takes in one step the way that its teacher takes in several, guided.

From the teacher's sample at one of its own times the student's step has to end at the teacher's sample of the next:
progressive distillation (Salimans and Ho 2022, arXiv:2202.00512) in one go, with guidance taken in (Meng et al. 2023,
arXiv:2210.03142). It is trained on what it comes to itself, too: where it has drifted it is led back to the teacher's
way (Ross et al. 2011, arXiv:1011.0686).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.distill.trajectories import Trajectories
from export.loop import Losses, averaged, train
from export.loop import Plan as Training
from runtime.diffusion.schedulers import Plan

OWN = 0.5  # share of the samples at each step, after the first, that are the student's own
HELD_OUT = 64  # samples that are never trained on
BATCH = 32


@dataclass(frozen=True)
class Student:
    """A UNet of diffusers and the steps that it takes. Each is linear in the sample and the output."""

    unet: Any
    plan: Plan
    device: torch.device

    def step(self, k: int, sample: torch.Tensor, texts: dict[str, torch.Tensor]) -> torch.Tensor:
        """The sample after step `k`."""
        step = self.plan.steps[k]
        timesteps = torch.full((len(sample),), step.timestep, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            output = self.unet(step.input_scale * sample, timesteps, **texts).sample
        return step.update.sample * sample + step.update.output * output.float()

    def losses(self, ways: Trajectories, rows: np.ndarray, rng: np.random.Generator) -> Losses:
        """Mean squared error of each step's end, of all steps from noise on: the loss is their sum."""
        texts, errors = ways.texts(rows, self.device), []
        sample = self._latents(ways, rows, 0)
        for k in range(len(self.plan.steps)):
            made = self.step(k, sample, texts)
            wanted = self._latents(ways, rows, k + 1)
            errors.append((made - wanted).square().mean())
            own = torch.from_numpy(rng.uniform(size=(len(rows), 1, 1, 1)) < OWN).to(self.device)
            sample = torch.where(own, made.detach(), wanted)
        return {"loss": torch.stack(errors).sum(), **{f"step_{k}": error for k, error in enumerate(errors)}}

    @torch.no_grad()
    def error(self, ways: Trajectories, rows: np.ndarray) -> float:
        """How far the student's clean latents are from the teacher's, from the same noise: relative L2."""
        apart = whole = 0.0
        for part in np.array_split(rows, -(-len(rows) // BATCH)):
            texts, sample = ways.texts(part, self.device), self._latents(ways, part, 0)
            for k in range(len(self.plan.steps)):
                sample = self.step(k, sample, texts)
            wanted = self._latents(ways, part, len(self.plan.steps))
            apart += float((sample - wanted).square().sum())
            whole += float(wanted.square().sum())
        return float(np.sqrt(apart / whole))

    def _latents(self, ways: Trajectories, rows: np.ndarray, k: int) -> torch.Tensor:
        return torch.from_numpy(ways.latents[rows, k].astype(np.float32)).to(self.device)


def teach(
    student: Student, ways: Trajectories, file: Path, training: Training, minutes: float, report: Callable[[str], None]
) -> bool:
    """Train the student on all trajectories but the last few, kept in `file`. Returns whether all is done.

    The student has the mean of its weights at the end, and its error on what was held out is reported.
    """
    held_out = np.arange(len(ways) - min(HELD_OUT, len(ways) // 5), len(ways))
    modules = torch.nn.ModuleDict({"unet": student.unet.requires_grad_(True)})

    def losses(rng: np.random.Generator, batch: int) -> Losses:
        return student.losses(ways, np.sort(rng.integers(held_out[0], size=batch)), rng)

    done = train(file, modules, training, losses, minutes)
    student.unet.load_state_dict(averaged(file)["unet"])
    student.unet.eval().requires_grad_(False)
    report(f"student: {student.error(ways, held_out):.3f} off its teacher's latents, on what it was not taught")
    return done
