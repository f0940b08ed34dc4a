"""Many prompts from one file: batches are rendered, sounds are written, and a line that fails loses no other."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.pipeline import AudioLDM2Pipeline
from runtime.prompts_file import Job, Line, Refused, read_jobs
from runtime.sound.files import picture_beside
from runtime.sound.finish import PLAIN, Finish
from runtime.sound.saving import Sound, save
from runtime.wording import one_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of a line: a file of `duration_s` seconds, or the error that lost it."""

    number: int
    output: Path | None = None
    seed: int | None = None
    duration_s: float = 0.0
    score: float | None = None
    error: str | None = None


def run_file(
    file: str | Path,
    pattern: str,
    defaults: Line,
    open_pipeline: Callable[[int], AudioLDM2Pipeline],
    batch_size: int,
    *,
    as_float: bool,
    plot: bool = False,
    finish: Finish = PLAIN,
    **arguments: Any,
) -> Iterator[Outcome]:
    """Run a whole prompts file. Outcomes come as they are known: first those of lines that cannot run.

    `open_pipeline` is called once, with the number of prompts, when there is something to render. See `read_jobs` for
    the file, the pattern and the defaults, `run_jobs` for the rest.
    """
    read = list(read_jobs(file, pattern, defaults, as_float=as_float, source=arguments.get("audio")))
    yield from (Outcome(item.number, error=one_line(item.error)) for item in read if isinstance(item, Refused))
    jobs = [item for item in read if isinstance(item, Job)]
    for job in jobs:
        if not job.line.prompt.strip():
            logger.warning("line %d: the prompt is blank", job.number)
    if jobs:
        pipeline = open_pipeline(len(jobs))
        yield from run_jobs(pipeline, jobs, batch_size, as_float=as_float, plot=plot, finish=finish, **arguments)


def run_jobs(
    pipeline: AudioLDM2Pipeline,
    jobs: list[Job],
    batch_size: int,
    *,
    as_float: bool,
    plot: bool = False,
    finish: Finish = PLAIN,
    **arguments: Any,
) -> Iterator[Outcome]:
    """Run the jobs, up to `batch_size` of one duration at once. Outcomes come as their batches are done.

    With `plot` a spectrogram is written beside each file. `arguments` go to every call of the pipeline. Whatever
    exception a batch or a file ends in, of ours or not, becomes the outcome of its own lines, and the next ones run. A
    batch that cannot be rendered is tried again one by one, so that only the line at fault is lost.
    """
    for batch in _batches(jobs, batch_size):
        for job, sound in _render(pipeline, batch, arguments):
            yield sound if isinstance(sound, Outcome) else _write(job, sound, finish, as_float=as_float, plot=plot)


def summary_of(outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    """How many files were written, how much audio in what time, and the lines that failed."""
    written = [outcome for outcome in outcomes if outcome.error is None]
    duration = sum(outcome.duration_s for outcome in written)
    return {
        "written": len(written),
        "failed": sorted(outcome.number for outcome in outcomes if outcome.error is not None),
        "duration_s": round(duration, 3),
        "seconds": round(seconds, 3),
        "real_time_factor": round(seconds / duration, 4) if duration else None,
    }


def _render(
    pipeline: AudioLDM2Pipeline, batch: list[Job], arguments: dict[str, Any]
) -> Iterator[tuple[Job, Sound | Outcome]]:
    """Each job of a batch with its sound, or with the outcome of a line that could not be rendered."""
    try:
        sounds = list(_sounds(pipeline, batch, arguments))
    except Exception as error:  # whatever a library raises
        failed = _failed(batch[0], error)
    else:
        yield from zip(batch, sounds, strict=True)
        return
    if len(batch) == 1:  # from here on nothing holds the error, and with it the arrays of the call that failed
        yield batch[0], failed
        return
    for job in batch:
        yield from _render(pipeline, [job], arguments)


def _write(job: Job, sound: Sound, finish: Finish, *, as_float: bool, plot: bool) -> Outcome:
    try:
        sound = finish(sound)
        picture = picture_beside(job.output) if plot else None
        save(sound, job.output, as_float=as_float, picture=picture, title=job.line.prompt)
    except Exception as error:  # of a full disk, say; the other sounds of the batch are written all the same
        return _failed(job, error)
    return Outcome(job.number, job.output, job.seed, sound.duration_s, sound.score)


def _failed(job: Job, error: Exception) -> Outcome:
    logger.debug("line %d ended here:", job.number, exc_info=error)
    return Outcome(job.number, error=one_line(error))


def _sounds(pipeline: AudioLDM2Pipeline, batch: list[Job], arguments: dict[str, Any]) -> Iterator[Sound]:
    spoken = [job.line.transcription for job in batch]
    result = pipeline(
        [job.line.prompt for job in batch],
        transcription=None if None in spoken else spoken,
        negative_prompt=[job.line.negative_prompt or "" for job in batch],
        audio_length_in_s=batch[0].line.duration,
        seed=[job.seed for job in batch],  # one a prompt
        **arguments,
    )
    each = len(result.audios) // len(batch)
    for i in range(len(batch)):
        yield Sound.of_row(i * each, result.audios, result.sampling_rate, result.scores)


def _batches(jobs: list[Job], size: int) -> Iterator[list[Job]]:
    """Jobs that one call can take together: of one duration, all with a transcription or none, in the file's order."""
    groups: dict[tuple[float | None, bool], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.line.duration, job.line.transcription is None), []).append(job)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]
