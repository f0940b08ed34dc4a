"""`python -m bench step | kvcache`: run one benchmark, print its table, end in one JSON line."""

import argparse
import sys
from pathlib import Path

from bench import kvcache, step
from bench.report import write_result


def main() -> int:
    """Run the benchmark that is named."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="step | kvcache", dest="name")
    one = commands.add_parser("step", help="one guided UNet step at base size, against eager diffusers FP32")
    one.add_argument("--runs", type=int, default=15, help="timed runs of each (default: %(default)s)")
    one.add_argument("--height", type=int, default=256, help="latent height, 25 a second (default: %(default)s)")
    one.set_defaults(run=lambda options: step.run(options.runs, options.height))
    cache = commands.add_parser("kvcache", help="GPT2's new embeddings at base size, with the cache and without")
    cache.add_argument("--new-tokens", type=int, default=512, help="embeddings to make (default: %(default)s)")
    cache.add_argument("--length", type=int, default=24, help="positions of the prompt (default: %(default)s)")
    cache.set_defaults(run=lambda options: kvcache.run(options.new_tokens, options.length))
    for command in (one, cache):
        command.add_argument("--out", type=Path, default=Path("bench/results"), help="folder for the JSON")
    options = parser.parse_args()
    result = options.run(options)
    print(write_result(options.out, options.name, result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
