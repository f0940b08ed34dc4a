"""A student of few steps: what it is taught with, what it learns, and what reads its checkpoint."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from export.__main__ import main
from export.build import build
from export.checkpoint import Checkpoint
from export.distill.distill import Lesson, distill, scheduler_config
from export.distill.listener import Listener
from export.distill.student import Exam, Student, teach
from export.distill.trajectories import TEACHER, Settings, Trajectories, record
from export.errors import BuildError
from export.loop import Plan as Training
from export.parity import relative_error
from runtime import AudioLDM2Pipeline
from runtime.bundle import Bundle
from runtime.cli import main as trt_audioldm2
from runtime.diffusion.schedulers import Plan, make_plan
from tests.conftest import load_reference
from tests.unit.helpers import raises_line

PROMPTS = ["rain", "a dog barks twice", "a bell", "wind in the trees and a brook", "steps"]


def test_what_is_recorded_is_what_the_teacher_does(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.distill.trajectories.TOGETHER", 2)
    scheduler = {**Checkpoint(checkpoint("plain"), "plain").scheduler(), **TEACHER}
    settings = Settings("0" * 64, 4, 2, 3.5, 0.2, scheduler)
    pipe, lines = AudioLDM2Pipeline.from_pretrained(bundle("plain"), "cpu", backend="onnxruntime"), list[str]()
    ways = record(pipe, PROMPTS, settings, tmp_path, lines.append)
    assert len(ways) == len(PROMPTS)
    assert ways.latents.shape[1] == 3
    call = {"scheduler": scheduler, "num_inference_steps": 4, "audio_length_in_s": 0.2, "output_type": "latent"}
    for i, prompt in enumerate(PROMPTS):  # alone, as recorded together
        first = ways.latents[i : i + 1, 0].astype(np.float32)
        seen: list[Any] = []
        made = pipe(prompt, latents=first, callback=lambda *step: seen.append(step[-1].copy()), **call).audios  # noqa: B023
        assert relative_error(ways.latents[i : i + 1, 2], made) < 2e-3
        assert relative_error(ways.latents[i : i + 1, 1], seen[1]) < 2e-3
        states, mask, new = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)
        texts = ways.texts(np.array([i]), torch.device("cpu"))
        kept = int(texts["encoder_attention_mask_1"].sum())
        assert kept == mask.sum()
        assert relative_error(texts["encoder_hidden_states"].numpy(), new) < 2e-3
        assert relative_error(texts["encoder_hidden_states_1"].numpy()[:, :kept], states[:, :kept]) < 2e-3
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")}
    assert len(written) == 3
    (tmp_path / "00000002.npz").unlink()
    again = record(pipe, PROMPTS, settings, tmp_path, lines.append)
    np.testing.assert_array_equal(again.latents, ways.latents)
    assert {path.name for path in tmp_path.glob("*.npz") if path.stat().st_mtime_ns != written[path.name]} == {
        "00000002.npz"
    }
    other = record(pipe, PROMPTS[:1], settings, tmp_path, lines.append)
    assert len(other) == 1  # of other prompts nothing is left
    stronger = record(pipe, PROMPTS[:1], replace(settings, guidance_scale=9.0), tmp_path, lines.append)
    assert relative_error(stronger.latents, other.latents) > 1e-3


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_student_steps_as_diffusers_does(checkpoint: Callable[[str], Path], steps: int) -> None:
    source = Checkpoint(checkpoint("plain"), "plain")
    config = scheduler_config(source, steps)
    unet = source.load("unet")
    student = Student(unet, make_plan(config, steps).inlined(), torch.device("cpu"))
    reference = DDIMScheduler.from_config(config)
    reference.set_timesteps(steps)
    largest = max(abs(step.update.output) for step in student.plan.steps)
    assert largest < (1.001 if steps <= 2 else 20.0)  # what multiplies the UNet's errors
    torch.manual_seed(int(np.random.default_rng().integers(2**31)))
    sample = torch.randn(2, unet.config.in_channels, 8, source.audio().latent_width)
    configs = source.configs
    texts = {
        "encoder_hidden_states": torch.randn(2, 8, configs.language_model.n_embd),
        "encoder_hidden_states_1": torch.randn(2, 5, source.text_width()),
        "encoder_attention_mask_1": torch.ones(2, 5, dtype=torch.int64),
    }
    for k, timestep in enumerate(reference.timesteps):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            output = unet(sample, timestep, **texts).sample.float()
        wanted = reference.step(output, timestep, sample).prev_sample
        with torch.no_grad():
            made = student.step(k, sample, texts)
        assert relative_error(made.numpy(), wanted.numpy()) < 1e-5
        sample = wanted


def test_a_student_learns_and_its_checkpoint_is_like_any_other(
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("export.loop.SAVING_S", 0.2)  # so that there is time for exams
    source, out, lines = Checkpoint(checkpoint("one_width"), "one_width"), tmp_path / "student", list[str]()
    quick = {"steps": 4, "teacher_steps": 4, "duration_s": 0.2, "batch": 4, "learning_rate": 1e-3}
    assert not distill(source, PROMPTS, Lesson(**quick, iterations=40, minutes=0), out, lines.append)
    assert "off its teacher's latents" in lines[-1]
    assert "its teacher's" in lines[-1].partition("CLAP")[2]
    assert distill(source, PROMPTS, Lesson(**quick, iterations=40), out, lines.append)
    taught, plan = (
        Trajectories.open(tmp_path / ".student.distill" / "ways"),
        make_plan(scheduler_config(source, 4), 4),
    )
    before, after = (_error(of, plan, taught) for of in (source, Checkpoint(out, "student")))
    assert after < 0.8 * before
    log = (tmp_path / ".student.distill" / "student.jsonl").read_text().splitlines()
    exams = [exam for exam in map(json.loads, log) if "held_out" in exam]
    assert exams
    assert all(0 < exam["held_out"] < 2 and -1 <= exam["clap"] <= 1 for exam in exams)
    slower = Lesson(**{**quick, "learning_rate": 1e-9}, iterations=2)  # begins anew, and hardly moves
    distill(source, PROMPTS, slower, out, lines.append)
    assert _error(Checkpoint(out, "student"), plan, taught) > 0.95 * before
    distill(source, PROMPTS, Lesson(**quick, iterations=40), out, lines.append)
    assert json.loads((out / "distilled.json").read_text())["steps"] == 4
    small = tmp_path / "bundle"
    build(Checkpoint(out, "student"), small, report=lines.append)
    call = {"num_inference_steps": 4, "guidance_scale": 1.0}
    ours = AudioLDM2Pipeline.from_pretrained(small, "cpu", backend="onnxruntime")(
        "a bell", seed=3, audio_length_in_s=0.3
    ).audios  # taught so
    theirs = load_reference(out)(
        "a bell", generator=torch.Generator().manual_seed(3), audio_length_in_s=0.3, **call
    ).audios
    assert relative_error(ours, np.asarray(theirs)) < 1e-3
    assert trt_audioldm2(["a bell", "--engines", str(small), "--fast", "--output", str(tmp_path / "x.wav")]) == 1
    assert "was taught to do with 4 steps" in capsys.readouterr().err


def _error(of: Checkpoint, plan: Plan, ways: Trajectories) -> float:
    """How far a student's latents are from the teacher's on what it was taught: the first of the five ways is not."""
    student, rows = Student(of.load("unet"), plan.inlined(), torch.device("cpu")), np.arange(1, 5)
    return relative_error(student.clean(ways, rows), ways.latents[rows, -1])


def test_what_is_held_out_is_of_every_kind_and_never_taught() -> None:
    """Prompts in the order of their classes, of which the last would else be held out whole."""
    ways = Trajectories(*(np.zeros((700, 2, 1), np.float16) for _ in range(3)), np.zeros((700, 1), bool))
    exam = Exam.of(ways, [f"class {i // 10}" for i in range(700)], None)  # type: ignore[arg-type]
    assert len(exam.rows) == 64
    assert len(set(exam.prompts)) == 64
    assert set(exam.rows) | set(exam.others()) == set(range(700))
    assert not set(exam.rows) & set(exam.others())
    taught: set[int] = set()

    def losses(_: Any, rows: np.ndarray, __: Any) -> Any:
        taught.update(rows.tolist())
        raise InterruptedError

    student = SimpleNamespace(unet=torch.nn.Linear(1, 1), losses=losses)
    with pytest.raises(InterruptedError):
        teach(student, ways, exam, Path("nowhere.pt"), Training(steps=2, batch=4000, learning_rate=1e-4), 1, print)  # type: ignore[arg-type]
    assert taught.isdisjoint(exam.rows.tolist())
    assert len(taught) > 600
    assert max(taught) >= 690  # of the last class too


def test_latents_are_heard_as_the_pipeline_ranks(bundle: Callable[[str], Path]) -> None:
    opened = Bundle.read(bundle("plain"))
    seconds, prompts = 8 * opened.manifest.audio.row_samples / opened.manifest.audio.sample_rate_hz, PROMPTS[:2]
    call = {"num_inference_steps": 2, "audio_length_in_s": seconds, "num_waveforms_per_prompt": 5, "seed": 4}
    pipe = AudioLDM2Pipeline.from_pretrained(bundle("plain"), "cpu", backend="onnxruntime")
    ranked, latents = pipe(prompts, **call).scores, pipe(prompts, output_type="latent", **call).audios
    listener = Listener(opened, "cpu")
    scores = listener.latents_scores(np.repeat(prompts, 5).tolist(), latents).reshape(2, 5)
    listener.close()  # loads again
    again = listener.latents_scores(np.repeat(prompts[::-1], 5).tolist(), latents).reshape(2, 5)
    assert relative_error(-np.sort(-scores), np.reshape(ranked, (2, 5))) < 1e-4
    assert relative_error(again, scores) > 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [({"steps": 0}, "--steps"), ({"steps": 21}, "--steps"), ({"steps": 1, "iterations": 0}, "--iterations")],
)
def test_lessons_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with raises_line(BuildError, words):
        Lesson(**options)


def test_wrong_places_and_checkpoints(
    checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    with raises_line(BuildError, "mine is there", "--out"):
        distill(Checkpoint(checkpoint("plain"), "plain"), PROMPTS, Lesson(steps=1), tmp_path / "mine")
    with raises_line(BuildError, "5 prompts at least", "got 4"):
        distill(Checkpoint(checkpoint("plain"), "plain"), PROMPTS[1:], Lesson(steps=1), tmp_path / "x")
    assert main(["distill", "--checkpoint", str(checkpoint("plain")), "--out", str(tmp_path / "x")]) == 1
    assert "--prompts is missing" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_trajectories_of_longer_texts_are_put_together(tmp_path: Path) -> None:
    for i, tokens in enumerate((3, 5)):
        part = {"latents": np.ones((1, 2, 1, 2, 2)), "new": np.ones((1, 8, 4)), "mask": np.ones((1, tokens), bool)}
        np.savez(tmp_path / f"{i:08}.npz", **part, states=np.ones((1, tokens, 4)))
    ways = Trajectories.open(tmp_path)
    assert ways.mask.sum(axis=1).tolist() == [3, 5]
    assert ways.states.shape == (2, 5, 4)
