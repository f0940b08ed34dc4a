"""Checkpoint to bundle."""

import gc
import importlib.metadata
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from export.activation import activation_bytes
from export.checkpoint import Checkpoint
from export.components import COMPONENTS
from export.consistency import check_consistency
from export.demo import write_checkpoint
from export.errors import CheckpointError
from export.hub import fetch
from export.onnx import export_onnx
from export.parity import TOLERANCE, check_parity
from export.staging import staged
from runtime.bundle import (
    SCHEMA,
    Bundle,
    CheckpointSpec,
    EngineSpec,
    Manifest,
    SpeechSpec,
    TokenizerSpec,
    describe_file,
    write_manifest,
)
from runtime.engine import TensorSpec, load_engine

DEMO = "demo"
PACKAGES = ("trt-audioldm2", "torch", "diffusers", "transformers", "onnxruntime")
TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}  # engine: part of the checkpoint
VOCABULARY = "vocabulary.json"
Report = Callable[[str], None]


@contextmanager
def open_checkpoint(identifier: str, revision: str | None = None) -> Iterator[Checkpoint]:
    """The checkpoint that a user names: `demo`, a local folder, or a hub id. Raises CheckpointError."""
    if identifier == DEMO:
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder))
            yield Checkpoint(Path(folder), DEMO)
    elif Path(identifier).is_dir():
        if revision is not None:
            raise CheckpointError(f"'{identifier}' is a folder: --revision is for checkpoints on the hub")
        yield Checkpoint(Path(identifier), identifier)
    else:
        cached, commit = fetch(identifier, revision)
        yield Checkpoint(cached, identifier, commit)


def build(checkpoint: Checkpoint, out: Path, report: Report = print) -> None:
    """Build the bundle at `out`, one module in memory at a time.

    Raises CheckpointError or BuildError, and then leaves no partial bundle.
    """
    check_consistency(checkpoint)
    with staged(out) as folder:
        engines = {}
        for name in COMPONENTS:
            engines[name] = _build_engine(checkpoint, folder, name, report)
            gc.collect()
        manifest = Manifest(
            schema=SCHEMA,
            checkpoint=CheckpointSpec(
                id=checkpoint.id, revision=checkpoint.revision, weights_sha256=checkpoint.weights_sha256()
            ),
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
            audio=checkpoint.audio(),
            max_new_tokens=checkpoint.max_new_tokens(),
            scheduler=checkpoint.scheduler(),
            feature_extractor=checkpoint.feature_extractor(),
            tokenizers={
                name: _write_tokenizer(checkpoint, folder, part)
                for name, part in TOKENIZERS.items()
                if name == "text_encoder" or not checkpoint.speaks
            },
            speech=_write_speech(checkpoint, folder) if checkpoint.speaks else None,
            engines=engines,
        )
        write_manifest(folder, manifest)


def verify(bundle: Bundle, checkpoint: Checkpoint, report: Report = print) -> None:
    """Repeat every comparison on a built bundle, with new random inputs. Raises BuildError at the first failure."""
    if checkpoint.weights_sha256() != bundle.manifest.checkpoint.weights_sha256:
        raise CheckpointError(
            f"{checkpoint.id}: its weights are not those that {bundle.folder} was built from; "
            f"rebuild: {bundle.rebuild_command}"
        )
    for name, make in COMPONENTS.items():
        engine = bundle.open(name)
        check_parity(name, make(checkpoint), engine, bundle.manifest.engines[name].tolerance, report)
        engine.close()
        gc.collect()


def _build_engine(checkpoint: Checkpoint, folder: Path, name: str, report: Report) -> EngineSpec:
    start = time.perf_counter()
    component = COMPONENTS[name](checkpoint)
    files = export_onnx(component, folder, name)
    report(f"{name}: exported in {time.perf_counter() - start:.1f} s")
    inputs = _graph_inputs(folder / files[0], component.inputs)
    engine = load_engine(folder / files[0], backend="onnxruntime", inputs=inputs, outputs=component.outputs)
    tolerance = TOLERANCE["fp32"]
    parity = check_parity(name, component, engine, tolerance, report)
    engine.close()
    return EngineSpec(
        files=tuple(describe_file(folder, file) for file in files),
        backend="onnxruntime",
        precision="fp32",
        inputs=inputs,
        outputs=component.outputs,
        activation_bytes=activation_bytes(component),
        tolerance=tolerance,
        parity=parity,
    )


def _graph_inputs(path: Path, inputs: dict[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The inputs that the traced graph kept: a UNet may attend to one of the two text states only."""
    import onnx

    kept = {tensor.name for tensor in onnx.load(path, load_external_data=False).graph.input}
    return {name: spec for name, spec in inputs.items() if name in kept}


def _write_tokenizer(checkpoint: Checkpoint, folder: Path, part: str) -> TokenizerSpec:
    tokenizer = checkpoint.tokenizer(part)
    (folder / f"{part}.json").write_text(tokenizer.json, encoding="utf-8")
    return TokenizerSpec(
        file=describe_file(folder, f"{part}.json"),
        max_length=tokenizer.max_length,
        pad_token_id=tokenizer.pad_token_id,
    )


def _write_speech(checkpoint: Checkpoint, folder: Path) -> SpeechSpec:
    fields = dict(vars(checkpoint.speech()))
    (folder / VOCABULARY).write_bytes(msgspec.json.encode(fields.pop("vocabulary")))
    return SpeechSpec(file=describe_file(folder, VOCABULARY), **fields)
