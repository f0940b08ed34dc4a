"""`trt-audioldm2-bench`: how fast bundles are on this machine, alone or side by side."""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from runtime.bench.contest import contest, sizes_of
from runtime.bench.figures import figures, plot, table
from runtime.bench.subject import Setup
from runtime.bundle import find_bundle, preferred_backend
from runtime.bundle.bundle import Bundle
from runtime.errors import AudioLDM2Error, InputError
from runtime.flags import Parser, check_counts, number, numbers, whole
from runtime.install import installed_versions
from runtime.options import SCHEDULERS, add_machine, pipeline_options
from runtime.presets import PRESETS
from runtime.wording import last_words

FAST = PRESETS["fast"]
PROMPT = "A church bell rings in the distance"
PACKAGES = ("trt-audioldm2", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")
DESCRIPTION = """Time calls of bundles on this machine: opening, the first sound, later ones by stage, and memory.
Each bundle runs in a process of its own; with several, or several backends, their calls alternate."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table. Returns 0, 1 with one line on standard error where that fails, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    except (AudioLDM2Error, OSError) as error:
        print(f"error: {last_words(error)}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="trt-audioldm2-bench", description=DESCRIPTION)
    add = parser.add_argument
    bundle = "a bundle; give several to compare (default: $TRT_AUDIOLDM2_ENGINES, or the only one in engines/)"
    add("--engines", action="append", metavar="FOLDER", help=bundle)
    add_machine(add, backends=True)
    add("--runs", type=whole, default=10, metavar="N", help="timed calls of each size (default: %(default)s)")
    add("--warm-up", type=whole, default=1, metavar="N", help="calls after the first, not counted (default: 1)")
    add("--num-waveforms", type=numbers, default=[1.0], metavar="N[,N...]", help="of a call (default: 1)")
    add("--duration", type=numbers, default=[None], metavar="SECONDS[,...]", help="(default: the checkpoint's)")
    add(
        "--steps",
        type=whole,
        default=FAST.steps,
        metavar="N",
        help="denoising steps (default: %(default)s)",
    )
    add("--scheduler", default=FAST.scheduler, metavar="NAME", help=f"{SCHEDULERS} (default: %(default)s)")
    add("--guidance-scale", type=number, default=3.5, metavar="X", help="(default: %(default)s)")
    add("--prompt", default=PROMPT, metavar="TEXT", help="its takes are numbered, so that each is encoded")
    add("--json", type=Path, metavar="FILE", help="write all figures")
    add("--plot", type=Path, metavar="FILE", help="draw the stages, as PNG (extra: plot)")
    add("--quiet", "-q", action="store_true", help="print the table only")
    return parser


def _run(options: argparse.Namespace) -> int:
    check_counts(options, "--threads", "--runs")
    waveforms = [int(count) for count in options.num_waveforms]
    if min(waveforms) < 1 or waveforms != options.num_waveforms:
        raise InputError("--num-waveforms has to be whole numbers from 1 on")
    for path in (options.json, options.plot):
        if path is not None and not path.absolute().parent.is_dir():
            raise InputError(f"{path} cannot be written: its folder does not exist")
    if options.plot is not None:
        from runtime.sound.plot import check_plot

        check_plot()
    call = {
        "prompt": options.prompt,
        "num_inference_steps": options.steps,
        "scheduler": options.scheduler,
        "guidance_scale": options.guidance_scale,
    }
    starts, rows = contest(
        _setups(options),
        list(sizes_of(waveforms, options.duration)),
        call,
        warm_up=options.warm_up,
        runs=options.runs,
        say=(lambda _: None) if options.quiet else lambda line: print(line, file=sys.stderr, flush=True),
    )
    found = {"call": call, "runs": options.runs, **figures(starts, rows), "machine": _machine()}
    print(table(found))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.plot is not None:
        plot(found, options.plot)
    return 0 if all(row.failed is None for row in rows) else 1


def _setups(options: argparse.Namespace) -> list[Setup]:
    """Each bundle with each backend."""
    folders = options.engines or [str(find_bundle(None, os.environ, options.device))]
    setups = []
    for folder in folders:
        bundle = Bundle.read(folder)
        for backend in options.backend or [preferred_backend(bundle, os.environ)]:
            setups.append(Setup(folder, {**pipeline_options(options), "backend": backend}))
    return setups


def _machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": installed_versions(*PACKAGES),
        "date": time.strftime("%Y-%m-%d"),
    }
