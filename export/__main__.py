"""`python -m export build | verify | inspect`: bundles from checkpoints, on the command line."""

import argparse
import logging
import re
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path

from export.console import ended_by_signals, run

BACKENDS = ("onnx", "openvino", "tensorrt", "tensorrt-rtx")
EXPORT_PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "filelock", "huggingface_hub")


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments and run one command.

    Returns the exit status: 0, 1 for an error, 130 for Ctrl-C. SIGTERM raises SystemExit(143) once all is cleaned up.
    """
    if (stranger := _stranger()) is not None:
        print(f"error: {stranger} hides our package 'runtime': rename it, or work in another folder", file=sys.stderr)
        return 1
    options = _parser().parse_args(arguments)
    try:
        with ended_by_signals():
            options.run(options)
    except KeyboardInterrupt:
        print("interrupted: nothing was left half-built", file=sys.stderr)
        return 130
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {_words(error, options.doing)}", file=sys.stderr)
        return 1
    return 0


def _stranger() -> str | None:
    """What Python would import as `runtime` in place of ours, which lies beside this package; None if nothing.

    `python -m` looks into the working folder first, and finds a file runtime.py there.
    """
    ours = Path(__file__).resolve().parent.parent / "runtime" / "__init__.py"
    found = find_spec("runtime")
    if found is None or (found.origin is not None and Path(found.origin).resolve() == ours):
        return None
    return found.origin or next(iter(found.submodule_search_locations or []), "something")


def _words(error: Exception, doing: str) -> str:
    """The one line that a user sees of an error."""
    from runtime.errors import AudioLDM2Error  # here, as all of `runtime`: only once it is known to be ours
    from runtime.install import install_command

    if isinstance(error, ModuleNotFoundError) and error.name in EXPORT_PACKAGES:
        return f"{doing} needs the export packages: {install_command('cpu', 'export')}"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, AudioLDM2Error):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory: {first}" if first else "out of memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {first or 'no reason given'} (--debug prints where it came from)"


def _parser() -> argparse.ArgumentParser:
    from runtime.flags import Parser

    parser = Parser(prog="python -m export", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="build | verify | inspect")
    build = commands.add_parser("build", help="build a bundle from a checkpoint", allow_abbrev=False)
    build.add_argument("--checkpoint", required=True, help="hub id, folder in diffusers layout, or 'demo'")
    build.add_argument("--revision", help="branch, tag or commit of a hub checkpoint")
    build.add_argument("--variant", metavar="NAME", help="weights of this variant, such as fp16, where there are some")
    build.add_argument("--out", type=Path, help="the bundle's folder (default: engines/NAME)")
    build.add_argument("--backend", choices=BACKENDS, default="onnx", help="engine format (default: onnx)")
    build.add_argument("--precision", choices=["fp32", "fp16", "bf16", "int8"], help="(default: fp32; openvino: fp16)")
    build.add_argument(
        "--max-error",
        type=float,
        default=0.02,
        metavar="X",
        help="int8: relative error above which an engine stays in fp16 (default: %(default)s)",
    )
    _add_builder_options(build.add_argument_group("for tensorrt and tensorrt-rtx"))
    build.set_defaults(run=_build, doing="building")
    verify = commands.add_parser("verify", help="compare a bundle with its checkpoint again", allow_abbrev=False)
    verify.add_argument("bundle", type=Path)
    verify.add_argument("--checkpoint", help="where the checkpoint is (default: as the manifest says)")
    verify.set_defaults(run=_verify, doing="verifying")
    inspect = commands.add_parser("inspect", help="print what a bundle is", allow_abbrev=False)
    inspect.add_argument("bundle", type=Path)
    inspect.add_argument("--layers", action="store_true", help="print each engine's layers and their precisions")
    inspect.set_defaults(run=_inspect, doing="inspecting")
    for command in (build, verify, inspect):
        command.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return parser


def _add_builder_options(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--max-waveforms", type=int, default=4, metavar="N", help="most waveforms of one call (default: %(default)s)")
    add("--max-duration", type=float, default=30.0, metavar="SECONDS", help="longest audio (default: %(default)s)")
    add("--workspace", type=float, metavar="GIB", help="memory that the builder's tactics may use (default: all)")
    add("--optimization-level", type=int, choices=range(6), metavar="0-5", help="(default: the library's)")
    add("--version-compatible", action="store_true", help="engines for later versions of the library too")
    add("--hardware-compatible", action="store_true", help="engines for every GPU from compute capability 8.0 on")
    add("--refit", action="store_true", help="engines whose weights can be replaced")
    add("--weight-streaming", action="store_true", help="weights may stay in host memory, for small cards")
    add(
        "--compute-capability",
        action="append",
        default=[],
        metavar="X.Y",
        help="RTX: build for this one; may be given again",
    )


def _build(options: argparse.Namespace) -> None:
    from export.build import build, open_checkpoint
    from export.destination import resolve_destination
    from export.target import Target, TensorRTOptions
    from runtime.bundle.choice import ENGINES_FOLDER

    _quiet_libraries()
    target = Target(
        backend=options.backend,
        precision=options.precision or ("fp16" if options.backend == "openvino" else "fp32"),
        max_error=options.max_error,
        options=TensorRTOptions(
            max_waveforms=options.max_waveforms,
            max_duration_s=options.max_duration,
            workspace_bytes=None if options.workspace is None else int(options.workspace * 2**30),
            optimization_level=options.optimization_level,
            version_compatible=options.version_compatible,
            hardware_compatible=options.hardware_compatible,
            refittable=options.refit,
            weight_streaming=options.weight_streaming,
            compute_capabilities=tuple(options.compute_capability),
        ),
    )
    out = (
        options.out
        if options.out is not None
        else Path(ENGINES_FOLDER) / (_bundle_name(options.checkpoint) + target.suffix)
    )
    resolve_destination(out)  # before anything is downloaded
    build(open_checkpoint(options.checkpoint, options.revision, options.variant), out, target)
    print(f"built {out}")


def _verify(options: argparse.Namespace) -> None:
    from export.build import open_checkpoint, verify
    from runtime.bundle import Bundle

    _quiet_libraries()
    bundle = Bundle.read(options.bundle)
    made_from = bundle.manifest.checkpoint
    revision = made_from.revision if options.checkpoint is None else None
    verify(bundle, open_checkpoint(options.checkpoint or made_from.id, revision, made_from.variant))
    print(f"verified {options.bundle}")


def _inspect(options: argparse.Namespace) -> None:
    from export.inspect import describe, describe_layers
    from runtime.bundle import Bundle

    bundle = Bundle.read(options.bundle)
    print(describe_layers(bundle) if options.layers else describe(bundle))


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
    sys.exit(run(main))
