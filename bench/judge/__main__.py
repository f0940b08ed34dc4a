"""`python -m bench.judge --out FILE`: train the judge on rendered sounds and say how well it knows others of them."""

import argparse
import sys
import traceback
from pathlib import Path

import torch

from bench.figures import confusions_line, percent, recognition
from bench.judge import load_judge, save_judge
from bench.judge.training import train
from bench.sounds import real_clips
from export.demo.sounds import CLASSES, SAMPLE_RATE_HZ
from runtime.errors import AudioLDM2Error


def main(arguments: list[str] | None = None) -> int:
    """Train, write, report. Returns the exit status: 0, or 1 for a known error."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    try:
        judge, steps = train(options.clips_per_class, options.seed, options.minutes)
        notes = {"clips_per_class": options.clips_per_class, "seed": options.seed, "steps": steps}
        save_judge(judge, options.out, **notes)
        report(options.out, options.examined, options.seed)
    except (AudioLDM2Error, OSError) as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def report(file: Path, per_class: int, seed: int) -> None:
    """Print how many held-out clips the judge in `file` recognises, at each of some lengths."""
    judge = load_judge(file)
    size = sum(parameter.numel() for parameter in judge.network.parameters())
    print(f"{file}: {size} parameters, {file.stat().st_size / 1e6:.2f} MB; chance is {percent(1 / len(CLASSES))}")
    for seconds in (2.56, 2.0, 5.12, 10.0):
        clips = real_clips(CLASSES, per_class, seed, seconds)
        found = recognition(judge.recognise(clips.audios, SAMPLE_RATE_HZ), clips.names, judge.classes)
        low, high = found["interval"]
        print(f"{seconds:g} s: {percent(found['rate'])} of {len(clips.names)} ({percent(low)} to {percent(high)})")
        worst = [f"{name} {percent(rate)}" for name, rate in sorted(found["by_class"].items(), key=lambda i: i[1])[:8]]
        print(f"  worst classes: {', '.join(worst)}")
        print(f"  taken for: {confusions_line(found)}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.judge", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FILE", help="a .safetensors file")
    add("--clips-per-class", type=int, default=200, metavar="N", help="to train on (default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--minutes", type=float, default=10.0, help="of training, drawing aside (default: %(default)s)")
    add("--examined", type=int, default=20, metavar="N", help="held-out clips of each class (default: %(default)s)")
    add("--debug", action="store_true", help="print the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
