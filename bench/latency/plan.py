"""Who takes part in a run, and what each needs: it is checked first, then built."""

import argparse
import json
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from bench.configs import BASE
from bench.processes import run_python
from bench.report import gpu
from bench.rivals import random_checkpoint
from runtime.bundle.manifest import MANIFEST
from runtime.errors import InputError
from runtime.sound.plot import check_plot

EXACT = "diffusers-fp32"  # what all are compared with
SWAPPED = "diffusers-openvino"
RIVALS = {  # by name: precision of the weights, None where OpenVINO chooses
    EXACT: "fp32",
    "diffusers-bf16": "half",
    "diffusers-compile": "half",
    SWAPPED: None,
}


class Way(NamedTuple):
    """One way to run our pipeline."""

    backend: str
    asked_precision: str
    precision: str | None  # of its products
    bundle: str | None = None  # the option that has its bundle, if it is one of its own
    steps: int | None = None  # instead of the run's
    guided: bool = True


OURS = {
    "onnxruntime": Way("onnxruntime", "auto", "fp32"),
    "openvino": Way("openvino", "auto", None),
    "openvino-fp16": Way("openvino", "auto", None, "fp16_engines"),  # weights in half the space
    "openvino-fp32": Way("openvino", "fp32", "fp32"),
    "openvino-int8": Way("openvino", "auto", "int8", "int8_engines"),
    "openvino-int8-5-steps": Way("openvino", "auto", "int8", "int8_engines", steps=5),
    "openvino-int8-vocoder": Way("openvino", "auto", "int8", "int8_vocoder_engines"),
    **{  # as students of few steps run; what they cost is the same whatever the weights are
        f"openvino-student-{steps}": Way("openvino", "auto", "int8", "int8_vocoder_engines", steps, guided=False)
        for steps in (4, 2, 1)
    },
    "tensorrt": Way("auto", "auto", "fp16", "tensorrt_engines"),
}
# turns are taken in this order: where memory is short those that are compared most are in it together
NAMES = (
    *(EXACT, "openvino-fp16", "diffusers-bf16", SWAPPED, "openvino-int8", "tensorrt", "onnxruntime"),
    *("openvino-int8-vocoder", "openvino-student-4", "openvino-student-2", "openvino-student-1"),
    *("openvino-int8-5-steps", "openvino", "diffusers-compile", "openvino-fp32"),
)
BASE_LATENTS = [8, 256, 16]


@dataclass
class Plan:
    """Who takes part, and what is needed to open each of them."""

    names: list[str]
    device: str
    work: Path
    checkpoint: Path
    bundles: dict[str, Path] = field(default_factory=dict)  # of ours, by name
    start_bundle: Path | None = None
    prepared_s: dict[str, float] = field(default_factory=dict)  # seconds to build or convert, once
    failed: dict[str, str] = field(default_factory=dict)  # contenders that could not be prepared

    @property
    def ours(self) -> list[str]:
        """The names of our own contenders."""
        return [name for name in self.names if name in OURS]

    @property
    def half(self) -> str:
        """The half precision that suits this device."""
        return "bf16" if self.device == "cpu" else "fp16"

    @property
    def swapped(self) -> str:
        """The folder of the models that are converted for the swapped pipeline."""
        return str(self.work / "swapped")

    def case(self, name: str) -> dict[str, Any]:
        """What the process of a contender is told."""
        common = {"ours": name in OURS, "device": self.device, "latents": latent_shape(self.checkpoint)}
        if name in OURS:
            return {**common, **OURS[name]._asdict(), "engines": str(self.bundles[name])}
        precision = self.half if RIVALS[name] == "half" else RIVALS[name]
        swapped = self.swapped if name == SWAPPED else None
        compiled = str(self.work / "inductor") if name == "diffusers-compile" else None
        extras = {"swapped": swapped, "compiled": compiled}
        return {**common, **extras, "precision": precision, "checkpoint": str(self.checkpoint)}

    def start_case(self, name: str) -> dict[str, Any]:
        """The same for the small bundle whose start is timed. Its latents have another size: it draws its own."""
        return {**self.case(name), "engines": str(self.start_bundle), "latents": None}


def check(options: argparse.Namespace) -> list[str]:
    """The contenders to run, in the order of their turns. Raises InputError for what cannot be asked here."""
    if (options.checkpoint is None) != (options.engines is None):
        raise InputError("--checkpoint and --engines go together: the rivals have to run the same weights")
    if options.checkpoint and not (options.checkpoint / "model_index.json").is_file():
        raise InputError(f"{options.checkpoint} is no checkpoint in diffusers' layout: it has no model_index.json")
    own = [getattr(options, way.bundle) for way in OURS.values() if way.bundle]
    for folder in (options.engines, *own, options.start_engines):
        if folder and not (folder / MANIFEST).is_file():
            raise InputError(f"{folder} is no bundle: it has no {MANIFEST}")
    if options.plot:
        check_plot()
    lacking = {name: lack for name in NAMES if (lack := _lacks(name, options))}
    for name in options.contenders or ():
        if name in lacking:
            raise InputError(f"{name} cannot run here: {lacking[name]}")
    return [name for name in NAMES if name in (options.contenders or NAMES) and name not in lacking]


def _lacks(name: str, options: argparse.Namespace) -> str | None:
    """What a contender needs and does not have."""
    if name in OURS and (bundle := OURS[name].bundle) and getattr(options, bundle) is None:
        return f"it needs --{bundle.replace('_', '-')}"
    if name == "tensorrt":
        return None if gpu() else "there is no NVIDIA GPU"
    if "openvino" in name and gpu() is not None:
        return "its models run on the CPU, the others on this machine's GPU"
    needed = "openvino" if "openvino" in name else "onnxruntime"
    modules = (
        (needed,) if name in OURS else ("torch", "diffusers", "transformers", *([needed] if name == SWAPPED else []))
    )
    missing = [module for module in modules if find_spec(module) is None]
    return f"{', '.join(missing)} not installed" if missing else None


def prepare(options: argparse.Namespace, names: list[str], work: Path) -> Plan:
    """Build and convert what was not given. A contender whose part cannot be built has its error in the plan."""
    device = "cpu" if gpu() is None else "cuda"
    plan = Plan(names, device, work, options.checkpoint or random_checkpoint(work / "checkpoint"))
    engines, start = options.engines or work / "engines", options.start_engines or work / "demo"
    plan.bundles = {name: getattr(options, OURS[name].bundle or "", engines) for name in plan.ours}
    plan.start_bundle = start
    build, checkpoint = ("-m", "export", "build"), str(plan.checkpoint)
    built = [name for name, bundle in plan.bundles.items() if bundle == engines and not options.engines]
    steps = [
        (built, "engines", (*build, "--checkpoint", checkpoint, "--out", str(engines))),
        ([] if options.start_engines else plan.ours, "demo", (*build, "--checkpoint", "demo", "--out", str(start))),
        ([SWAPPED] if SWAPPED in names else [], SWAPPED, ("-m", "bench.latency.swapped", checkpoint, plan.swapped)),
    ]
    for wanted_by, what, arguments in (step for step in steps if step[0]):
        print(f"building {what} ...", flush=True)
        began = time.perf_counter()
        error = run_python(*arguments)
        plan.prepared_s[what] = time.perf_counter() - began
        plan.failed.update(dict.fromkeys(wanted_by, f"{what}: {error}") if error else {})
    return plan


def latent_shape(checkpoint: Path) -> list[int]:
    """Channels, height and width of the latents of one waveform that has the checkpoint's own length."""
    unet, vae, vocoder = (
        json.loads((checkpoint / part / "config.json").read_text()) for part in ("unet", "vae", "vocoder")
    )
    scale = 2 ** (len(vae["block_out_channels"]) - 1)
    return [unet["in_channels"], unet["sample_size"], vocoder["model_in_dim"] // scale]


def has_base_size(checkpoint: Path) -> bool:
    """Whether this checkpoint has the size that the numbers of operations in `bench.rivals` are for."""
    configs = {part: json.loads((checkpoint / part / "config.json").read_text()) for part in ("unet", "vae", "vocoder")}
    alike = all(configs[part].get(key) == value for part in configs for key, value in BASE[part].items())
    return alike and latent_shape(checkpoint) == BASE_LATENTS
