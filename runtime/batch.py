"""Many prompts from one file: reading it, grouping into batches, naming the outputs; one bad line loses no other."""

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from runtime.errors import AudioLDM2Error, InputError
from runtime.pipeline import AudioLDM2Pipeline
from runtime.sound.files import check_output, picture_beside, write_audio
from runtime.sound.plot import try_plot

DEFAULT_PATTERN = "output-{index:04d}.wav"
_SLUG_LENGTH = 40


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of a prompts file: the prompt, and what differs from the command line's flags."""

    prompt: str
    negative_prompt: str | None = None
    transcription: str | None = None
    seed: int | None = None
    duration: float | None = None  # seconds


@dataclass(frozen=True)
class Job:
    """A line that is ready to run. `number` counts the file's lines from 1."""

    number: int
    line: Line
    seed: int
    output: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a line: a file of `duration_s` seconds, or an error."""

    number: int
    output: Path | None = None
    seed: int | None = None
    duration_s: float = 0.0
    score: float | None = None
    error: str | None = None


def read_jobs(file: Path, pattern: str, defaults: Line, *, as_float: bool) -> Iterator[Job | Outcome]:
    """Read a prompts file: a job for each good line, an outcome with its error for each bad one.

    A line is a prompt, or a JSON object with the fields of `Line`; blank lines are skipped. `pattern` names the
    outputs: `{index}` counts the prompts from 0, `{line}` the lines from 1, `{seed}`, and `{prompt}` in a form that is
    fit for a file name. Raises InputError if the file cannot be read or the pattern is wrong.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts file '{file}' cannot be read: {error}") from error
    _name(pattern, index=0, line=1, seed=0, prompt="prompt")  # a wrong pattern is wrong for all
    taken: dict[Path, int] = {}
    numbered = [(number, text.strip()) for number, text in enumerate(lines, start=1) if text.strip()]
    if not numbered:
        raise InputError(f"prompts file '{file}' holds no prompt")
    for index, (number, text) in enumerate(numbered):
        try:
            line = _parse(text, defaults)
            seed = secrets.randbelow(2**31) if line.seed is None else line.seed
            name = _name(pattern, index=index, line=number, seed=seed, prompt=_slug(line.prompt))
            check_output(name, as_float=as_float)
            output = Path(name)
            if output in taken:
                raise InputError(f"'{output}' is line {taken[output]}'s file already: use {{index}} in the pattern")
            taken[output] = number
            yield Job(number, line, seed, output)
        except InputError as error:
            yield Outcome(number, error=str(error))


def run_jobs(
    pipeline: AudioLDM2Pipeline,
    jobs: list[Job],
    batch_size: int,
    *,
    as_float: bool,
    plot: bool = False,
    **arguments: Any,
) -> Iterator[Outcome]:
    """Run the jobs, up to `batch_size` of one duration at once. Outcomes come as their batches are done.

    With `plot` a spectrogram is written beside each file. `arguments` go to every call of the pipeline. A batch that
    fails is run again one by one, so that only the line at fault is lost.
    """
    for batch in _batches(jobs, batch_size):
        try:
            yield from _run(pipeline, batch, as_float, plot, arguments)
        except AudioLDM2Error as error:
            if len(batch) == 1:
                yield Outcome(batch[0].number, error=str(error))
            else:
                yield from run_jobs(pipeline, batch, 1, as_float=as_float, plot=plot, **arguments)


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


def _run(
    pipeline: AudioLDM2Pipeline, batch: list[Job], as_float: bool, plot: bool, arguments: dict[str, Any]
) -> list[Outcome]:
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
    outcomes = []
    for i, job in enumerate(batch):
        best = result.audios[i * each]
        write_audio(job.output, best, result.sampling_rate, as_float=as_float)
        if plot:
            try_plot(best, result.sampling_rate, picture_beside(job.output), job.line.prompt)
        score = None if result.scores is None else float(result.scores[i * each])
        outcomes.append(Outcome(job.number, job.output, job.seed, len(best) / result.sampling_rate, score))
    return outcomes


def _batches(jobs: list[Job], size: int) -> Iterator[list[Job]]:
    """Jobs that one call can take together: of one duration, all with a transcription or none, in the file's order."""
    groups: dict[tuple[float | None, bool], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.line.duration, job.line.transcription is None), []).append(job)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _parse(text: str, defaults: Line) -> Line:
    if not text.startswith("{"):
        return msgspec.structs.replace(defaults, prompt=text)
    try:
        given = json.loads(text)
        line = msgspec.convert(given, Line)
    except (ValueError, msgspec.ValidationError) as error:
        raise InputError(f"no valid JSON line: {error}") from error
    return msgspec.structs.replace(defaults, **{field: getattr(line, field) for field in given})


def _name(pattern: str, **fields: object) -> str:
    try:
        return pattern.format(**fields)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        names = ", ".join(f"{{{name}}}" for name in fields)
        raise InputError(f"output pattern '{pattern}' is wrong ({error}); it may hold {names}") from error


def _slug(prompt: str) -> str:
    return re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:_SLUG_LENGTH].rstrip("-") or "prompt"
