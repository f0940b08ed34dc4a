"""A checkpoint in, a checkpoint out: a student UNet in place of the teacher's, and a scheduler of its few steps."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from export.build import build
from export.checkpoint import DISTILLED, Checkpoint
from export.distill.listener import Listener
from export.distill.student import BATCH, Exam, Student, teach
from export.distill.trajectories import TEACHER, Settings, keep_if_same, record
from export.engines_onnx import ONNX
from export.errors import BuildError
from export.loop import Plan as Training
from export.loop import plainly_attending
from export.target import Target
from runtime import AudioLDM2Pipeline
from runtime.bundle import Bundle
from runtime.diffusion.schedulers import make_plan

Report = Callable[[str], None]
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
FEWEST = 5  # prompts, of which a fifth is held out
SHARED = 4  # samples of a way at least that are kept after the first
STUDENT = {
    "_class_name": "DDIMScheduler",
    "timestep_spacing": "trailing",  # the first step begins at pure noise
    "set_alpha_to_one": True,  # and the last one ends without any
    "steps_offset": 0,
    "clip_sample": False,
}
# Long steps multiply what a UNet errs in the noise: the one of a student of 1 step by 84, the first of 2 by 28, of 4 by
# 7. In v it stays as it is (Salimans and Ho 2022, section 4), but a UNet that knows noise has to learn v first.
STEPS_IN_V = 2  # at most


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a student is taught, and for how long. Raises BuildError for what cannot be."""

    steps: int  # of the student
    teacher_steps: int = 20  # at least
    guidance_scale: float = 3.5
    duration_s: float | None = None  # None: the checkpoint's
    iterations: int = 4000
    batch: int = BATCH
    learning_rate: float = 1e-4
    minutes: float = 1e9
    device: str = "cpu"
    trajectories: Path | None = None  # a folder that several students share; None: of its own
    start: Path | None = (
        None  # a checkpoint whose UNet it begins with, such as a student of more steps; None: teacher's
    )

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= self.teacher_steps:
            raise BuildError(f"--steps has to be from 1 to --teacher-steps, got {self.steps}")
        if self.iterations < 1:
            raise BuildError(f"--iterations has to be at least 1, got {self.iterations}")

    @property
    def thinning(self) -> int:
        """How many of the recorded samples a step of the student's goes over: students of 1, 2 and 4 share theirs."""
        return -(-SHARED // self.steps)

    def settings(self, teacher: Checkpoint) -> Settings:
        """How the teacher is run: with the next number of steps that is a multiple."""
        kept = self.steps * self.thinning
        every, scheduler = -(-self.teacher_steps // kept), {**teacher.scheduler(), **TEACHER}
        return Settings(teacher.weights_sha256, kept * every, every, self.guidance_scale, self.duration_s, scheduler)


def distill(checkpoint: Checkpoint, prompts: Sequence[str], lesson: Lesson, out: Path, report: Report = print) -> bool:
    """Write the student's checkpoint to `out`. Returns whether it has been taught all: else another call goes on.

    What is recorded and trained so far lies in a hidden folder beside `out`, and is used again. Raises BuildError.
    """
    if out.exists() and not (out / DISTILLED).is_file():
        raise BuildError(f"{out} is there, and not by an earlier `distill`: choose another --out")
    if len(prompts) < FEWEST:
        raise BuildError(f"a student needs {FEWEST} prompts at least, thousands to learn something; got {len(prompts)}")
    if not checkpoint.family.has_language_model:
        raise BuildError("a student can be AudioLDM2's alone: what is recorded are the states of its texts")
    if checkpoint.speaks:
        raise BuildError("a checkpoint for speech cannot be distilled: its texts are not prompts alone")
    work = out.absolute().parent / f".{out.name}.distill"
    work.mkdir(parents=True, exist_ok=True)
    build(checkpoint, work / "teacher", Target(maker=ONNX), report)
    pipeline = AudioLDM2Pipeline.from_pretrained(work / "teacher", lesson.device)
    folder, settings = lesson.trajectories or work / "ways", lesson.settings(checkpoint)
    ways = record(pipeline, prompts, settings, folder, report).thinned(lesson.thinning)
    pipeline.close()
    config, device = scheduler_config(checkpoint, lesson.steps), torch.device(lesson.device)
    start = checkpoint if lesson.start is None else Checkpoint(lesson.start, str(lesson.start))
    taught = {"steps": lesson.steps, "batch": lesson.batch, "rate": lesson.learning_rate, "start": start.weights_sha256}
    keep_if_same(work / "lesson.json", {**taught, **vars(settings)}, [work / "student.pt"])
    student = Student(_unet(start, device), make_plan(config, lesson.steps).inlined(), device)
    training = Training(
        steps=lesson.iterations, batch=lesson.batch, learning_rate=lesson.learning_rate, decay=0.5, ema=0.995
    )
    exam = Exam.of(ways, prompts, Listener(Bundle.read(work / "teacher"), lesson.device))
    done = teach(student, ways, exam, work / "student.pt", training, lesson.minutes, report)
    told = {"guidance_scale": lesson.guidance_scale, "iterations": lesson.iterations, "samples": len(ways)}
    write(checkpoint, student.unet, config, out, {**taught, **told, "teacher": checkpoint.id})
    return done


def scheduler_config(checkpoint: Checkpoint, steps: int) -> dict[str, Any]:
    """The scheduler of a student of so many steps: DDIM on the teacher's noise schedule."""
    known = checkpoint.scheduler()
    prediction = {"prediction_type": "v_prediction"} if steps <= STEPS_IN_V else {}
    kept = {name: known[name] for name in (*NOISE, "prediction_type") if name in known}
    return {**kept, **STUDENT, **prediction}


def write(checkpoint: Checkpoint, unet: Any, scheduler: dict[str, Any], out: Path, taught: dict[str, Any]) -> None:
    """The checkpoint's folder again, but for UNet and scheduler. What is at `out` is replaced when all is written.

    The UNet's weights are in FP16 where the teacher's are. `taught` is written beside them: a bundle's calls take its
    steps, the rest is for people.
    """
    fresh = out.parent / f".{out.name}.fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(checkpoint.folder, fresh, ignore=shutil.ignore_patterns("unet"))
    stored = sum(file.stat().st_size for file in checkpoint.weights("unet").files)
    half = stored < 3 * sum(weight.numel() for weight in unet.parameters())
    unet.to("cpu", torch.float16 if half else torch.float32).save_pretrained(fresh / "unet")
    (fresh / DISTILLED).write_text(json.dumps(taught, indent=2) + "\n")
    (fresh / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2) + "\n")
    index = json.loads((fresh / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    (fresh / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)


def _unet(checkpoint: Checkpoint, device: torch.device) -> Any:
    unet = checkpoint.load("unet").to(device).train()
    return plainly_attending(unet) if device.type == "cpu" else unet
