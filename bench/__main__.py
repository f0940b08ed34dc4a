"""`python -m bench NAME`: run a benchmark, print its table, end in one JSON line."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.processes import ProcessError
from bench.report import write_result
from runtime.errors import AudioLDM2Error, InputError
from runtime.flags import Parser, number


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark that is named. Returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        result = options.run(options)
        print(write_result(options.out, options.name, result, getattr(options, "json", None)))
    except (AudioLDM2Error, ProcessError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return int(result.get("failed", False))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(
        required=True,
        metavar="step | kvcache | memory | gpu | hour | latency | quality | pareto | serve | edits",
        dest="name",
    )
    step = commands.add_parser("step", help="one guided UNet step at base size, against eager diffusers FP32")
    step.add_argument("--runs", type=int, default=15, help="timed runs of each (default: %(default)s)")
    step.add_argument("--height", type=int, default=256, help="latent height, 25 a second (default: %(default)s)")
    step.set_defaults(run=_step)
    cache = commands.add_parser("kvcache", help="GPT2's new embeddings at base size, with the cache and without")
    cache.add_argument("--new-tokens", type=int, default=512, help="embeddings to make (default: %(default)s)")
    cache.add_argument("--length", type=int, default=24, help="positions of the prompt (default: %(default)s)")
    cache.set_defaults(run=_kvcache)
    memory = commands.add_parser("memory", help="peak memory of a call, against diffusers FP32; Linux only")
    memory.add_argument("--checkpoint", type=Path, required=True, help="folder in diffusers' layout")
    memory.add_argument("--engines", type=Path, required=True, help="the bundle that was built from it")
    memory.add_argument("--durations", type=float, nargs="+", default=[10.0, 60.0], help="seconds (default: 10 60)")
    memory.add_argument("--num-waveforms", type=int, default=1, help="waveforms at once (default: %(default)s)")
    memory.set_defaults(run=_memory)
    on_gpu = commands.add_parser("gpu", help="whole calls at base size on a GPU, against diffusers FP16")
    _add_gpu_options(on_gpu)
    hour = commands.add_parser("hour", help="what a GPU can tell in its first hour, each item on the disk at once")
    hour.add_argument("items", nargs="*", metavar="ITEM", help="host, capture, steps ... (default: all not ok yet)")
    hour.add_argument("--engines", type=Path, metavar="FOLDER", help="a bundle for whole calls (default: none)")
    hour.add_argument("--aim", type=float, default=1e-3, help="relative error of whole calls (default: %(default)s)")
    hour.add_argument("--file", type=Path, default=Path("bench/gpu/hour.json"), help="results (default: %(default)s)")
    hour.set_defaults(run=_hour)
    latency = commands.add_parser("latency", help="whole calls by stage, cold and warm, against diffusers and OpenVINO")
    _add_latency_options(latency)
    quality = commands.add_parser("quality", help="how many generated sounds are recognised as what was asked for")
    _add_quality_options(quality)
    pareto = commands.add_parser("pareto", help="recognised sounds against the time of a call, of bundles and settings")
    _add_pareto_options(pareto)
    serve = commands.add_parser("serve", help="load on the service, against diffusers behind FastAPI")
    _add_serve_options(serve)
    edits = commands.add_parser("edits", help="what becomes of audio that is given, and loops, against naive ways")
    _add_edits_options(edits)
    for command in (step, cache, memory, on_gpu, hour, latency, quality, pareto, serve, edits):
        command.add_argument("--out", type=Path, default=Path("bench/results"), help="folder for the JSON")
    return parser


def _add_gpu_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--backend", choices=["tensorrt", "tensorrt-rtx", "onnx"], default="tensorrt", help="default: %(default)s")
    add("--precision", default="fp16", help="as `python -m export build` takes it (default: %(default)s)")
    add("--checkpoint", type=Path, help="folder in diffusers' layout (default: random weights at base size)")
    add("--engines", type=Path, help="a bundle built from --checkpoint (default: build one)")
    add("--steps", type=_at_least(2), nargs="+", default=[20, 200], help="denoising steps (default: 20 200)")
    add("--batch", type=_at_least(1), nargs="+", default=[1, 4], help="prompts at once (default: 1 4)")
    add("--runs", type=_at_least(1), default=10, help="timed calls of each (default: %(default)s)")
    add("--without", choices=["eager", "compile", "fp32"], nargs="+", default=[], help="rivals to leave out")
    parser.set_defaults(run=_gpu, error=parser.error)


def _add_latency_options(parser: argparse.ArgumentParser) -> None:
    from bench.latency.plan import NAMES

    add = parser.add_argument
    add("--checkpoint", type=Path, metavar="FOLDER", help="in diffusers' layout (default: random weights at base size)")
    add("--engines", type=Path, metavar="FOLDER", help="the bundle that was built from it (default: build one)")
    add("--fp16-engines", type=Path, metavar="FOLDER", help="one of OpenVINO's, for openvino-fp16 (default: left out)")
    add("--int8-engines", type=Path, metavar="FOLDER", help="one of INT8, for openvino-int8 (default: left out)")
    add("--int8-vocoder-engines", type=Path, metavar="FOLDER", help="one whose vocoder is too (default: left out)")
    add("--tensorrt-engines", type=Path, metavar="FOLDER", help="one for this GPU, for tensorrt (default: left out)")
    add("--start-engines", type=Path, metavar="FOLDER", help="a small bundle to start with (default: build the demo's)")
    chosen = "default: all that can run here"
    add("--contenders", choices=NAMES, nargs="+", metavar="NAME", help=f"of {', '.join(NAMES)} ({chosen})")
    add("--steps", type=_at_least(2), default=20, help="denoising steps (default: %(default)s)")
    add("--runs", type=_at_least(1), default=5, help="timed calls of each (default: %(default)s)")
    add("--quick", action="store_true", help="5 steps and 2 runs, whatever else is asked")
    add("--batch", type=_at_least(1), nargs="+", default=[1], help="prompts at once, for ours (default: 1)")
    add("--plot", type=Path, metavar="FILE", help="a picture of the stages, as PNG")
    add("--json", type=Path, metavar="FILE", help="where to write the JSON (default: a new file in --out)")
    parser.set_defaults(run=_latency)


def _add_quality_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--engines", type=Path, metavar="FOLDER", help="the bundle to judge")
    trip = "judge real sounds after the autoencoder and the vocoder of a folder in diffusers' layout instead"
    source.add_argument("--round-trip", type=Path, metavar="FOLDER", help=trip)
    add("--reference", type=Path, metavar="FOLDER", help="the bundle's checkpoint, to judge in diffusers as well")
    add("--seeds", type=_at_least(1), default=4, metavar="K", help="captions of each class (default: %(default)s)")
    add("--seed", type=_at_least(0), default=0, help="of captions and noise (default: %(default)s)")
    add("--seconds", type=float, default=2.56, help="length of a sound (default: %(default)s)")
    add("--only", nargs="+", metavar="CLASS", help="classes to ask for (default: all)")
    add("--steps", type=_at_least(1), help="denoising steps (default: 20)")
    add("--scheduler", metavar="NAME", help="such as DPMSolverMultistepScheduler (default: the checkpoint's)")
    add("--guidance", type=float, help="guidance scale (default: 3.5)")
    add("--negative", metavar="TEXT", help="negative prompt")
    add("--interval", type=float, nargs=2, metavar="SHARE", help="of the steps in which ours guides (default: 0 1)")
    add("--feature-cache", type=_at_least(1), metavar="N", help="whole UNet of ours at every N-th step (default: 1)")
    add("--sweep", action="store_true", help="a grid of schedulers, steps and guidance scales instead of one setting")
    add("--json", type=Path, metavar="FILE", help="where to write the JSON (default: a new file in --out)")
    parser.set_defaults(run=_quality)


def _add_pareto_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--engines", type=Path, nargs="+", required=True, metavar="FOLDER", help="bundles of sounds the judge knows")
    add("--seeds", type=_at_least(1), default=4, metavar="K", help="captions of each class (default: %(default)s)")
    add("--seed", type=_at_least(0), default=0, help="of captions and noise (default: %(default)s)")
    add("--seconds", type=float, default=2.56, help="length of a sound (default: %(default)s)")
    add("--runs", type=_at_least(1), default=11, help="timed calls of each (default: %(default)s)")
    add("--plot", type=Path, metavar="FILE", help="a picture, as PNG")
    add("--json", type=Path, metavar="FILE", help="where to write the JSON (default: a new file in --out)")
    parser.set_defaults(run=_pareto)


def _add_serve_options(parser: argparse.ArgumentParser) -> None:
    from bench.serve.plan import mix

    add = parser.add_argument
    add("--engines", type=Path, metavar="FOLDER", help="the bundle to serve")
    add("--checkpoint", metavar="FOLDER", help="of the same weights in diffusers' layout, or demo: for the rival")
    flags = "of trt-audioldm2-serve, as --serve-flags='--max-batch 4'; each time that it is given is one more server"
    add("--serve-flags", action="append", default=[], metavar="FLAGS", help=flags)
    left_out = "leave out ours with --max-batch 1 (plain), diffusers behind FastAPI (rival)"
    add("--without", choices=["plain", "rival"], nargs="+", default=[], help=left_out)
    add("--url", help="measure a server that runs, and start none")
    add("--api-key", metavar="KEY", help="of the server at --url")
    kinds = "SECONDSxSTEPS[:WEIGHT], several with commas between them (default: %(default)s)"
    add("--mix", type=mix, default="2.56x10:2,2.56x20:1,5.12x10:1", help=kinds)
    saturation = "requests a second (default: 0.25,0.5,0.75,0.9 of what the first server can at most)"
    add("--rates", type=_rates, metavar="RATE[,...]", help=saturation)
    add("--clients", type=_counts, default="1,2,4,8", metavar="N[,...]", help="back to back (default: %(default)s)")
    add("--seconds", type=_positive, default=20.0, help="of each load (default: %(default)s)")
    add("--seed", type=_at_least(0), default=0, help="of what is asked and when (default: %(default)s)")
    add("--overhead", action="store_true", help="instead: what a request costs beside a bare call, of the first kind")
    add("--plot", type=Path, metavar="FILE", help="a picture of latency and throughput, as PNG")
    add("--json", type=Path, metavar="FILE", help="where to write the JSON (default: a new file in --out)")
    parser.set_defaults(run=_serve)


def _add_edits_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--engines", type=Path, required=True, metavar="FOLDER", help="a bundle of the demo, whose sounds are judged")
    studies = "round_trip, variations, inpainting, continuation, long_form, loops or weights (default: all)"
    add("studies", nargs="*", metavar="STUDY", help=studies)
    add("--per-class", type=_at_least(1), default=2, metavar="K", help="sounds of each class (default: %(default)s)")
    add("--only", nargs="+", metavar="CLASS", help="classes to ask for (default: all)")
    add("--seed", type=_at_least(0), default=0, help="of the sounds (default: %(default)s)")
    add("--steps", type=_at_least(1), default=20, help="denoising steps (default: %(default)s)")
    add("--scheduler", default="dpmpp_2m", metavar="NAME", help="(default: %(default)s)")
    add("--plot", type=Path, metavar="FILE", help="a picture of the variations, as PNG")
    add("--json", type=Path, metavar="FILE", help="where to write the JSON (default: a new file in --out)")
    parser.set_defaults(run=_edits)


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    return number


def _positive(text: str) -> float:
    if not 0 < (value := number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"has to be above 0, got '{text}'")
    return value


def _rates(text: str) -> list[float]:
    return [_positive(part) for part in text.split(",")]


def _counts(text: str) -> list[int]:
    return [_at_least(1)(part) for part in text.split(",")]


def _step(options: argparse.Namespace) -> dict[str, Any]:
    from bench import step

    return step.run(options.runs, options.height)


def _kvcache(options: argparse.Namespace) -> dict[str, Any]:
    from bench import kvcache

    return kvcache.run(options.new_tokens, options.length)


def _memory(options: argparse.Namespace) -> dict[str, Any]:
    from bench import memory

    return memory.run(options.checkpoint, options.engines, options.durations, options.num_waveforms)


def _hour(options: argparse.Namespace) -> dict[str, Any]:
    from bench.gpu import hour

    return hour.run(options)


def _gpu(options: argparse.Namespace) -> dict[str, Any]:
    if options.engines and not options.checkpoint:
        options.error("--engines needs --checkpoint: the rivals have to run the same weights")
    from bench.gpu import contest

    return contest.run(options)


def _latency(options: argparse.Namespace) -> dict[str, Any]:
    from bench.latency import contest

    return contest.run(options)


def _edits(options: argparse.Namespace) -> dict[str, Any]:
    from bench.edits import studies

    return studies.run(options)


def _quality(options: argparse.Namespace) -> dict[str, Any]:
    if options.round_trip and options.reference:
        raise InputError("--reference stands beside --engines: --round-trip needs neither")
    from bench import quality

    return quality.run(options)


def _pareto(options: argparse.Namespace) -> dict[str, Any]:
    from bench import pareto

    return pareto.run(options)


def _serve(options: argparse.Namespace) -> dict[str, Any]:
    from bench.serve.check import check

    check(options)
    from bench.serve import contest  # needs what was just checked

    return contest.run(options)


if __name__ == "__main__":
    sys.exit(main())
