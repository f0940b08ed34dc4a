"""`python -m export.demo.sounds --out FOLDER`: write clips as WAV files, and captions.jsonl beside them."""

import argparse
import json
import sys
import traceback
from pathlib import Path

import soundfile

from export.demo.sounds import CLASSES, SAMPLE_RATE_HZ, SPLITS, SYNTHESISED_CLASSES, draw, generator
from runtime.errors import AudioLDM2Error


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments and write. Returns the exit status: 0, or 1 for a known error."""
    options = _parser().parse_args(arguments)
    try:
        count = write(options)
    except (AudioLDM2Error, OSError) as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{count} clips in {options.out}")
    return 0


def write(options: argparse.Namespace) -> int:
    """Write the clips that the options ask for. Returns how many."""
    options.out.mkdir(parents=True, exist_ok=True)
    count = 0
    with (options.out / "captions.jsonl").open("w", encoding="utf-8") as captions:
        for name in options.only or (SYNTHESISED_CLASSES if options.synthesised else CLASSES):
            rng = generator(name, options.seed)
            for index in range(options.per_class):
                clip = draw(name, rng, options.split, options.seconds)
                file = f"{name}-{index:04d}.wav"
                soundfile.write(options.out / file, clip.audio, SAMPLE_RATE_HZ, subtype="PCM_16")
                line = {"file": file, "class": name, "caption": clip.caption, "settings": dict(clip.settings)}
                captions.write(json.dumps(line) + "\n")
                count += 1
    return count


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export.demo.sounds", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FOLDER")
    add("--per-class", type=int, default=8, metavar="N", help="clips of each class (default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--seconds", type=float, default=2.56, help="length of a clip (default: %(default)s)")
    add("--split", choices=SPLITS, default="train", help="(default: %(default)s)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", choices=CLASSES, metavar="CLASS", help=", ".join(CLASSES))
    which.add_argument("--synthesised", action="store_true", help="only classes that need no other program")
    add("--debug", action="store_true", help="print the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
