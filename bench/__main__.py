"""`python -m bench step | kvcache | memory`: run one benchmark, print its table, end in one JSON line."""

import argparse
import sys
from pathlib import Path
from typing import Any

from bench.report import write_result


def main() -> int:
    """Run the benchmark that is named."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="step | kvcache | memory", dest="name")
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
    for command in (step, cache, memory):
        command.add_argument("--out", type=Path, default=Path("bench/results"), help="folder for the JSON")
    options = parser.parse_args()
    print(write_result(options.out, options.name, options.run(options)))
    return 0


def _step(options: argparse.Namespace) -> dict[str, Any]:
    from bench import step

    return step.run(options.runs, options.height)


def _kvcache(options: argparse.Namespace) -> dict[str, Any]:
    from bench import kvcache

    return kvcache.run(options.new_tokens, options.length)


def _memory(options: argparse.Namespace) -> dict[str, Any]:
    from bench import memory

    return memory.run(options.checkpoint, options.engines, options.durations, options.num_waveforms)


if __name__ == "__main__":
    sys.exit(main())
