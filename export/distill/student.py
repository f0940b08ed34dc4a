"""A student UNet that takes in one step the way that its teacher takes in several, guided.

From the teacher's sample at one of its own times the student's step has to end at the teacher's sample of the next:
progressive distillation (Salimans and Ho 2022, arXiv:2202.00512) in one go, with guidance taken in (Meng et al. 2023,
arXiv:2210.03142). It is trained on what it comes to itself, too: where it has drifted it is led back to the teacher's
way (Ross et al. 2011, arXiv:1011.0686).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.distill.listener import Listener
from export.distill.trajectories import Trajectories
from export.loop import Losses, averaged, train
from export.loop import Plan as Training
from export.parity import relative_error
from runtime.diffusion.schedulers import Plan

Floats = npt.NDArray[np.float32]
Report = Callable[[str], None]
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
    def clean(self, ways: Trajectories, rows: np.ndarray) -> Floats:
        """The latents (rows, channels, height, width) that it comes to from the ways' first noise."""
        parts = []
        for part in np.array_split(rows, -(-len(rows) // BATCH)):
            texts, sample = ways.texts(part, self.device), self._latents(ways, part, 0)
            for k in range(len(self.plan.steps)):
                sample = self.step(k, sample, texts)
            parts.append(sample.cpu().numpy())
        return np.concatenate(parts)

    def _latents(self, ways: Trajectories, rows: np.ndarray, k: int) -> torch.Tensor:
        return torch.from_numpy(ways.latents[rows, k].astype(np.float32)).to(self.device)


@dataclass(frozen=True)
class Exam:
    """What a student is tried on while it is taught: ways that it is never shown, and what they sound like."""

    ways: Trajectories
    rows: np.ndarray  # of the ways
    prompts: Sequence[str]  # of these rows
    listener: Listener

    @classmethod
    def of(cls, ways: Trajectories, prompts: Sequence[str], listener: Listener) -> "Exam":
        """A few of the ways, from all over: prompts may be in the order of what they ask for."""
        rows = np.linspace(0, len(ways) - 1, min(HELD_OUT, len(ways) // 5), dtype=np.int64)
        return cls(ways, rows, [prompts[int(row)] for row in rows], listener)

    def others(self) -> np.ndarray:
        """The rows of the ways that the student is taught."""
        return np.setdiff1d(np.arange(len(self.ways)), self.rows)

    def teacher_clap(self) -> float:
        """CLAP's mean score of what the teacher made."""
        return self._clap(self._wanted())

    def __call__(self, student: Student) -> dict[str, float]:
        """`held_out`: how far its latents are from the teacher's, relative L2; `clap`: CLAP's mean score."""
        made = student.clean(self.ways, self.rows)
        return {"held_out": relative_error(made, self._wanted()), "clap": self._clap(made)}

    def _wanted(self) -> Floats:
        return self.ways.latents[self.rows, -1].astype(np.float32)

    def _clap(self, latents: Floats) -> float:
        score = float(self.listener.latents_scores(self.prompts, latents).mean())
        self.listener.close()  # training wants the memory
        return score


def teach(
    student: Student, ways: Trajectories, exam: Exam, file: Path, training: Training, minutes: float, report: Report
) -> bool:
    """Train the student on all trajectories but the exam's, kept in `file`. Returns whether all is done.

    The student has the mean of its weights at the end. Its exams, of the mean so far, are in the log; the last one is
    reported beside the teacher's.
    """
    modules = torch.nn.ModuleDict({"unet": student.unet.requires_grad_(True)})
    rows = exam.others()

    def losses(rng: np.random.Generator, batch: int) -> Losses:
        return student.losses(ways, rows[np.sort(rng.integers(len(rows), size=batch))], rng)

    def examined(average: torch.nn.ModuleDict) -> dict[str, float]:
        return exam(replace(student, unet=average["unet"].eval()))

    done = train(file, modules, training, losses, minutes, look=examined)
    student.unet.load_state_dict(averaged(file)["unet"])
    student.unet.eval().requires_grad_(False)
    found = exam(student)
    report(
        f"student: {found['held_out']:.3f} off its teacher's latents, on what it was not taught; "
        f"CLAP {found['clap']:.3f}, its teacher's {exam.teacher_clap():.3f}"
    )
    return done
