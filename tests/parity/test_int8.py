"""INT8 bundles: what is quantized, what is left in float, and what a bundle in OpenVINO's format takes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import openvino
import pytest

from export import build as building
from export.build import build, verify
from export.calibration import PROMPTS, record
from export.checkpoint import Checkpoint
from export.engines_onnx import ONNX
from export.engines_openvino import OPENVINO
from export.errors import BuildError
from export.int8 import Int8
from export.parity import relative_error
from export.target import QUANTIZED, Target
from runtime import AudioLDM2Pipeline, InputError
from runtime.bundle import Bundle
from runtime.errors import MissingDependencyError
from runtime.install import install_command
from tests.unit.helpers import raises_line


def test_an_int8_bundle(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Checkpoint(checkpoint("one_width"), "one_width")
    monkeypatch.setattr(building, "record", lambda _, names, **__: record(bundle("one_width"), names, PROMPTS[:2]))
    monkeypatch.setattr(Bundle, "is_float_of", lambda *_: True)
    (tmp_path / "float").symlink_to(bundle("one_width"))
    lines: list[str] = []
    out, target = tmp_path / "int8", Target(maker=OPENVINO, precision="int8", max_error=0.3)
    build(source, out, target, lines.append)
    engines = Bundle.read(out).manifest.engines
    assert {name for name, spec in engines.items() if spec.precision == "int8"} <= set(QUANTIZED)
    assert engines["unet"].precision == "int8"
    assert engines["text_encoder"].precision == "fp16"
    assert engines["unet"].record.parity[0].relative_error <= 0.3
    worst = max(check.relative_error for check in engines["unet_shallow"].record.parity)
    assert worst < 2e-3  # frequencies are not FP16
    small = sum(file.size_bytes for file in engines["unet"].files[1:])
    assert small < 0.46 * Path(bundle("one_width"), "unet.onnx").stat().st_size
    graph = openvino.Core().read_model(out / "unet.xml")
    names = Int8(out / "unet.xml").layers(graph)
    assert any("/resnets.0/conv1/" in name for name in names)
    float_names = ("conv_in", "conv_out", "time_emb", "attn2/to_k", "ff/net.2", "conv_shortcut", "samplers")
    assert [name for name in names if any(part in name for part in float_names)] == []
    constants = [operation for operation in graph.get_ops() if operation.get_type_name() == "Constant"]
    single, half = (
        max(constant.get_byte_size() for constant in constants if constant.get_element_type() == kind)
        for kind in (openvino.Type.f32, openvino.Type.f16)
    )
    assert single <= 4096 < half  # weights that stay in float take two bytes
    verify(Bundle.read(out), source, lines.append)
    call = {"prompt": "rain", "num_inference_steps": 3, "audio_length_in_s": 0.5, "seed": 1, "output_type": "latent"}
    open_on = partial(AudioLDM2Pipeline.from_pretrained, device="cpu")
    exact = open_on(bundle("one_width"), backend="onnxruntime")(**call).audios
    assert 1e-3 < relative_error(open_on(out, backend="openvino")(**call).audios, exact) < 0.5
    with raises_line(InputError, "OpenVINO's format", "onnxruntime"):
        open_on(out, backend="onnxruntime")
    assert "--backend openvino --precision int8" in Bundle.read(out).rebuild_command
    build(source, out, target, lines.append)
    assert lines.count("unet: unchanged") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"maker": ONNX, "precision": "int8"}, ("int8", "openvino")),
        ({"maker": OPENVINO, "precision": "fp32"}, ("fp16 or int8",)),
        ({"maker": OPENVINO, "precision": "int8", "max_error": 0.0}, ("--max-error", "0")),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], words: tuple[str, ...]) -> None:
    with raises_line(BuildError, *words):
        Target(**options)


@pytest.mark.parametrize(("precision", "missing"), [("fp16", "openvino"), ("int8", "openvino"), ("int8", "nncf")])
def test_what_is_missing_is_said_before_anything_is_built(
    precision: str, missing: str, checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.target.find_spec", lambda package: None if package == missing else True)
    lines: list[str] = []
    extra = "int8" if precision == "int8" else "openvino"
    with raises_line(MissingDependencyError, f"{missing} is not installed: {install_command('cpu', 'export', extra)}"):
        build(
            Checkpoint(checkpoint("plain"), "x"),
            tmp_path / "x",
            Target(maker=OPENVINO, precision=precision),
            lines.append,
        )
    assert lines == []
