"""`python -m export build | verify | inspect`: bundles from checkpoints, on the command line."""

import argparse
import logging
import re
import sys
import traceback
from pathlib import Path

from runtime.bundle import ENGINES_FOLDER, Bundle
from runtime.errors import AudioLDM2Error

EXPORT_PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime")


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, run one command. Returns the exit status: 0, 1 for a known error, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("interrupted: nothing was left half-built", file=sys.stderr)
        return 130
    except (AudioLDM2Error, OSError, MemoryError) as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {error or 'out of memory'}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name not in EXPORT_PACKAGES:
            raise
        print("error: building needs the export packages: pip install 'trt-audioldm2[export]'", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="build | verify | inspect")
    build = commands.add_parser("build", help="build a bundle from a checkpoint", allow_abbrev=False)
    build.add_argument("--checkpoint", required=True, help="hub id, folder in diffusers layout, or 'demo'")
    build.add_argument("--revision", help="branch, tag or commit of a hub checkpoint")
    build.add_argument("--out", type=Path, help=f"the bundle's folder (default: {ENGINES_FOLDER}/NAME)")
    build.add_argument("--backend", choices=["onnx"], default="onnx", help="engine format (default: onnx)")
    build.set_defaults(run=_build)
    verify = commands.add_parser("verify", help="compare a bundle with its checkpoint again", allow_abbrev=False)
    verify.add_argument("bundle", type=Path)
    verify.add_argument("--checkpoint", help="where the checkpoint is (default: as the manifest says)")
    verify.set_defaults(run=_verify)
    inspect = commands.add_parser("inspect", help="print what a bundle is", allow_abbrev=False)
    inspect.add_argument("bundle", type=Path)
    inspect.set_defaults(run=_inspect)
    for command in (build, verify, inspect):
        command.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return parser


def _build(options: argparse.Namespace) -> None:
    from export.build import build, open_checkpoint

    _quiet_libraries()
    out = options.out or Path(ENGINES_FOLDER) / _bundle_name(options.checkpoint)
    with open_checkpoint(options.checkpoint, options.revision) as checkpoint:
        build(checkpoint, out)
    print(f"built {out}")


def _verify(options: argparse.Namespace) -> None:
    from export.build import open_checkpoint, verify

    _quiet_libraries()
    bundle = Bundle.read(options.bundle)
    made_from = bundle.manifest.checkpoint
    revision = made_from.revision if options.checkpoint is None else None
    with open_checkpoint(options.checkpoint or made_from.id, revision) as checkpoint:
        verify(bundle, checkpoint)
    print(f"verified {options.bundle}")


def _inspect(options: argparse.Namespace) -> None:
    from export.inspect import describe

    print(describe(Bundle.read(options.bundle)))


def _bundle_name(checkpoint: str) -> str:
    return re.sub(
        r"[^\w.-]+", "-", Path(checkpoint).resolve().name if Path(checkpoint).is_dir() else checkpoint.split("/")[-1]
    )


def _quiet_libraries() -> None:
    """Loading bars and notes of the libraries would bury our own lines."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
