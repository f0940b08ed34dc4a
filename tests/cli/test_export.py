"""`python -m export`: what it builds, checks and refuses."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.__main__ import main
from export.checkpoint import Checkpoint
from export.components import COMPONENTS
from export.errors import BuildError, CheckpointError
from export.onnx import export_onnx
from export.parity import check_parity
from runtime import AudioLDM2Pipeline
from runtime.backends.engine import load_engine
from runtime.bundle import Bundle
from runtime.errors import AudioLDM2Error


@pytest.fixture
def copy(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint that a test may change."""
    return Path(shutil.copytree(checkpoint("one_width"), tmp_path / "checkpoint"))


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], *words: str) -> None:
    assert main(arguments) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def rewrite(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_inspect_and_verify_a_bundle(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bundle("one_width")
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "unet: onnxruntime fp32" in shown
    assert "in  sample: float32 (batch 1.., channels 8, height 1.., mel 32)" in shown
    assert "encoder_hidden_states_1" not in shown  # this UNet attends to the first states only
    assert main(["verify", str(folder), "--checkpoint", str(checkpoint("one_width"))]) == 0
    assert capsys.readouterr().out.count("relative error") == sum(
        len(engine.record.parity) for engine in Bundle.read(folder).manifest.engines.values()
    )
    refused(["verify", str(folder), "--checkpoint", str(checkpoint("plain"))], capsys, "not those", "rebuild")


def test_the_manifest_keeps_every_parity_figure(bundle: Callable[[str], Path]) -> None:
    for engine in Bundle.read(bundle("plain")).manifest.engines.values():
        assert len(engine.record.parity) >= 3
        assert all(0 < check.relative_error <= 1e-5 < engine.record.tolerance for check in engine.record.parity)


def test_bin_weights_and_float64_configs_build_the_same_engine(copy: Path, bundle: Callable[[str], Path]) -> None:
    """Weights as a pickle of tensors, CLAP declared float64, the language model named GPT2Model as published."""
    for part in ("vae", "text_encoder"):
        for path in (copy / part).glob("*.safetensors"):
            from safetensors.torch import load_file

            weights = {
                key: value.double() if part == "text_encoder" else value for key, value in load_file(path).items()
            }
            name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
            torch.save(weights, copy / part / name)
            path.unlink()
    rewrite(copy / "text_encoder" / "config.json", dtype="float64", torch_dtype="float64")
    index = json.loads((copy / "model_index.json").read_text())
    rewrite(copy / "model_index.json", language_model=["transformers", "GPT2Model"])
    assert index["language_model"][1] == "GPT2LMHeadModel"
    loaded = Checkpoint(copy, "copy")
    original = Bundle.read(bundle("one_width"))
    for name in ("text_encoder", "vae_decoder", "language_model"):
        component = COMPONENTS[name](loaded)
        assert {p.dtype for p in component.module.parameters()} == {torch.float32}
        check_parity(name, component, original.open(name), 1e-5, report=lambda _: None)


def test_a_pickle_that_runs_code_is_refused(copy: Path, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))

    (copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"weight": Malicious()}, copy / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="vae cannot be loaded"):
        Checkpoint(copy, "copy").load("vae")
    assert not (tmp_path / "ran").exists()


def test_incomplete_checkpoints_are_refused(copy: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    build = ["build", "--checkpoint", str(copy), "--out", str(tmp_path / "out")]
    rewrite(copy / "model_index.json", unet=["diffusers", "UNet2DConditionModel"])
    refused(build, capsys, "'UNet2DConditionModel'", "unet", "AudioLDM2UNet2DConditionModel")
    rewrite(copy / "model_index.json", unet=["audioldm2", "AudioLDM2UNet2DConditionModel"])
    (copy / "text_encoder" / "model.safetensors").rename(copy / "kept.safetensors")
    refused(build, capsys, "text_encoder has no weights")
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "kept.safetensors")
    weights.pop("text_projection.linear1.weight")
    save_file(weights, copy / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    refused(build, capsys, "text_encoder lacks 1 weights", "text_projection.linear1.weight")
    (copy / "text_encoder" / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    refused(build, capsys, "text_encoder cannot be loaded")
    (copy / "model_index.json").unlink()
    refused(build, capsys, "model_index.json is missing")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_target_that_is_no_bundle_is_not_touched(
    checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    refused(["build", "--checkpoint", str(checkpoint("plain")), "--out", str(tmp_path)], capsys, "is no bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("arguments", [["build"], ["build", "--check", "demo"], ["biuld"], [], ["inspect", "--layers"]])
def test_mistyped_arguments_are_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_a_graph_traced_at_a_multiple_of_the_stride_does_not_pass(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """The comparison sees what the tracer freezes: traced at height 24, the UNet is wrong at 21."""
    from dataclasses import replace

    component = COMPONENTS["unet"](Checkpoint(checkpoint("nested_dims"), "x"))
    at_21, at_24 = component.sizes[0], {**component.sizes[0], "height": 24}
    files = export_onnx(replace(component, sizes=(at_24,)), tmp_path, "unet")
    engine = load_engine(tmp_path / files[0], backend="onnxruntime", inputs=component.inputs, outputs=component.outputs)
    check_parity("unet", replace(component, sizes=(at_24,)), engine, 1e-4, report=lambda _: None)
    with pytest.raises(AudioLDM2Error, match="unet"):
        check_parity("unet", replace(component, sizes=(at_21,)), engine, 1e-4, report=lambda _: None)


def test_a_wrong_weight_stops_the_build(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    component = COMPONENTS["projection_model"](Checkpoint(checkpoint("plain"), "x"))
    files = export_onnx(component, tmp_path, "projection_model")
    engine = load_engine(tmp_path / files[0], backend="onnxruntime", inputs=component.inputs, outputs=component.outputs)
    with torch.no_grad():
        next(component.module.parameters())[0] *= 1.01
    with pytest.raises(BuildError, match="above the tolerance"):
        check_parity("projection_model", component, engine, 1e-4, report=lambda _: None)


def test_export_help_loads_no_torch() -> None:
    code = "import sys; from export.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    run = subprocess.run(
        [sys.executable, "-c", code + "assert not {'torch', 'diffusers'} & set(sys.modules)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_a_bundle_runs_where_it_is_moved(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    moved = shutil.copytree(bundle("one_width"), tmp_path / "elsewhere")
    result = AudioLDM2Pipeline.from_pretrained(moved)("drums", audio_length_in_s=0.5, num_inference_steps=1, seed=0)
    assert result.audios.shape == (1, 8000)
