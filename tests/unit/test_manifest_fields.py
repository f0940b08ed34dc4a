"""Every field of a real manifest altered in turn: the result is a proper file, or one line and exit status 1."""

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile

from runtime.backends.device import Array
from runtime.backends.specs import TensorSpec, check_feeds, check_names
from runtime.bundle.families import FAMILIES
from runtime.bundle.manifest import (
    MANIFEST,
    AudioSpec,
    EngineSpec,
    Manifest,
    SpeechSpec,
    describe_file,
    read_manifest,
    write_manifest,
)
from runtime.cli import main
from runtime.errors import AudioLDM2Error, BundleError
from tests.unit.helpers import AUDIO, EXTRACTOR, raises_line

DURATION_S, SURPLUS = 0.64, 32  # samples that a HiFi-GAN gives beyond `hop` a frame
Field = tuple[str | int, ...]


class Gone:
    """In place of a value: the field is taken out."""


VALUES: tuple[Any, ...] = (Gone, None, True, 0, -1, 1, 10**30, 3.5, 1e-300, -1e300, "", "other", "two\nlines", [], {})
LITERALS = ("1e400", "-1e400", "NaN", "Infinity", '"\\ud83d"', "[" * 5000 + "]" * 5000)  # what json.dumps cannot write


class Graph:
    """Stands for an engine's file: takes and gives what the untouched manifest says, whatever the altered one does."""

    xp: ModuleType = np
    capturable, loading_s, label = True, 0.0, "stand-in"

    def __init__(self, name: str, true: EngineSpec, audio: AudioSpec, inputs: Mapping[str, TensorSpec]) -> None:
        self.inputs, self.outputs = inputs, true.outputs
        self._name, self._true, self._audio = name, true, audio

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        check_feeds(self._name, self.inputs, feeds)
        check_feeds(self._name, self._true.inputs, feeds)
        specs = self._true.inputs
        sizes = {axis: size for key in feeds for axis, size in zip(specs[key].axes, feeds[key].shape, strict=True)}
        frames = sizes.get("frames", sizes.get("height", 0) * self._audio.vae_scale_factor)
        sizes = {"positions": sizes.get("tokens", 0) + 5, "frames": frames, **sizes}
        sizes["samples"] = frames * self._audio.hop_samples + SURPLUS
        return {name: self._draw(spec, sizes) for name, spec in self._true.outputs.items()}

    def _draw(self, spec: TensorSpec, sizes: Mapping[str, int]) -> Array:
        bounds = zip(spec.axes, spec.min_shape, spec.max_shape, strict=True)
        shape = [low if low == high else sizes[axis] for axis, low, high in bounds]
        return np.ones(shape, np.int64) if spec.dtype == "int64" else np.random.default_rng().random(shape, np.float32)

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """Any size does."""

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture
def copied(bundle: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Manifest]:
    """A real bundle, but for its engines' files: small ones, with stand-ins behind them, so that calls are quick."""
    source, folder = bundle("plain"), tmp_path / "bundle"
    folder.mkdir()
    for path in source.glob("tokenizer*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    real = read_manifest(source)
    engines = {}
    for name, spec in real.engines.items():
        (folder / f"{name}.onnx").write_bytes(name.encode())
        engines[name] = msgspec.structs.replace(spec, files=(describe_file(folder, f"{name}.onnx"),))
    manifest = msgspec.structs.replace(real, engines=engines)
    write_manifest(folder, manifest)

    def load(path: Path, *, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec], **_: object) -> Graph:
        true = manifest.engines[path.stem]
        check_names(path.stem, set(true.inputs), set(true.outputs), inputs, outputs)
        return Graph(path.stem, true, manifest.audio, inputs)

    monkeypatch.setattr("runtime.bundle.bundle.load_engine", load)
    return folder, manifest


def fields(value: Any, above: Field = ()) -> Iterator[Field]:
    """The place of every value inside `value`, itself left out. Of a list's items the first, of tensors the first."""
    if isinstance(value, dict):
        items: list[tuple[str | int, Any]] = list(value.items())
        items = items[:1] if above[-1:] in (("inputs",), ("outputs",)) else items
    else:
        items = list(enumerate(value))[:1] if isinstance(value, list) else []
    for key, item in items:
        yield (*above, key)
        yield from fields(item, (*above, key))


def at(raw: Any, field: Field) -> Any:
    for key in field:
        raw = raw[key]
    return raw


def altered(raw: dict[str, Any], field: Field) -> Iterator[tuple[str, str]]:
    """Manifests with one other value, each as what it holds there and its JSON."""
    old = at(raw, field)
    near = [old + 1, old - 1, old * 2, old * 1000] if isinstance(old, int | float) and not isinstance(old, bool) else []
    near += [old // 2] if isinstance(old, int) else []
    near += [*old, old[:1] * 2] if isinstance(old, list) and old else []
    for value in (*VALUES, *near, *LITERALS):
        changed = copy.deepcopy(raw)
        holder = at(changed, field[:-1])
        if value is Gone:
            del holder[field[-1]]
        else:
            holder[field[-1]] = "LITERAL" if value in LITERALS else value
        yield str(value)[:40], json.dumps(changed).replace('"LITERAL"', value if value in LITERALS else '"LITERAL"')


def outcome(folder: Path, capsys: pytest.CaptureFixture[str], rate: Any) -> str | None:
    """Render by the command: what is wrong with how it ends, or None."""
    out = folder.parent / "out.wav"
    out.unlink(missing_ok=True)
    flags = ["--engines", str(folder), "--steps", "1", "--duration", str(DURATION_S), "--seed", "1", "--quiet"]
    capsys.readouterr()
    try:
        status = main(["rain", *flags, "--num-waveforms", "2", "--output", str(out)])
    except BaseException as error:  # whatever it is, it is not for users
        return f"{type(error).__name__}: {error}"
    lines = capsys.readouterr().err.splitlines()
    if status:
        fine = status == 1 and len(lines) == 1 and lines[0].startswith("error: ") and not out.exists()
        return None if fine else f"exit status {status}, {lines}"
    samples = soundfile.info(out).frames
    return None if samples == int(DURATION_S * rate) and not lines else f"{samples} samples at {rate} Hz, {lines}"


def check_fields(
    folder: Path, chosen: Callable[[Field], bool], capsys: pytest.CaptureFixture[str], *, read_only: bool = False
) -> int:
    """Alter each chosen field in every way; how many manifests were read. With `read_only` nothing is rendered."""
    raw = json.loads((folder / MANIFEST).read_text())
    wrong, accepted = [], 0
    for field in filter(chosen, fields(raw)):
        for value, text in altered(raw, field):
            (folder / MANIFEST).write_text(text)
            try:
                manifest = read_manifest(folder)
            except AudioLDM2Error as error:
                if len(str(error).splitlines()) == 1:
                    continue
                wrong.append((field, value, str(error)))
            else:
                accepted += 1
                problem = None if read_only else outcome(folder, capsys, manifest.audio.sample_rate_hz)
                wrong += [(field, value, problem)] if problem else []
    assert wrong == []
    return accepted


def test_the_untouched_one_makes_sound(copied: tuple[Path, Manifest], capsys: pytest.CaptureFixture[str]) -> None:
    folder, manifest = copied
    assert outcome(folder, capsys, manifest.audio.sample_rate_hz) is None
    assert (folder.parent / "out.wav").is_file()
    assert outcome(folder, capsys, manifest.audio.sample_rate_hz + 100) is not None  # the check can fail


@pytest.mark.parametrize("part", ["audio", "feature_extractor", "tokenizers", "scheduler", "the rest"])
def test_fields_of(part: str, copied: tuple[Path, Manifest], capsys: pytest.CaptureFixture[str]) -> None:
    named = ("audio", "feature_extractor", "tokenizers", "scheduler", "engines")
    assert check_fields(copied[0], lambda f: f[0] == part or (part == "the rest" and f[0] not in named), capsys)


@pytest.mark.parametrize("name", FAMILIES["audioldm2"].engines)
def test_fields_of_an_engine(name: str, copied: tuple[Path, Manifest], capsys: pytest.CaptureFixture[str]) -> None:
    assert check_fields(copied[0], lambda f: f[:2] == ("engines", name) and "record" not in f, capsys)


def test_fields_of_a_record(copied: tuple[Path, Manifest], capsys: pytest.CaptureFixture[str]) -> None:
    """No run reads it: that it can be read is enough."""
    chosen = ("engines", "unet", "record")
    assert check_fields(copied[0], lambda f: f[:3] == chosen, capsys, read_only=True)


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], tuple[str, ...]]] = {
    "no engine": (lambda raw: raw["engines"].pop("unet_shallow"), ("engines", "unet_shallow")),
    "another engine": (lambda raw: raw["engines"].update(unet2=raw["engines"]["unet"]), ("engines", "'unet2'")),
    "no tokenizer": (lambda raw: raw["tokenizers"].pop("text_encoder_2"), ("tokenizers", "text_encoder_2")),
    "another family": (lambda raw: raw.update(family="musicgen"), ("family", "'musicgen'")),
    "no scheduler class": (lambda raw: raw["scheduler"].update(_class_name=7), ("_class_name", "7")),
    "one file twice": (lambda raw: rename(raw, "vocoder", raw["engines"]["unet"]), ("more than once", "unet.onnx")),
    "capitals": (lambda raw: raw["engines"]["vocoder"]["files"][0].update(name="UNET.onnx"), ("more than once",)),
    "half a mel bin": (lambda raw: raw["audio"].update(mel_bins=65), ("65 mel bins", "scale factor")),
    "channels": (lambda raw: raw["audio"].update(latent_channels=9), ("unet", "'sample'")),
    "frames for scoring": (lambda raw: raw["feature_extractor"].update(hop_samples=481), ("audio_encoder", "998")),
    "bins for scoring": (lambda raw: raw["feature_extractor"].update(mel_bins=63), ("audio_encoder", "63")),
    "a long text": (
        lambda raw: raw["tokenizers"]["text_encoder"].update(max_length=100_000),
        ("text_encoder", "100000"),
    ),
    "falling frequencies": (lambda raw: raw["feature_extractor"].update(min_frequency_hz=14_000), ("14000 to 14000",)),
    "above Nyquist": (lambda raw: raw["feature_extractor"].update(max_frequency_hz=24_001), ("24000",)),
    "a window beyond the audio": (lambda raw: raw["feature_extractor"].update(fft_samples=2**20), ("max_samples",)),
    "no GPU named": (lambda raw: raw["engines"]["unet"].update(backend="tensorrt"), ("tensorrt", "built_for")),
    "sizes that fall": (lambda raw: raw["engines"]["unet"]["inputs"]["timestep"].update(min_shape=[2]), ("'one'", "2")),
}


def rename(raw: dict[str, Any], name: str, like: dict[str, Any]) -> None:
    raw["engines"][name]["files"] = like["files"]


@pytest.mark.parametrize("case", REFUSED)
def test_fields_that_do_not_go_together(case: str, copied: tuple[Path, Manifest]) -> None:
    """Found when the manifest is read, not in the middle of a run."""
    folder = copied[0]
    raw = json.loads((folder / MANIFEST).read_text())
    change, fragments = REFUSED[case]
    change(raw)
    (folder / MANIFEST).write_text(json.dumps(raw))
    with raises_line(BundleError, MANIFEST, "not a valid manifest", "rebuild", *fragments):
        read_manifest(folder)


def test_what_cannot_be_read_is_not_written(copied: tuple[Path, Manifest], tmp_path: Path) -> None:
    for change in ({"max_new_tokens": 0}, {"token_multiple": -1}, {"versions": {"torch": "2\n3"}}):
        with raises_line(BundleError, str(tmp_path / MANIFEST), "cannot be written", next(iter(change))):
            write_manifest(tmp_path, msgspec.structs.replace(copied[1], **change))
    record = msgspec.structs.replace(copied[1].engines["unet"].record, tolerance=math.inf)
    engines = {**copied[1].engines, "unet": msgspec.structs.replace(copied[1].engines["unet"], record=record)}
    with raises_line(BundleError, "cannot be written", "tolerance"):
        write_manifest(tmp_path, msgspec.structs.replace(copied[1], engines=engines))
    assert not (tmp_path / MANIFEST).exists()


def test_specs_that_are_made_wrong_say_so_in_one_line(copied: tuple[Path, Manifest]) -> None:
    """A builder makes them from a checkpoint's configs: what is wrong there is an error for users, not a traceback."""
    with raises_line(AudioLDM2Error, "mel bins"):
        msgspec.structs.replace(AUDIO, vae_scale_factor=3)
    with raises_line(AudioLDM2Error, "14000"):
        msgspec.structs.replace(EXTRACTOR, sample_rate_hz=16_000)
    fields: dict[str, Any] = {"max_length": 9, "embedding_rows": 38, "unknown_token_id": 38}
    flags: dict[str, Any] = {"normalize": True, "phonemize": False, "add_blank": True, "language": None}
    file = next(copied[1].files())
    assert SpeechSpec(file=file, pad_token_id=0, end_token_id=37, **fields, **flags).unknown_token_id == 38
    for ids in ({"pad_token_id": 38, "end_token_id": 0}, {"pad_token_id": 0, "end_token_id": 38}):
        with raises_line(AudioLDM2Error, "38"):
            SpeechSpec(file=file, **ids, **fields, **flags)


def test_frames_of_features() -> None:
    assert EXTRACTOR.frames == 1001
