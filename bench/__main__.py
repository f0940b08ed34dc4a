"""`python -m bench step`: run one benchmark, print its table, end in one JSON line."""

import argparse
import sys
from pathlib import Path

from bench import step
from bench.report import write_result


def main() -> int:
    """Run the benchmark that is named."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="step", dest="name")
    one = commands.add_parser("step", help="one guided UNet step at base size, against eager diffusers FP32")
    one.add_argument("--runs", type=int, default=15, help="timed runs of each (default: %(default)s)")
    one.add_argument("--height", type=int, default=256, help="latent height, 25 a second (default: %(default)s)")
    one.add_argument("--out", type=Path, default=Path("bench/results"), help="folder for the JSON")
    options = parser.parse_args()
    result = step.run(options.runs, options.height)
    print(write_result(options.out, options.name, result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
