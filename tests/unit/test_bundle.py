import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Barrier
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pytest

from runtime.backends.device import Device, HostDevice
from runtime.backends.specs import TensorSpec
from runtime.bundle import Bundle, OpenEngines, find_bundle
from runtime.bundle.choice import ENGINES_VARIABLE
from runtime.bundle.families import FAMILIES
from runtime.bundle.manifest import (
    MANIFEST,
    SCHEMA,
    BuildRecord,
    CheckpointSpec,
    EngineSpec,
    FileSpec,
    Island,
    Manifest,
    ParityCheck,
    TokenizerSpec,
    describe_file,
    write_manifest,
)
from runtime.errors import BundleError, EngineError, InputError
from tests.unit.helpers import AUDIO, EXTRACTOR, raises_line

ENGINES = FAMILIES["audioldm2"].engines

BUILD = "python -m export build --checkpoint"
REBUILD = f"{BUILD} someone/some-model --out"
Edit = Callable[[dict[str, Any]], None]


TAKES: dict[str, dict[str, tuple[int | None, ...]]] = {  # what engines of AUDIO and EXTRACTOR take; None: any size
    "audio_encoder": {"input_features": (None, 1, 1001, 64)},
    "language_model": {"positions": (None,)},
    "text_encoder": {"input_ids": (None, None)},
    "text_encoder_2": {"input_ids": (None, None)},
    "unet": {"sample": (None, 8, None, 16)},
    "vae_decoder": {"latents": (None, 8, None, 16)},
    "vocoder": {"mel": (None, None, 64)},
}


def tensor(shape: tuple[int | None, ...]) -> TensorSpec:
    axes = tuple(f"axis{i}" for i in range(len(shape)))
    return TensorSpec(dtype="float32", axes=axes, min_shape=tuple(size or 1 for size in shape), max_shape=shape)


def make_bundle(folder: Path) -> Manifest:
    """A bundle whose engines are random bytes, one of them in two files, with two tokenizers that are none."""
    folder.mkdir(parents=True)
    for name in (*(f"{name}.onnx" for name in ENGINES), "unet.weights", "tokenizer.json", "tokenizer_2.json"):
        (folder / name).write_bytes(np.random.default_rng().bytes(1_000))
    island = Island(name="norms", pattern="^LayerNorm", nodes=3, extra_bytes=9, error_with=1e-3, error_without=None)
    any_size = tensor((None, None))

    def engine(name: str, *more: str) -> EngineSpec:
        return EngineSpec(
            files=tuple(describe_file(folder, file) for file in (f"{name}.onnx", *more)),
            backend="onnxruntime",
            precision="fp32",
            inputs={key: tensor(shape) for key, shape in TAKES.get(name, {"x": (None, None)}).items()},
            outputs={"y": any_size},
            rows={"vocoder": "waveform", "vae_decoder": "sliceable"}.get(name, "guided"),  # type: ignore[arg-type]
            in_windows=name == "vocoder",
            audible=name == "vocoder",
            activation_bytes=(0.0, 1e6),
            record=BuildRecord(
                build_key="2" * 64,
                tolerance=1e-4,
                parity=(ParityCheck(sizes={"rows": 2, "size": 8}, relative_error=1e-6),),
                parity_of="engine",
                islands=(island,),
                profiles=({"x": ((1, 4), (2, 4), (8, 4))},),
            ),
        )

    def tokenizer(name: str) -> TokenizerSpec:
        return TokenizerSpec(file=describe_file(folder, f"{name}.json"), max_length=512, pad_token_id=1)

    manifest = Manifest(
        schema=SCHEMA,
        family="audioldm2",
        checkpoint=CheckpointSpec(id="someone/some-model", revision="0" * 40, weights_sha256="1" * 64),
        versions={"torch": "2"},
        audio=AUDIO,
        max_new_tokens=8,
        token_multiple=16,
        scheduler={"_class_name": "DDIMScheduler"},
        feature_extractor=EXTRACTOR,
        tokenizers={"text_encoder": tokenizer("tokenizer"), "text_encoder_2": tokenizer("tokenizer_2")},
        engines={name: engine(name, *(["unet.weights"] if name == "unet" else [])) for name in ENGINES},
    )
    write_manifest(folder, manifest)
    return manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def edit(folder: Path, change: Edit) -> None:
    raw = json.loads((folder / MANIFEST).read_text())
    change(raw)
    (folder / MANIFEST).write_text(json.dumps(raw))


def test_round_trip(tmp_path: Path) -> None:
    written = make_bundle(tmp_path / "bundle")
    bundle = Bundle.read(str(tmp_path / "bundle"))
    assert bundle.manifest == written
    names = [file.name for file in written.files()]
    assert names[:3] == ["tokenizer.json", "tokenizer_2.json", "text_encoder.onnx"]
    assert names[-4:] == ["unet.weights", "unet_shallow.onnx", "vae_decoder.onnx", "vocoder.onnx"]
    for file in written.files():
        assert bundle.path(file) == tmp_path / "bundle" / file.name


def test_manifest_is_for_people_too(folder: Path) -> None:
    lines = (folder / MANIFEST).read_text().splitlines()
    assert len(lines) > 50
    assert list(json.loads("\n".join(lines))) == list(Manifest.__struct_fields__)


@pytest.mark.parametrize("name", ["unet.onnx", "unet.weights", "tokenizer.json"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with raises_line(BundleError, name, "missing", REBUILD, str(folder)):
        Bundle.read(folder)


@pytest.mark.parametrize("name", ["unet.onnx", "unet.weights", "tokenizer.json"])
@pytest.mark.parametrize("size", [0, 999, 1_001])
def test_file_of_another_size(folder: Path, name: str, size: int) -> None:
    os.truncate(folder / name, size)
    with raises_line(BundleError, name, f"{size} bytes", "1000", REBUILD, str(folder)):
        Bundle.read(folder)


@pytest.mark.parametrize("name", ["unet.onnx", "unet.weights"])
def test_altered_engine_is_found_when_it_is_opened(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[500] ^= 1
    (folder / name).write_bytes(content)
    bundle = Bundle.read(folder)  # sizes are right: reading stays cheap
    with raises_line(BundleError, name, "altered", "SHA-256", REBUILD):
        bundle.open("unet")
    with raises_line(EngineError, "vocoder.onnx", "refused"):  # its hash is right, its content was never ONNX
        bundle.open("vocoder")


def test_file_lost_after_reading(folder: Path) -> None:
    bundle = Bundle.read(folder)
    (folder / "unet.onnx").unlink()
    with raises_line(BundleError, "unet.onnx", "missing", REBUILD):
        bundle.open("unet")


@pytest.mark.parametrize("schema", [SCHEMA + 1, SCHEMA - 1, 0, -1, 10**30])
def test_other_schema(folder: Path, schema: object) -> None:
    edit(folder, lambda raw: raw.update(schema=schema, unknown="of another time"))
    with raises_line(BundleError, MANIFEST, f"schema {schema!r}", f"schema {SCHEMA}", BUILD, str(folder)):
        Bundle.read(folder)


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (lambda raw: raw.update(colour="red"), ("colour",)),
        (lambda raw: raw["audio"].update(colour="red"), ("colour", "audio")),
        (lambda raw: raw["engines"]["unet"].update(colour="red"), ("colour", "engines")),
        (lambda raw: raw["engines"]["unet"]["inputs"]["sample"].update(colour="red"), ("colour", "inputs")),
        (lambda raw: raw["engines"]["unet"]["files"][0].update(colour="red"), ("colour", "files")),
        (lambda raw: raw.pop("audio"), ("audio",)),
        (lambda raw: raw["audio"].update(hop_samples="160"), ("hop_samples",)),
        (lambda raw: raw["engines"]["unet"].update(files=[]), ("files",)),
        (lambda raw: raw["engines"]["unet"]["inputs"]["sample"].update(axes=["rows"]), ("inputs",)),
    ],
)
def test_manifest_of_another_form(folder: Path, change: Edit, fragments: tuple[str, ...]) -> None:
    edit(folder, change)
    with raises_line(BundleError, MANIFEST, "not a valid manifest", BUILD, str(folder), *fragments):
        Bundle.read(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"schema": 1,\n "audio"',
        b"\x00\xff\xfe",
        b"[" * 100_000,
        b'{"schema": NaN}',
        b'{"a": "\xff"}',
        b'{"a": 1e999}',
    ],
    ids=["empty", "cut", "binary", "deep", "not a number", "not UTF-8", "huge"],
)
def test_broken_json(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    with raises_line(BundleError, MANIFEST, "cannot be read", BUILD, str(folder)):
        Bundle.read(folder)


@pytest.mark.parametrize(
    "content", [b"[]", b"1", b"null", b'"text"', b"{}", b'{"schema": "4"}', b'{"schema": true}', b'{"schema": 4.0}']
)
def test_json_of_something_else(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    with raises_line(BundleError, MANIFEST, "not a bundle's manifest", BUILD):
        Bundle.read(folder)


def test_a_manifest_of_endless_size(folder: Path) -> None:
    os.truncate(folder / MANIFEST, 17 << 20)
    with raises_line(BundleError, MANIFEST, "bytes", BUILD):
        Bundle.read(folder)


@pytest.mark.parametrize("kind", ["nothing", "link to nothing"])
def test_a_folder_that_does_not_exist(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "my bundle"
    if kind != "nothing":
        path.symlink_to("nothing")
    with raises_line(BundleError, f"{path} does not exist", f"{BUILD} ID_OR_FOLDER --out '{path}'"):
        Bundle.read(path)


@pytest.mark.parametrize("kind", ["file", "pipe", "empty folder", "other folder", "web project"])
def test_what_is_no_bundle_is_not_to_be_built_over(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine"
    if kind == "file":
        path.write_text("text")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    if kind == "other folder":
        (path / "thesis.txt").write_text("text")
    if kind == "web project":
        (path / MANIFEST).write_text('{"name": "app", "icons": []}')
    with pytest.raises(BundleError) as caught:
        Bundle.read(path)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert str(path) in line
    assert BUILD in line
    assert "--out" not in line


@pytest.mark.parametrize("folder", [None, 5, b"engines", ["engines"]])
def test_a_folder_of_another_type(folder: Any) -> None:
    with raises_line(InputError, repr(folder)):
        Bundle.read(folder)


def test_rebuild_commands_can_be_pasted(tmp_path: Path) -> None:
    folder = tmp_path / "my bundle"
    make_bundle(folder)
    (folder / "unet.onnx").unlink()
    with raises_line(BundleError, f"--out '{folder}'"):
        Bundle.read(folder)
    edit(folder, lambda raw: raw.update(schema=SCHEMA - 1))
    with raises_line(BundleError, f"--out '{folder}'"):
        Bundle.read(folder)


def test_a_file_is_hashed_again_only_when_it_was_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def digest(stream: BinaryIO, kind: str) -> Any:
        hashed.append(Path(stream.name).name)
        return digest_of(stream, kind)

    digest_of = hashlib.file_digest
    monkeypatch.setattr("runtime.bundle.bundle.hashlib.file_digest", digest)
    bundle = Bundle.read(folder)
    file = bundle.manifest.engines["vocoder"].files[0]
    for _ in range(2):
        bundle.path(file)
    assert hashed == ["vocoder.onnx"]
    content = (folder / "vocoder.onnx").read_bytes()
    (folder / "vocoder.onnx").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with raises_line(BundleError, "vocoder.onnx", "altered", REBUILD):
        bundle.path(file)
    (folder / "fresh").write_bytes(content)
    (folder / "fresh").replace(folder / "vocoder.onnx")
    assert bundle.path(file) == folder / "vocoder.onnx"


def test_unknown_engine_lists_the_known(folder: Path) -> None:
    with raises_line(BundleError, "'vae'", "unet_shallow, vae_decoder, vocoder", REBUILD):
        Bundle.read(folder).open("vae")


def test_describe_file_sees_content_and_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert describe_file(tmp_path, "a") == FileSpec(name="a", size_bytes=3, sha256=digest)


class Opened:
    label = "opened"

    def __init__(self) -> None:
        self.closed, self.loading_s = False, 0.0

    def close(self) -> None:
        self.closed = True


def test_engines_are_opened_once_and_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[tuple[str, str]] = []

    def load(path: Path, *, device: Device, **_: object) -> Opened:
        loads.append((path.name, device.name))
        return Opened()

    monkeypatch.setattr("runtime.bundle.bundle.load_engine", load)
    engines = OpenEngines(Bundle.read(folder), HostDevice())
    assert list(engines) == list(ENGINES)
    assert len(engines) == len(ENGINES)
    assert loads == []
    unet = engines["unet"]
    engines.open("unet", "vocoder")
    assert loads == [("unet.onnx", "cpu"), ("vocoder.onnx", "cpu")]
    assert engines["unet"] is unet
    engines.close()
    assert unet.closed
    assert engines["unet"] is not unet
    assert len(loads) == 3


def test_one_engine_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.bundle.bundle.load_engine", lambda *_, **__: Opened())
    engines = OpenEngines(Bundle.read(folder), HostDevice(), freed=ENGINES)
    engines.open("unet", "vocoder")
    assert engines.loading_s == 0.0
    unet: Any = engines["unet"]
    assert engines["unet"] is unet
    vocoder: Any = engines["vocoder"]
    assert unet.closed
    assert not vocoder.closed
    assert engines.loading_s > 0.0
    vocoder.loading_s = 40.0  # it compiled something
    assert engines.loading_s > 40.0
    engines.end_stage()
    assert vocoder.closed
    assert engines.loading_s > 40.0


def test_engines_prepare_side_by_side_and_are_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    going_on, prepared = threading.Event(), list[dict[str, int]]()

    class Preparing(Opened):
        def prepare(self, sizes: Mapping[str, int]) -> None:
            assert going_on.wait(10)
            prepared.append(dict(sizes))
            if sizes == {"height": -1}:
                raise EngineError("no such size")

    monkeypatch.setattr("runtime.bundle.bundle.load_engine", lambda *_, **__: Preparing())
    engines = OpenEngines(Bundle.read(folder), HostDevice())
    engines.open("unet", "vocoder")
    loading_s = engines.loading_s
    engines.prepare({"unet": {"height": 8}, "vocoder": {"frames": 16}, "vae_decoder": {"height": 8}})  # one is not open
    assert prepared == []
    threading.Timer(0.2, going_on.set).start()
    assert engines["unet"] is engines["unet"]
    assert {"height": 8} in prepared
    assert engines.loading_s > loading_s + 0.1
    engines.prepare({"unet": {"height": 8}})  # known by now
    engines.close()
    assert sorted(map(str, prepared)) == ["{'frames': 16}", "{'height': 8}"]
    engines.open("unet")
    engines.prepare({"unet": {"height": -1}})
    with pytest.raises(EngineError, match="no such size"):
        engines["unet"]
    engines.prepare({"unet": {"height": -1, "batch": 1}})
    engines.prepare({"unet": {"height": -1}})
    engines.close()  # whatever became of it


def test_engines_outlive_their_stage_otherwise(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.bundle.bundle.load_engine", lambda *_, **__: Opened())
    engines = OpenEngines(Bundle.read(folder), HostDevice())
    unet: Any = engines["unet"]
    engines.end_stage()
    assert not unet.closed


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(*names: str) -> None:
    for name in names:
        folder = Path("engines", name)
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text("{}")


def test_find_bundle_by_precedence(workplace: Path) -> None:
    put("only")
    assert find_bundle("asked", {ENGINES_VARIABLE: "named"}) == Path("asked")
    assert find_bundle(None, {ENGINES_VARIABLE: "named"}) == Path("named")
    assert find_bundle(None, {ENGINES_VARIABLE: ""}) == Path("engines/only")
    assert find_bundle(None, {"HOME": str(workplace)}) == Path("engines/only")


@pytest.mark.usefixtures("workplace")
def test_find_bundle_overlooks_what_is_none() -> None:
    put("only", ".only.partial", ".only.old")
    Path("engines/notes").mkdir()
    Path("engines/README.md").write_text("text")
    assert find_bundle(None, {}) == Path("engines/only")


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("names", [[], [".a.partial"]])
def test_find_bundle_without_any(names: list[str]) -> None:
    put(*names)
    with raises_line(BundleError, "no bundle", f"{BUILD} cvssp/audioldm2", "demo"):
        find_bundle(None, {})


@pytest.mark.usefixtures("workplace")
def test_find_bundle_among_several() -> None:
    put("b", "a")
    with raises_line(BundleError, "engines/a, engines/b", "--engines", ENGINES_VARIABLE):
        find_bundle(None, {})


@pytest.mark.usefixtures("workplace")
def test_a_fast_run_takes_int8_of_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def int8(raw: dict[str, Any]) -> None:
        raw["engines"]["unet"].update(backend="openvino", precision="int8")

    def others(raw: dict[str, Any]) -> None:
        raw["checkpoint"]["weights_sha256"] = "5" * 64

    for name in ("a", "b"):
        make_bundle(Path("engines", name))
    edit(Path("engines/b"), int8)
    monkeypatch.setattr("runtime.bundle.choice.find_spec", lambda _: None)  # nothing here reads it
    with raises_line(BundleError, "engines/a, engines/b"):
        find_bundle(None, {}, fast=True)
    monkeypatch.setattr("runtime.bundle.choice.find_spec", lambda name: name == "openvino" or None)
    assert find_bundle(None, {}, fast=True) == Path("engines/b")
    with raises_line(BundleError, "engines/a, engines/b"):
        find_bundle(None, {})
    edit(Path("engines/b"), others)
    with raises_line(BundleError, "engines/a, engines/b"):
        find_bundle(None, {}, fast=True)


def test_manifest_is_frozen(folder: Path) -> None:
    manifest = Bundle.read(folder).manifest
    with pytest.raises(AttributeError):
        manifest.schema = 2
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest


def test_engines_are_loaded_side_by_side(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = Barrier(2, timeout=10)  # passed when both are in it

    def load(*_: object, **__: object) -> Opened:
        both.wait()
        return Opened()

    monkeypatch.setattr("runtime.bundle.bundle.load_engine", load)
    engines = OpenEngines(Bundle.read(folder), HostDevice())
    engines.open("unet", "vocoder")
    assert engines["unet"] is not engines["vocoder"]
