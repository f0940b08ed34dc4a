"""`trt-audioldm2 PROMPT`: text to an audio file."""

import argparse
import json
import logging
import os
import sys
import traceback
from importlib.metadata import version
from pathlib import Path

from runtime.errors import AudioLDM2Error, InputError

DESCRIPTION = "Turn a text prompt into an audio file with prebuilt AudioLDM2 engines."
EPILOG = "Build engines first: python -m export build --checkpoint cvssp/audioldm2 (or --checkpoint demo)."


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, make sound. Returns the exit status: 0, 1 for a known error, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.ERROR if options.quiet else logging.WARNING)
    try:
        _run(options)
    except KeyboardInterrupt:
        print("interrupted: no file was written", file=sys.stderr)
        return 130
    except (AudioLDM2Error, MemoryError) as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {error or 'out of memory'}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trt-audioldm2", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    add = parser.add_argument
    add("prompt", help="what to hear")
    add("--engines", metavar="FOLDER", help="the bundle (default: $TRT_AUDIOLDM2_ENGINES, or the only one in engines/)")
    add("--output", "-o", type=Path, default=Path("output.wav"), help=".wav or .flac (default: %(default)s)")
    add("--negative-prompt", metavar="TEXT", help="what not to hear")
    add("--steps", type=int, default=200, help="denoising steps (default: %(default)s)")
    add(
        "--guidance-scale", type=float, default=3.5, help="1 or less: no guidance, half the work (default: %(default)s)"
    )
    add(
        "--duration",
        type=float,
        metavar="SECONDS",
        help="length (default: the checkpoint's, 10.24 s for the published)",
    )
    add("--num-waveforms", type=int, default=1, metavar="N", help="make N, keep the one CLAP ranks best (default: 1)")
    add("--seed", type=_seeds, metavar="N[,N...]", help="one, or one a waveform (default: drawn, and printed)")
    add("--eta", type=float, default=0.0, help="DDIM's noise, 0 to 1 (default: %(default)s)")
    add("--low-memory", action="store_true", help="load each engine when it is needed, free it after")
    add("--vae-slicing", action="store_true", help="decode waveforms one by one: less memory with --num-waveforms")
    add("--float", action="store_true", help="write 32-bit float WAV instead of 16-bit PCM")
    add("--quiet", "-q", action="store_true", help="print errors only")
    add("--json", action="store_true", help="print the result as one JSON line")
    add("--debug", action="store_true", help="print the traceback of an error")
    add("--version", action="version", version=f"%(prog)s {version('trt-audioldm2')}")
    return parser


def _seeds(text: str) -> int | list[int]:
    seeds = [int(part) for part in text.split(",")]
    return seeds[0] if len(seeds) == 1 else seeds


def _run(options: argparse.Namespace) -> None:
    # imported here so that --help and a mistyped flag answer at once
    from tqdm import tqdm

    from runtime.audio import check_output, write_audio
    from runtime.bundle import find_bundle
    from runtime.pipeline import AudioLDM2Pipeline

    check_output(options.output, as_float=options.float)
    pipeline = AudioLDM2Pipeline.from_pretrained(
        find_bundle(options.engines, os.environ), low_memory=options.low_memory, vae_slicing=options.vae_slicing
    )
    if options.num_waveforms < 1:
        raise InputError(f"--num-waveforms has to be at least 1, got {options.num_waveforms}")
    with tqdm(total=options.steps, unit="step", disable=options.quiet or None, leave=False) as bar:
        result = pipeline(
            options.prompt,
            audio_length_in_s=options.duration,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance_scale,
            negative_prompt=options.negative_prompt,
            num_waveforms_per_prompt=options.num_waveforms,
            eta=options.eta,
            seed=options.seed,
            callback=lambda *_: bar.update(),
        )
    best = result.audios[0]
    write_audio(options.output, best, result.sampling_rate, as_float=options.float)
    duration = len(best) / result.sampling_rate
    summary = {
        "file": str(options.output),
        "duration_s": duration,
        "seed": result.seeds[0] if len(result.seeds) == 1 else list(result.seeds),
        "score": None if result.scores is None else float(result.scores[0]),
        "timings_s": {stage: round(seconds, 4) for stage, seconds in result.timings.items()},
        "real_time_factor": round(sum(result.timings.values()) / duration, 4),
    }
    if options.json:
        print(json.dumps(summary))
    elif not options.quiet:
        stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in result.timings.items())
        score = f", score {summary['score']:.3f}" if result.scores is not None else ""
        print(
            f"{options.output}: {duration:.2f} s, seed {_joined(result.seeds)}{score} | {stages} | "
            f"real-time factor {summary['real_time_factor']:.2f}"
        )


def _joined(seeds: tuple[int, ...]) -> str:
    return ",".join(str(seed) for seed in seeds)


if __name__ == "__main__":
    sys.exit(main())
