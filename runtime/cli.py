"""`trt-audioldm2 PROMPT`: text to an audio file."""

import argparse
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import AudioLDM2Error, InputError

if TYPE_CHECKING:
    from runtime.batch import Outcome

DESCRIPTION = "Turn a text prompt into an audio file with prebuilt AudioLDM2 engines."
EPILOG = "Build engines first: python -m export build --checkpoint cvssp/audioldm2 (or --checkpoint demo)."


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, make sound. Returns the exit status: 0, 1 for a known error, 130 for Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.prompt is None) == (options.prompts_file is None):
        parser.error("give either a PROMPT or --prompts-file")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.ERROR if options.quiet else logging.WARNING)
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("interrupted: no file was written", file=sys.stderr)
        return 130
    except (AudioLDM2Error, MemoryError) as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {error or 'out of memory'}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trt-audioldm2", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    add = parser.add_argument
    add("prompt", nargs="?", metavar="PROMPT", help="what to hear")
    add("--prompts-file", type=Path, metavar="FILE", help="many prompts: one a line, or JSON lines")
    add("--batch-size", type=int, default=1, metavar="N", help="prompts rendered at once (default: %(default)s)")
    add("--transcription", metavar="TEXT", help="what to say, for a speech checkpoint; the prompt describes the voice")
    add("--engines", metavar="FOLDER", help="the bundle (default: $TRT_AUDIOLDM2_ENGINES, or the only one in engines/)")
    add(
        "--output",
        "-o",
        metavar="FILE",
        help=".wav, .flac, .ogg, .opus or .mp3, or - for WAV on standard output (default: output.wav); with "
        "--prompts-file a pattern with "
        "{index}, {line}, {seed} or {prompt} (default: output-{index:04d}.wav)",
    )
    add("--negative-prompt", metavar="TEXT", help="what not to hear")
    add("--steps", type=int, default=200, help="denoising steps (default: %(default)s)")
    add(
        "--guidance-scale", type=float, default=3.5, help="1 or less: no guidance, half the work (default: %(default)s)"
    )
    add(
        "--guidance-interval",
        type=_interval,
        default=(0.0, 1.0),
        metavar="A:B",
        help="guide from share A of the steps up to share B only: faster, and not the same sound (default: 0:1)",
    )
    add(
        "--feature-cache",
        type=int,
        default=1,
        metavar="N",
        help="run the whole UNet at every N-th step, its outermost level at the others: faster, and not the same sound "
        "(default: %(default)s)",
    )
    add(
        "--duration",
        type=float,
        metavar="SECONDS",
        help="length (default: the checkpoint's, 10.24 s for the published)",
    )
    add("--num-waveforms", type=int, default=1, metavar="N", help="make N, keep the one CLAP ranks best (default: 1)")
    add("--seed", type=_seeds, metavar="N[,N...]", help="one, or one a waveform (default: drawn, and printed)")
    add("--scheduler", metavar="NAME", help="such as DPMSolverMultistepScheduler (default: the checkpoint's)")
    add("--eta", type=float, default=0.0, help="DDIM's noise, 0 to 1 (default: %(default)s)")
    add("--max-new-tokens", type=int, metavar="N", help="GPT2's new embeddings (default: the checkpoint's)")
    add("--seed-device", choices=["cpu", "cuda"], default="cpu", help="whose generator of torch's a seed is for")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s, as the bundle needs)")
    add("--backend", help="what runs graphs: auto, onnxruntime or openvino (default: $TRT_AUDIOLDM2_BACKEND, or auto)")
    add(
        "--precision", default="auto", help="of openvino: auto, fp32 or bf16 (default: auto, bf16 where the CPU has it)"
    )
    add("--low-memory", action="store_true", help="load each engine when it is needed, free it after")
    add("--vae-slicing", action="store_true", help="decode waveforms one by one: less memory with --num-waveforms")
    add("--plot", action="store_true", help="write a spectrogram beside each file, as PNG")
    add("--float", action="store_true", help="write 32-bit float WAV instead of 16-bit PCM")
    add("--quiet", "-q", action="store_true", help="print errors only")
    add("--json", action="store_true", help="print the result as one JSON line")
    add("--debug", action="store_true", help="print the traceback of an error")
    add("--version", action="version", version=f"%(prog)s {version('trt-audioldm2')}")
    return parser


def _seeds(text: str) -> int | list[int]:
    seeds = [int(part) for part in text.split(",")]
    return seeds[0] if len(seeds) == 1 else seeds


def _interval(text: str) -> tuple[float, float]:
    start, stop = text.split(":")
    return float(start), float(stop)


def _run(options: argparse.Namespace) -> int:
    from runtime.bundle import find_bundle  # here and below: --help and a mistyped flag answer at once

    for flag, value in (("--num-waveforms", options.num_waveforms), ("--batch-size", options.batch_size)):
        if value < 1:
            raise InputError(f"{flag} has to be at least 1, got {value}")
    if options.plot:
        from runtime.sound.plot import check_plot

        check_plot()
    folder = partial(find_bundle, options.engines, os.environ, options.device)
    return _run_one(options, folder) if options.prompts_file is None else _run_many(options, folder)


def _run_one(options: argparse.Namespace, folder: Callable[[], Path]) -> int:
    from tqdm import tqdm

    from runtime.pipeline import AudioLDM2Pipeline
    from runtime.sound.files import check_output, picture_beside, write_audio
    from runtime.sound.plot import try_plot

    output = "output.wav" if options.output is None else options.output
    check_output(output, as_float=options.float)
    picture = picture_beside(output) if options.plot else None
    pipeline = AudioLDM2Pipeline.from_pretrained(folder(), **_options(options))
    with tqdm(total=options.steps, unit="step", disable=options.quiet or None, leave=False) as bar:
        result = pipeline(
            options.prompt,
            transcription=options.transcription,
            audio_length_in_s=options.duration,
            negative_prompt=options.negative_prompt,
            seed=options.seed,
            callback=lambda *_: bar.update(),
            **_call_arguments(options),
        )
    best = result.audios[0]
    write_audio(output, best, result.sampling_rate, as_float=options.float)
    picture = picture and try_plot(best, result.sampling_rate, picture, options.prompt)
    score = None if result.scores is None else float(result.scores[0])
    summary: dict[str, Any] = {
        "prompt": options.prompt,
        "file": output,
        "picture": picture and str(picture),
        "duration_s": len(best) / result.sampling_rate,
        "seed": result.seeds[0] if len(result.seeds) == 1 else list(result.seeds),
        "score": score,
        "engines": pipeline.label,
        "timings_s": {stage: round(seconds, 4) for stage, seconds in result.timings.items()},
        "real_time_factor": round(sum(result.timings.values()) * result.sampling_rate / len(best), 4),
    }
    stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in result.timings.items())
    _say(
        options,
        summary,
        f'{output}{f" and {picture}" if picture else ""}: "{options.prompt}", '
        f"{summary['duration_s']:.2f} s, seed {','.join(map(str, result.seeds))}{_score(score)}"
        f" | {pipeline.label} | {stages} | real-time factor {summary['real_time_factor']:.2f}",
    )
    return 0


def _run_many(options: argparse.Namespace, folder: Callable[[], Path]) -> int:
    from runtime.batch import DEFAULT_PATTERN, Job, Line, read_jobs, run_jobs, summary_of
    from runtime.pipeline import AudioLDM2Pipeline

    if options.output == "-":
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
    pattern = DEFAULT_PATTERN if options.output is None else options.output
    read = list(read_jobs(options.prompts_file, pattern, defaults, as_float=options.float))
    jobs = [item for item in read if isinstance(item, Job)]
    outcomes = [item for item in read if not isinstance(item, Job)]
    for outcome in outcomes:
        _report(options, outcome)
    start = time.perf_counter()
    if jobs:
        pipeline = AudioLDM2Pipeline.from_pretrained(folder(), **_options(options))
        for outcome in run_jobs(
            pipeline, jobs, options.batch_size, as_float=options.float, plot=options.plot, **_call_arguments(options)
        ):
            outcomes.append(outcome)
            _report(options, outcome)
    summary = summary_of(outcomes, time.perf_counter() - start)
    failed = f", failed: lines {', '.join(map(str, summary['failed']))}" if summary["failed"] else ""
    factor = f" (real-time factor {summary['real_time_factor']:.2f})" if summary["written"] else ""
    _say(
        options,
        summary,
        f"{summary['written']} of {len(outcomes)} written, {summary['duration_s']:.2f} s of audio in "
        f"{summary['seconds']:.2f} s{factor}{failed}",
    )
    return 1 if summary["failed"] else 0


def _options(options: argparse.Namespace) -> dict[str, Any]:
    names = ("device", "backend", "precision", "low_memory", "vae_slicing")
    return {name: getattr(options, name) for name in names}


def _call_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """What every call of a run shares."""
    return {
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "guidance_interval": options.guidance_interval,
        "feature_cache_interval": options.feature_cache,
        "num_waveforms_per_prompt": options.num_waveforms,
        "eta": options.eta,
        "max_new_tokens": options.max_new_tokens,
        "scheduler": options.scheduler,
        "seed_device": options.seed_device,
    }


def _report(options: argparse.Namespace, outcome: "Outcome") -> None:
    """One line for one line of a prompts file: errors on stderr."""
    if outcome.error is not None and not options.json:
        print(f"error: line {outcome.number}: {outcome.error}", file=sys.stderr)
        return
    _say(
        options,
        {**asdict(outcome), "output": outcome.output and str(outcome.output)},
        f"{outcome.output}: {outcome.duration_s:.2f} s, seed {outcome.seed}{_score(outcome.score)}",
    )


def _say(options: argparse.Namespace, fields: dict[str, Any], line: str) -> None:
    words = sys.stderr if options.output == "-" else sys.stdout  # where the sound is not
    if options.json:
        print(json.dumps(fields), flush=True, file=words)
    elif not options.quiet:
        print(line, flush=True, file=words)


def _score(score: float | None) -> str:
    return "" if score is None else f", score {score:.3f}"


if __name__ == "__main__":
    sys.exit(main())
