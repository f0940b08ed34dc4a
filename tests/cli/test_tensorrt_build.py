"""Real engines of every component, built by TensorRT-RTX on a machine without a GPU."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.__main__ import main
from export.build import _build_engine
from export.calibration import PROMPTS, record
from export.checkpoint import Checkpoint
from export.components import COMPONENTS
from export.engines_tensorrt import TENSORRT_RTX, shape_profiles
from export.errors import BuildError
from export.maker import TensorRTOptions
from export.onnx import export_onnx, save
from export.parity import TOLERANCE
from export.precision import convert, read_model
from export.target import GROWING, Target
from export.tensorrt_builder import build_engine
from runtime.bundle import Bundle
from tests.unit.helpers import raises_line

RTX = ("--backend", "tensorrt-rtx", "--precision", "fp16")
NAME = "one_width"


@pytest.fixture(scope="module")
def built(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("engines") / "rtx"
    assert main(["build", "--checkpoint", str(checkpoint(NAME)), *RTX, "--out", str(out)]) == 0
    return out


def rebuilt(built: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Names of the engines that another build of the same bundle made anew."""
    made_from = Bundle.read(built).manifest.checkpoint.id
    assert main(["build", "--checkpoint", made_from, *RTX, "--out", str(built), *arguments]) == 0
    said = capsys.readouterr().out
    assert {line.split(":")[0] for line in said.splitlines() if line.endswith("unchanged")} == set(COMPONENTS) - {
        line.split(":")[0] for line in said.splitlines() if ": built in" in line
    }
    return {line.split(":")[0] for line in said.splitlines() if ": built in" in line}


def test_every_component_is_built_and_described(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle.read(built)
    assert set(bundle.manifest.engines) == set(COMPONENTS)
    for name, spec in bundle.manifest.engines.items():
        plan = bundle.path(spec.files[0])
        weights = sum(p.numel() for p in COMPONENTS[name](_open(bundle)).module.parameters())
        assert plan.stat().st_size > 2 * weights * 0.9  # the weights are in it, in FP16
        assert spec.backend == "tensorrt"
        assert spec.built_for is not None
        assert spec.built_for.flavour == "tensorrt_rtx"
        assert spec.record.parity_of == "graph"  # no GPU: the engine itself was never run
        assert len(spec.record.profiles) == (3 if name == "language_model" else 2)
        for profile in spec.record.profiles:
            assert set(profile) == set(spec.inputs)
        for key, tensor in spec.inputs.items():
            largest = [profile[key][2] for profile in spec.record.profiles]
            assert tuple(map(max, zip(*largest, strict=True))) == tensor.max_shape  # bounds that messages name
    assert main(["inspect", str(built)]) == 0
    said = capsys.readouterr().out
    assert "of its graph: never run" in said
    assert "timestep embedding in fp32: " in said
    assert "unet: tensorrt fp16" in said
    assert main(["inspect", str(built), "--layers"]) == 0
    said = capsys.readouterr().out
    assert said.count("as parsed, for no GPU here can open it") == len(COMPONENTS)
    unet = said.split("unet: ")[1].split("unet_shallow: ")[0]
    assert "CONVOLUTION              HALF" in unet
    assert "UNARY                    FLOAT" in unet  # the sine of the timestep


def test_a_second_build_does_nothing_and_a_flag_rebuilds_what_it_touches(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in built.glob("*.engine")}
    assert rebuilt(built, capsys=capsys) == set()
    assert {path.name: path.stat().st_mtime_ns for path in built.glob("*.engine")} == before


def test_a_longer_duration_touches_what_grows_with_it_and_a_damaged_one_is_made_anew(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "rtx"
    shutil.copytree(built, copy)
    plan = bytearray((copy / "vocoder.engine").read_bytes())
    plan[len(plan) // 2] ^= 1
    (copy / "vocoder.engine").write_bytes(plan)
    assert rebuilt(copy, "--max-duration", "12", capsys=capsys) == {*GROWING, "vocoder"}


def test_an_fp8_engine(checkpoint: Callable[[str], Path], bundle: Callable[[str], Path], tmp_path: Path) -> None:
    source, target = (
        Checkpoint(checkpoint(NAME), NAME),
        Target(
            maker=TENSORRT_RTX, precision="fp8", max_error=0.1, options=TensorRTOptions(compute_capabilities=("8.9",))
        ),
    )
    feeds = record(bundle(NAME), ("unet", "vocoder"), PROMPTS[:2], longest_s=0.2)
    lines: list[str] = []
    spec = _build_engine(source, tmp_path, "unet", target, lines.append, feeds["unet"])
    assert spec.precision == "fp8"
    assert spec.record.tolerance == 0.1
    assert 1e-3 < spec.record.parity[0].relative_error < 0.1
    assert spec.built_for is not None
    assert spec.built_for.accepted_capabilities == ("8.9",)
    layers = json.loads((tmp_path / "unet.layers.json").read_text())
    eight = [layer for layer in layers if "FP8" in layer["outputs"]]
    assert len(eight) > 20
    assert any("resnets.0.conv1.weight" in layer["name"] for layer in eight)
    strict = replace(target, max_error=1e-5)
    left = _build_engine(source, tmp_path, "vocoder", strict, lines.append, feeds["vocoder"])
    assert left.precision == "fp16"
    assert left.record.tolerance == TOLERANCE["fp16"]
    assert any("vocoder: not quantized" in line for line in lines)


def test_a_gpu_bundle_names_the_cpu_bundle_beside_it(
    built: Path, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(built, tmp_path / "rtx")
    command = [sys.executable, "-m", "runtime.cli", "rain", "--engines", str(tmp_path / "rtx")]
    alone = subprocess.run(command, capture_output=True, text=True, check=False)
    assert alone.returncode == 1
    assert len(alone.stderr.splitlines()) == 1
    assert "for the CPU" not in alone.stderr
    shutil.copytree(bundle(NAME), tmp_path / "onnx")
    beside = subprocess.run(command, capture_output=True, text=True, check=False)
    assert len(beside.stderr.splitlines()) == 1
    assert f"for the CPU, from the same checkpoint: {tmp_path / 'onnx'}" in beside.stderr


def test_the_cpu_bundle_is_chosen_without_a_gpu(
    built: Path, bundle: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.bundle import find_bundle

    monkeypatch.chdir(tmp_path)
    shutil.copytree(built, "engines/rtx")
    shutil.copytree(bundle(NAME), "engines/onnx")
    assert find_bundle(None, {}) == Path("engines/onnx")
    monkeypatch.setattr("runtime.bundle.choice.usable_gpu", object)
    assert find_bundle(None, {}) == Path("engines/rtx")
    assert find_bundle(None, {}, "cpu") == Path("engines/onnx")


@pytest.fixture
def small_graph(tmp_path: Path) -> Callable[..., Path]:
    def make(operator: str, domain: str = "") -> Path:
        node = helper.make_node(operator, ["x"], ["y"], name=f"/block/{operator}", domain=domain)
        value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
        graph = helper.make_graph([node], "small", value[:1], value[1:])
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ours", 1)]
        path = tmp_path / "small.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
        return path

    return make


FLAVOUR = "tensorrt_rtx"
PROFILE = ({"x": ((1, 4), (2, 4), (8, 4))},)


@pytest.mark.parametrize(
    "options",
    [
        {"version_compatible": True},
        {"weight_streaming": True},
        {"optimization_level": 1, "workspace_bytes": 1 << 28},
        {"compute_capabilities": ("8.9", "12.0")},
    ],
)
def test_options_of_the_builder(small_graph: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    asked = TensorRTOptions(**options)
    built_for = build_engine(small_graph("Tanh"), tmp_path / "small.engine", PROFILE, FLAVOUR, asked, tmp_path)
    assert (tmp_path / "small.engine").stat().st_size > 1000
    assert built_for.version_compatible == options.get("version_compatible", False)
    assert built_for.accepted_capabilities == options.get("compute_capabilities", ())


def test_an_operator_that_is_not_supported_is_named(small_graph: Any, tmp_path: Path) -> None:
    graph = small_graph("Frobnicate", "ours")
    with raises_line(BuildError, "small: not supported: Frobnicate '/block/Frobnicate': "):
        build_engine(graph, tmp_path / "e", PROFILE, FLAVOUR, TensorRTOptions(), tmp_path)


def test_a_capability_that_the_library_does_not_know(small_graph: Any, tmp_path: Path) -> None:
    options = TensorRTOptions(compute_capabilities=("9.0",))
    with raises_line(BuildError, "does not know 9.0 (it has SM"):
        build_engine(small_graph("Tanh"), tmp_path / "e", PROFILE, FLAVOUR, options, tmp_path)


def test_the_language_models_profiles_agree_with_themselves(checkpoint: Callable[[str], Path]) -> None:
    """And hold a prefill of the longest text, and a step at every place: else an engine is not built, or cannot run."""
    component = COMPONENTS["language_model"](Checkpoint(checkpoint(NAME), NAME))
    profiles = shape_profiles(component.inputs, component.typical, {"batch": 4, **component.limits}, component.ranges)
    longest, prompt = component.limits["all"], component.limits["new"]
    past = next(name for name in component.inputs if name.startswith("past_"))
    for profile in profiles:
        for place in range(3):
            new, seen, total = (profile[name][place] for name in ("positions", past, "attention_mask"))
            assert new[0] + seen[2] == total[1]
    for wanted in ((prompt, 0), (1, 1), (1, longest - 1)):
        assert any(
            low[0] <= wanted[0] <= high[0] and before[2] <= wanted[1] <= after[2]
            for (low, _, high), (before, _, after) in ((profile["positions"], profile[past]) for profile in profiles)
        )


def test_the_vocoder_is_built_in_bf16(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """TensorRT has no transposed convolution in BF16: an island."""
    component = COMPONENTS["vocoder"](Checkpoint(checkpoint(NAME), NAME))
    model = read_model(tmp_path / export_onnx(component, tmp_path, "vocoder")[0])
    save(convert(model, "bf16", component.islands_in("bf16")).model, tmp_path, "vocoder")
    profiles = shape_profiles(component.inputs, component.typical, {"batch": 4, **component.limits}, component.ranges)
    engine = tmp_path / "vocoder.engine"
    build_engine(tmp_path / "vocoder.onnx", engine, profiles, FLAVOUR, TensorRTOptions(), tmp_path)
    assert engine.stat().st_size > 2 * sum(p.numel() for p in component.module.parameters())


def test_what_needs_a_gpu_is_refused_in_the_librarys_words(built: Path, tmp_path: Path) -> None:
    """Refittable RTX engines cannot be built without a GPU."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], np.random.default_rng().random(16))
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="/MatMul")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph([node], "weighted", value[:1], value[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "g.onnx")
    options = TensorRTOptions(refittable=True)
    with raises_line(BuildError, "tensorrt_rtx could not build it: "):
        build_engine(tmp_path / "g.onnx", tmp_path / "e", PROFILE, FLAVOUR, options, tmp_path)
    assert not (tmp_path / "e").exists()


def test_ctrl_c_ends_a_build(small_graph: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("export.tensorrt_builder.tqdm.update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_engine(small_graph("Tanh"), tmp_path / "e", PROFILE, FLAVOUR, TensorRTOptions(), tmp_path)
    assert not (tmp_path / "e").exists()


def _open(bundle: Bundle) -> Any:
    return Checkpoint(Path(bundle.manifest.checkpoint.id), NAME)
