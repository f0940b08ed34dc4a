"""What `python -m export` does: build a bundle, verify one, or say what one is."""

import argparse
import gc
import logging
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import get_args

from runtime.bundle.choice import ENGINES_FOLDER
from runtime.bundle.schema import Precision
from runtime.console import Console, open_streams, status_of, stoppable
from runtime.flags import Parser
from runtime.install import install_command
from runtime.wording import last_words

DESCRIPTION = "Bundles for trt-audioldm2 from checkpoints of AudioLDM2."
BACKENDS = {  # name: its `export.maker.Maker`, which is not imported before a build needs it
    "onnx": "export.engines_onnx:ONNX",
    "openvino": "export.engines_openvino:OPENVINO",
    "tensorrt": "export.engines_tensorrt:TENSORRT",
    "tensorrt-rtx": "export.engines_tensorrt:TENSORRT_RTX",
}
AUTO = "auto"
DEMO_CAPTIONS = 60  # of each class, for the demo to be distilled with
EXPORT_PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "filelock", "huggingface_hub")


def run(arguments: list[str]) -> int:
    """Do what a command line says. Returns the exit status; raises SystemExit with 2 for a wrong command line."""
    open_streams()
    options = _parser().parse_args(arguments)
    console = Console(sys.stdout)
    with stoppable(), console.warnings(debug=options.debug):
        try:
            options.run(options, console)
            status = 0
        except KeyboardInterrupt as interrupt:
            console.note("interrupted: nothing was left half-built")
            status = status_of(interrupt)
        except Exception as error:  # whatever it is, a user sees one line
            if options.debug:
                console.note("".join(traceback.format_exception(error)).rstrip())
            console.error(_words(error, options.doing))
            status = 1
    return console.exit_status(status)


def _words(error: Exception, doing: str) -> str:
    """The one line that a user sees of an error."""
    if isinstance(error, ModuleNotFoundError) and error.name in EXPORT_PACKAGES:
        return f"{doing} needs the export packages: {install_command('cpu', 'export')}"
    return last_words(error)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m export", description=DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="build | verify | inspect | distill")
    build = commands.add_parser("build", help="build a bundle from a checkpoint", allow_abbrev=False)
    _add_checkpoint(build.add_argument)
    lora = "merge this LoRA's weights (safetensors); may be given again"
    build.add_argument("--lora", action="append", default=[], metavar="FILE[:SCALE]", help=lora)
    build.add_argument("--out", type=Path, help=f"the bundle's folder (default: {ENGINES_FOLDER}/NAME)")
    formats = "engine format (default: onnx); auto: what suits this machine"
    build.add_argument("--backend", choices=(*BACKENDS, AUTO), default="onnx", help=formats)
    build.add_argument("--precision", choices=get_args(Precision), help="(default: fp32; openvino: fp16)")
    build.add_argument(
        "--only-missing", action="store_true", help="add the engines that an earlier bundle at --out lacks, no more"
    )
    build.add_argument(
        "--max-error",
        type=float,
        default=0.02,
        metavar="X",
        help="int8, fp8: relative error above which an engine stays in fp16 (default: %(default)s)",
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
    distill = commands.add_parser("distill", help="teach a checkpoint to do with few steps", allow_abbrev=False)
    _add_checkpoint(distill.add_argument)  # the teacher
    _add_distilling(distill.add_argument)
    distill.set_defaults(run=_distill, doing="distilling")
    for command in (build, verify, inspect, distill):
        command.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return parser


def _add_checkpoint(add: Callable[..., argparse.Action]) -> None:
    add("--checkpoint", required=True, help="hub id, folder in diffusers layout, or 'demo'")
    add("--revision", help="branch, tag or commit of a hub checkpoint")
    add("--variant", metavar="NAME", help="weights of this variant, such as fp16, where there are some")


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


def _add_distilling(add: Callable[..., argparse.Action]) -> None:
    add("--out", type=Path, required=True, metavar="CHECKPOINT", help="the student's folder")
    add("--steps", type=int, default=4, metavar="N", help="of the student (default: %(default)s)")
    add("--prompts", type=Path, metavar="FILE", help="what to ask the teacher for, one a line (demo: its own captions)")
    add("--teacher-steps", type=int, default=20, metavar="N", help="at least (default: %(default)s)")
    add("--guidance-scale", type=float, default=3.5, metavar="X", help="taken into the student (default: %(default)s)")
    add("--duration", type=float, metavar="SECONDS", help="of what the teacher makes (default: the checkpoint's)")
    add("--iterations", type=int, default=4000, metavar="N", help="of training (default: %(default)s)")
    add("--batch", type=int, default=32, metavar="N", help="sounds of an iteration (default: %(default)s)")
    add("--learning-rate", type=float, default=1e-4, metavar="X", help="(default: %(default)s)")
    add("--minutes", type=float, default=1e9, metavar="N", help="stop training after these; another call goes on")
    add("--trajectories", type=Path, metavar="FOLDER", help="what the teacher did, for several students (default: own)")
    add("--start", type=Path, metavar="CHECKPOINT", help="begin with its UNet, such as a student's of more steps")
    add("--device", default="cpu", metavar="NAME", help="of teacher and student: cpu or cuda (default: %(default)s)")


def _distill(options: argparse.Namespace, console: Console) -> None:
    from export.build import DEMO, open_checkpoint
    from export.demo.sounds.clip import captions
    from export.distill.distill import Lesson, distill
    from export.errors import BuildError

    _quiet_libraries()
    if options.prompts is not None:
        prompts = [line.strip() for line in options.prompts.read_text().splitlines() if line.strip()]
    elif options.checkpoint == DEMO:
        prompts = captions(DEMO_CAPTIONS, seed=77)
    else:
        raise BuildError("--prompts is missing: a file with what the teacher is asked for, one a line")
    lesson = Lesson(
        steps=options.steps,
        teacher_steps=options.teacher_steps,
        guidance_scale=options.guidance_scale,
        duration_s=options.duration,
        iterations=options.iterations,
        batch=options.batch,
        learning_rate=options.learning_rate,
        minutes=options.minutes,
        device=options.device,
        trajectories=options.trajectories,
        start=options.start,
    )
    checkpoint = open_checkpoint(options.checkpoint, options.revision, options.variant)
    done = distill(checkpoint, prompts, lesson, options.out, console.say)
    console.say(f"wrote {options.out}" + ("" if done else ", not taught all yet: the same command goes on"))


def _build(options: argparse.Namespace, console: Console) -> None:
    from export.destination import resolve_destination

    if options.out is not None:
        resolve_destination(options.out)  # before torch is imported, which takes seconds, and anything is downloaded
    from export.build import build, open_checkpoint
    from export.lora import name_of
    from export.maker import Maker, TensorRTOptions
    from export.target import Target

    _quiet_libraries()
    if options.backend == AUTO:
        from export.choice import choose

        chosen = choose()
        options.backend, options.precision = chosen.backend, options.precision or chosen.precision
        console.say(f"--backend {chosen.backend} --precision {options.precision}: {chosen.why}")
    maker: Maker = resolve_name(BACKENDS[options.backend])
    target = Target(
        maker=maker,
        precision=options.precision or maker.precisions[0],
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
    out = options.out
    if out is None:
        merged = "".join(f"-{name_of(lora)}" for lora in options.lora)
        out = Path(ENGINES_FOLDER) / (_bundle_name(options.checkpoint) + merged + target.suffix)
        resolve_destination(out)
    checkpoint = open_checkpoint(options.checkpoint, options.revision, options.variant, options.lora)
    gc.freeze()  # what was imported stays: every collection of the build would walk it
    build(checkpoint, out, target, console.say, only_missing=options.only_missing)
    console.say(f"built {out}")


def _verify(options: argparse.Namespace, console: Console) -> None:
    from export.build import open_checkpoint, verify
    from runtime.bundle import Bundle

    _quiet_libraries()
    bundle = Bundle.read(options.bundle)
    made_from = bundle.manifest.checkpoint
    revision = made_from.revision if options.checkpoint is None else None
    gc.freeze()
    loras = [f"{lora.path}:{lora.scale}" for lora in made_from.loras]
    checkpoint = open_checkpoint(options.checkpoint or made_from.id, revision, made_from.variant, loras)
    verify(bundle, checkpoint, console.say)
    console.say(f"verified {options.bundle}")


def _inspect(options: argparse.Namespace, console: Console) -> None:
    from export.inspect import describe, describe_layers
    from runtime.bundle import Bundle

    bundle = Bundle.read(options.bundle)
    console.say(describe_layers(bundle) if options.layers else describe(bundle))


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
