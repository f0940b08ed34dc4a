"""Checkpoint to bundle."""

import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import onnx

from export.calibration import Feeds, record
from export.checkpoint import Checkpoint
from export.components import COMPONENTS
from export.components.component import TYPICAL_TOKENS
from export.consistency import check_consistency, try_components
from export.demo import trained
from export.destination import resolve_destination
from export.engines_onnx import ONNX
from export.errors import BuildError, CheckpointError
from export.hub import fetch
from export.islands import measure_islands
from export.maker import Job
from export.onnx import export_onnx, save
from export.parity import check_parity
from export.precision import convert, read_model
from export.staging import staged
from export.target import QUANTIZED, Target, build_keys
from runtime.backends.specs import TensorSpec
from runtime.bundle import Bundle, open_bundle_device
from runtime.bundle.manifest import (
    MANIFEST,
    SCHEMA,
    CheckpointSpec,
    EngineSpec,
    Island,
    LoraSpec,
    Manifest,
    SpeechSpec,
    TokenizerSpec,
    write_manifest,
)
from runtime.bundle.schema import EIGHT_BITS
from runtime.errors import BundleError

DEMO = "demo"
Report = Callable[[str], None]


def open_checkpoint(
    identifier: str, revision: str | None = None, variant: str | None = None, loras: Sequence[str] = ()
) -> Checkpoint:
    """The checkpoint that a user names: `demo`, a local folder, or a hub id. Raises CheckpointError."""
    if identifier == DEMO:
        return Checkpoint(trained(), DEMO, variant=variant, loras=loras)
    if Path(identifier).is_dir():
        if revision is not None:
            raise CheckpointError(f"'{identifier}' is a folder: --revision is for checkpoints on the hub")
        return Checkpoint(Path(identifier), identifier, variant=variant, loras=loras)
    cached, commit = fetch(identifier, revision, variant)
    return Checkpoint(cached, identifier, commit, variant, loras)


def build(
    checkpoint: Checkpoint,
    out: Path,
    target: Target | None = None,
    report: Report = print,
    *,
    only_missing: bool = False,
) -> None:
    """Build the bundle at `out`, one module in memory at a time.

    An engine of an earlier bundle there that was made from the same weights, configs, code, versions and options is
    taken over; with `only_missing` every one is, whatever code and versions made it. Raises CheckpointError or
    BuildError, and then leaves no partial bundle.
    """
    out = resolve_destination(out)
    check_consistency(checkpoint)
    target = target or Target(maker=ONNX)
    target.check_installed()
    versions = target.versions()
    keys = build_keys(checkpoint, target, versions)
    earlier = _earlier_bundle(out)
    kept = (
        {} if earlier is None else {name: engine.record.build_key for name, engine in earlier.manifest.engines.items()}
    )
    if only_missing:
        keys |= _keys_to_keep(earlier, out, checkpoint, target)
    try_components(checkpoint, (name for name, key in keys.items() if kept.get(name) != key))
    with staged(out) as folder:
        engines: dict[str, EngineSpec] = {}
        feeds: Mapping[str, list[Feeds]] | None = None
        for name, key in keys.items():
            reused = None if earlier is None else _reuse(earlier, folder, name, key)
            if reused is not None:
                report(f"{name}: unchanged")
            if reused is None and feeds is None and target.quantizes and name in QUANTIZED:
                feeds = _calibration(checkpoint, out, folder, report, target.options.max_duration_s)
            built = reused or _build_engine(checkpoint, folder, name, target, report, (feeds or {}).get(name, []))
            engines[name] = built.recorded(build_key=key)
            gc.collect()
        write_manifest(folder, _manifest(checkpoint, folder, versions, engines))


def verify(bundle: Bundle, checkpoint: Checkpoint, report: Report = print) -> None:
    """Repeat every comparison on a built bundle, with new random inputs. Raises BuildError at the first failure."""
    if checkpoint.weights_sha256 != bundle.manifest.checkpoint.weights_sha256:
        raise CheckpointError(
            f"{checkpoint.id}: its weights are not those that {bundle.folder} was built from; "
            f"rebuild: {bundle.rebuild_command}"
        )
    device = open_bundle_device(bundle, precision="auto" if bundle.needs_gpu() else "fp32")
    for name, spec in bundle.manifest.engines.items():
        make = COMPONENTS[name]
        if spec.precision in EIGHT_BITS:
            label = spec.precision.upper()
            report(f"  {name}: {label} was compared on recorded inputs when it was built, and is not compared here")
            continue
        with device.active():
            engine = bundle.open(name, device)
        check_parity(name, make(checkpoint), engine, spec.record.tolerance, report, device, precision=spec.precision)
        engine.close()
        gc.collect()


def _manifest(
    checkpoint: Checkpoint, folder: Path, versions: dict[str, str], engines: dict[str, EngineSpec]
) -> Manifest:
    """What the bundle is; the files of its tokenizers are written into `folder` on the way."""
    return Manifest(
        schema=SCHEMA,
        family=checkpoint.family.name,
        checkpoint=CheckpointSpec(
            id=checkpoint.id,
            revision=checkpoint.revision,
            weights_sha256=checkpoint.weights_sha256,
            variant=checkpoint.variant,
            loras=tuple(
                LoraSpec(path=str(lora.path.absolute()), scale=lora.scale, sha256=lora.sha256)
                for lora in checkpoint.loras
            ),
        ),
        versions=versions,
        audio=checkpoint.audio(),
        max_new_tokens=checkpoint.max_new_tokens() if checkpoint.family.has_language_model else None,
        token_multiple=TYPICAL_TOKENS,
        scheduler=checkpoint.scheduler(),
        feature_extractor=checkpoint.feature_extractor() if checkpoint.family.ranks else None,
        tokenizers={
            name: _write_tokenizer(checkpoint, folder, part)
            for name, part in checkpoint.family.tokenizers.items()
            if name == "text_encoder" or not checkpoint.speaks
        },
        speech=_write_speech(checkpoint, folder) if checkpoint.speaks else None,
        defaults=checkpoint.call_defaults(),
        engines=engines,
    )


def _calibration(
    checkpoint: Checkpoint, out: Path, folder: Path, report: Report, longest_s: float
) -> Mapping[str, list[Feeds]]:
    """Inputs of the engines to quantize, from a float bundle of the same weights: one beside `out`, or a new one."""
    for path in sorted(out.absolute().parent.glob(f"[!.]*/{MANIFEST}")):
        beside = _earlier_bundle(path.parent)
        if beside is not None and beside.is_float_of(checkpoint.weights_sha256):
            report(f"calibrating with {path.parent}")
            return record(path.parent, QUANTIZED, longest_s=longest_s)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".float-") as work:
        report("building a float bundle to calibrate with")
        build(checkpoint, Path(work, "float"), Target(maker=ONNX), report)
        return record(Path(work, "float"), QUANTIZED, longest_s=longest_s)


def _build_engine(
    checkpoint: Checkpoint, folder: Path, name: str, target: Target, report: Report, feeds: Sequence[Feeds] = ()
) -> EngineSpec:
    """Trace one component, set its precision, and let the backend make an engine of the graph."""
    start = time.perf_counter()
    component, precision = COMPONENTS[name](checkpoint), target.precision
    if precision in target.maker.fuses_attention and component.fuse_attention is not None:
        component.fuse_attention()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".graph-") as work:
        graph = Path(work, export_onnx(component, Path(work), name)[0])
        inputs = _graph_inputs(graph, component.inputs)
        model: onnx.ModelProto | None = None
        patterns: Mapping[str, str] = {}
        islands: tuple[Island, ...] = ()
        if precision in target.maker.halves_graph:
            model, patterns = read_model(graph), component.islands_in(precision)
            islands = measure_islands(name, component, model, precision, report)
            save(convert(model, precision, patterns).model, Path(work), name)
        report(f"{name}: exported in {time.perf_counter() - start:.1f} s")
        job = Job(
            name=name,
            component=component,
            checkpoint=checkpoint,
            precision=precision,
            options=target.options,
            max_error=target.max_error,
            graph=graph,
            inputs=inputs,
            folder=folder,
            report=report,
            model=model,
            islands=patterns,
            feeds=feeds,
        )
        return target.maker.make_engine(job).recorded(islands=islands)


def _keys_to_keep(earlier: Bundle | None, out: Path, checkpoint: Checkpoint, target: Target) -> dict[str, str]:
    """The keys of all engines of an earlier bundle, which is of the same weights and backend."""
    if earlier is None:
        raise BuildError(f"there is no bundle at {out} that lacks only some engines: leave out --only-missing")
    if earlier.manifest.checkpoint.weights_sha256 != checkpoint.weights_sha256:
        raise BuildError(f"{out} was built from other weights than {checkpoint.id} has: leave out --only-missing")
    spec = earlier.manifest.engines["unet"]
    made_by = spec.backend.replace("onnxruntime", "onnx") if spec.built_for is None else spec.built_for.flavour
    if target.maker.name != made_by.replace("_", "-"):
        raise BuildError(f"{out} was built otherwise: {earlier.rebuild_command} --only-missing")
    return {name: engine.record.build_key for name, engine in earlier.manifest.engines.items()}


def _earlier_bundle(out: Path) -> Bundle | None:
    try:
        return Bundle.read(out)
    except BundleError:
        return None


def _reuse(earlier: Bundle, folder: Path, name: str, key: str) -> EngineSpec | None:
    """Take over an earlier bundle's engine into `folder` if it was made from the same things and is undamaged."""
    spec = earlier.manifest.engines.get(name)
    if spec is None or spec.record.build_key != key:
        return None
    try:
        paths = [earlier.path(file) for file in spec.files]
    except BundleError:
        return None
    for path in paths:
        _link_or_copy(path, folder / path.name)
    return spec


def _link_or_copy(source: Path, target: Path) -> None:
    """Make `target` another name of `source`, or a copy where that cannot be: exFAT and some network shares.

    `source` may be a symbolic link: where that leads is what gets the second name.
    """
    source = source.resolve()
    try:
        os.link(source, target)
    except (OSError, NotImplementedError, AttributeError):  # the last one on systems without hard links
        shutil.copyfile(source, target)


def _graph_inputs(path: Path, inputs: dict[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The inputs that the traced graph kept: a UNet may attend to one of the two text states only."""
    kept = {tensor.name for tensor in onnx.load(path, load_external_data=False).graph.input}
    return {name: spec for name, spec in inputs.items() if name in kept}


def _write_tokenizer(checkpoint: Checkpoint, folder: Path, part: str) -> TokenizerSpec:
    spec, text = checkpoint.tokenizer(part)
    (folder / spec.file.name).write_bytes(text.encode())
    return spec


def _write_speech(checkpoint: Checkpoint, folder: Path) -> SpeechSpec:
    spec, vocabulary = checkpoint.speech()
    (folder / spec.file.name).write_bytes(msgspec.json.encode(vocabulary))
    return spec
