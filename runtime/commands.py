"""What `trt-audioldm2` does: one prompt to a file, or a file of prompts to many."""

import argparse
import logging
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.console import Console, open_streams, status_of, stoppable
from runtime.errors import InputError
from runtime.flags import check_counts
from runtime.options import (
    DEFAULT_OUTPUT,
    DEFAULT_PATTERN,
    FLAG_OF_ARGUMENT,
    call_arguments,
    parse,
    pipeline_options,
    with_flags,
)
from runtime.presets import PRESETS
from runtime.sound.whole_file import STANDARD_OUTPUT
from runtime.wording import last_words, readable, text_of_argument

if TYPE_CHECKING:
    from runtime.batch import Outcome
    from runtime.pipeline import AudioLDM2Pipeline

logger = logging.getLogger(__name__)

LONGEST_PATH = 4096  # characters: a message never cuts a path, which is there to be used

FIELD_OF_ARGUMENT = FLAG_OF_ARGUMENT | {  # of a JSON line, or a flag in its place
    "audio_length_in_s": "duration",
    "negative_prompt": "negative_prompt",
    "prompt": "prompt",
    "seed": "seed",
    "transcription": "transcription",
}


def run(arguments: list[str]) -> int:
    """Do what a command line says. Returns the exit status; raises SystemExit as `parse` does."""
    closed = open_streams()
    options = parse(arguments)
    console = Console(
        sys.stderr if options.output == STANDARD_OUTPUT else sys.stdout, quiet=options.quiet, as_json=options.json
    )
    with stoppable(), console.warnings(debug=options.debug):
        try:
            if options.output == STANDARD_OUTPUT and "stdout" in closed:
                raise InputError("standard output is closed: --output - has nowhere to write to")
            status = _run(options, console)
        except KeyboardInterrupt as interrupt:
            console.note(f"interrupted: {_files(console.written)} written")
            status = status_of(interrupt)
        except Exception as error:  # whatever it is, a user sees one line
            logger.debug("the error came from here:", exc_info=error)
            console.error(with_flags(last_words(error)))
            status = 1
    return console.exit_status(status)


def _files(count: int) -> str:
    return "no file was" if count == 0 else "1 file was" if count == 1 else f"{count} files were"


def _run(options: argparse.Namespace, console: Console) -> int:
    # here and below imports are late, so that --help and a mistyped flag answer at once
    from runtime.diffusion.schedulers import scheduler_class

    check_counts(options, "--num-waveforms", "--batch-size", "--threads")
    for argument in ("prompt", "negative_prompt", "transcription"):
        if (text := getattr(options, argument)) is not None:
            setattr(options, argument, text_of_argument(argument, text))
    if options.engines == "":
        raise InputError("--engines is empty: give a folder, or leave it out")
    if options.scheduler is not None:
        options.scheduler = scheduler_class(options.scheduler)
    if options.plot:
        from runtime.sound.plot import check_plot

        check_plot()
    return _run_one(options, console) if options.prompts_file is None else _run_many(options, console)


def _open_pipeline(options: argparse.Namespace, console: Console) -> "AudioLDM2Pipeline":
    from runtime.bundle import BACKEND_VARIABLE, Bundle, find_bundle, preferred_backend
    from runtime.pipeline import AudioLDM2Pipeline

    preset, asked = options.preset, options.backend or os.environ.get(BACKEND_VARIABLE)
    fast = preset is not None and asked != "onnxruntime"  # which does not read bundles in INT8
    bundle = Bundle.read(find_bundle(options.engines, os.environ, options.device, fast=fast))
    if options.num_waveforms > 1 and not bundle.manifest.kind.ranks:
        why = f"{bundle.manifest.kind.pipeline}'s models have no audio tower of CLAP's to find the best of several by"
        raise InputError(f"num_waveforms_per_prompt has to be 1: {why}")
    if preset is not None:
        taught = bundle.manifest.defaults
        if taught.distilled:
            known = f"{bundle.folder} was taught to do with {taught.num_inference_steps} steps"
            raise InputError(f"--{preset}: {known}, which it takes by itself")
        if not options.quiet:
            console.note(f"--{preset}, {bundle.folder}: {PRESETS[preset].told}")
    backend = options.backend or preferred_backend(bundle, os.environ)
    return AudioLDM2Pipeline(bundle, backend=backend, **pipeline_options(options))


def _run_one(options: argparse.Namespace, console: Console) -> int:
    from runtime.progress import Progress
    from runtime.sound.files import check_output, picture_beside
    from runtime.sound.finish import Finish
    from runtime.sound.saving import Sound, save

    output = DEFAULT_OUTPUT if options.output is None else options.output
    finish = Finish(options.fade, options.loudness, options.sample_rate)
    check_output(output, as_float=options.float, sample_rate_hz=options.sample_rate, source=options.audio)
    picture = picture_beside(output) if options.plot else None
    if not options.prompt.strip():
        logger.warning("the prompt is blank: the sound will be of nothing in particular")
    with Progress(console, hidden=options.quiet) as progress:
        pipeline = _open_pipeline(options, console)
        request = pipeline.check(
            options.prompt,
            transcription=options.transcription,
            audio_length_in_s=options.duration,
            negative_prompt=options.negative_prompt,
            seed=options.seed,
            callback=progress.step,
            **call_arguments(options),
        )
        finish.check(request.result_s)
        progress.expect(request.steps, hint=_hint(options, request.steps))
        result = pipeline.render(request)
    sound = finish(Sound.of_row(0, result.audios, result.sampling_rate, result.scores))
    picture = save(sound, output, as_float=options.float, picture=picture, title=options.prompt)
    console.written += 1
    factor = sum(result.timings.values()) / sound.duration_s
    summary: dict[str, Any] = {
        "prompt": options.prompt,
        "file": output,
        "picture": picture and str(picture),
        "duration_s": sound.duration_s,
        "seed": result.seeds[0] if len(result.seeds) == 1 else list(result.seeds),
        "score": sound.score,
        "engines": pipeline.label,
        "timings_s": {stage: round(seconds, 4) for stage, seconds in result.timings.items()},
        "real_time_factor": round(factor, 4),
    }
    stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in result.timings.items())
    console.result(
        summary,
        f"{_path(output)}{f' and {_path(picture)}' if picture else ''}: "
        f'"{readable(options.prompt)}", {sound.duration_s:.2f} s, seed {",".join(map(str, result.seeds))}'
        f"{_score(sound.score)} | {pipeline.label} | {stages} | real-time factor {factor:.2f}",
    )
    return 0


def _run_many(options: argparse.Namespace, console: Console) -> int:
    from runtime.batch import run_file, summary_of
    from runtime.progress import Progress
    from runtime.prompts_file import Line
    from runtime.sound.finish import Finish

    if options.output == STANDARD_OUTPUT:
        raise InputError("--output - holds one sound: with --prompts-file name a pattern")
    if isinstance(options.seed, list):
        raise InputError("--seed with --prompts-file takes one value; a JSON line may have its own")
    defaults = Line(
        prompt="",
        negative_prompt=options.negative_prompt,
        transcription=options.transcription,
        seed=options.seed,
        duration=options.duration,
    )
    outcomes: list[Outcome] = []
    start = time.perf_counter()
    try:
        with Progress(console, many=True, hidden=options.quiet) as progress:

            def open_pipeline(prompts: int) -> "AudioLDM2Pipeline":
                pipeline = _open_pipeline(options, console)
                steps = pipeline.check("", **call_arguments(options)).steps
                progress.expect(steps, prompts=prompts, hint=_hint(options, steps))
                return pipeline

            for outcome in run_file(
                options.prompts_file,
                DEFAULT_PATTERN if options.output is None else options.output,
                defaults,
                open_pipeline,
                options.batch_size,
                as_float=options.float,
                plot=options.plot,
                finish=Finish(options.fade, options.loudness, options.sample_rate),
                callback=progress.step,
                **call_arguments(options),
            ):
                outcomes.append(outcome)
                _tell(outcome, console, as_json=options.json)
                progress.prompt_done()
    except KeyboardInterrupt:
        _sum_up(summary_of(outcomes, time.perf_counter() - start), len(outcomes), console)
        raise
    summary = summary_of(outcomes, time.perf_counter() - start)
    _sum_up(summary, len(outcomes), console)
    return 1 if summary["failed"] else 0


def _tell(outcome: "Outcome", console: Console, *, as_json: bool) -> None:
    """One line for one line of a prompts file: errors on standard error."""
    error = outcome.error and with_flags(outcome.error, FIELD_OF_ARGUMENT)
    if error and not as_json:
        console.error(f"line {outcome.number}: {error}")
        return
    console.written += not error
    console.result(
        {**asdict(outcome), "output": outcome.output and str(outcome.output), "error": error},
        f"{_path(outcome.output)}: {outcome.duration_s:.2f} s, seed {outcome.seed}{_score(outcome.score)}",
    )


def _sum_up(summary: dict[str, Any], prompts: int, console: Console) -> None:
    failed = f", failed: lines {', '.join(map(str, summary['failed']))}" if summary["failed"] else ""
    factor = f" (real-time factor {summary['real_time_factor']:.2f})" if summary["written"] else ""
    console.result(
        summary,
        f"{summary['written']} of {prompts} written, {summary['duration_s']:.2f} s of audio in "
        f"{summary['seconds']:.2f} s{factor}{failed}",
    )


def _hint(options: argparse.Namespace, steps: int) -> str:
    """What the progress bar says of a faster way."""
    fewer = PRESETS["fast"].steps
    return f" (--fast takes {fewer} steps)" if options.slow_by_default and steps > fewer else ""


def _path(path: str | Path | None) -> str:
    return readable(str(path), LONGEST_PATH)


def _score(score: float | None) -> str:
    return "" if score is None else f", score {score:.3f}"
