"""Typed half-precision graphs: what is rounded, what is kept, and that the emulation shows what a GPU would."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from export.checkpoint import Checkpoint
from export.components import COMPONENTS, Component
from export.errors import BuildError
from export.islands import emulated, measure_islands
from export.onnx import export_onnx, save
from export.parity import TOLERANCE, compare
from export.precision import convert, matches, read_model
from tests.unit.helpers import raises_line


def graph(nodes: list[Any], *weights: Any, folder: Path, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """A graph of float32 x (n, 4) to y, read back with the types of its tensors."""
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(weights),
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "g.onnx")
    return read_model(folder / "g.onnx")


def scalar(name: str, value: float) -> Any:
    return helper.make_tensor(name, TensorProto.FLOAT, [], [value])


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """The model's only output, without a rounding undone."""
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


def normals(*shape: int) -> np.ndarray:
    return np.random.default_rng().standard_normal(shape, np.float32)


SQUARES = [
    helper.make_node("Mul", ["x", "x"], ["squares"], name="/norm/Mul"),
    helper.make_node("Div", ["squares", "big"], ["y"], name="/norm/Div"),
]


def test_the_emulation_overflows_where_fp16_does(tmp_path: Path) -> None:
    """ONNX Runtime alone would hide it: between two half nodes it keeps float32."""
    model = graph(SQUARES, scalar("big", 1e4), folder=tmp_path)
    x = 1000 * (1 + np.abs(normals(3, 4)))
    assert np.isinf(run(convert(model, "fp16", {}, emulate=True).model, x)).all()
    assert np.isfinite(run(convert(model, "fp16", {}).model, x)).all()
    kept = convert(model, "fp16", {"squares": r"^(Mul|Div) /norm/"}, emulate=True)
    assert kept.float_nodes == 2
    assert run(kept.model, x) == pytest.approx(x * x / 1e4, rel=2e-3)
    assert np.isfinite(run(convert(model, "bf16", {}, emulate=True).model, x)).all()


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_weights_and_tensors_are_half_and_the_edges_float(tmp_path: Path, precision: str, dtype: int) -> None:
    weight = normals(4, 4)
    model = graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"], name="/a/MatMul"),
            helper.make_node("Softmax", ["m"], ["s"], name="/a/Softmax"),
            helper.make_node("Add", ["s", "m"], ["y"], name="/b/Add"),
        ],
        helper.make_tensor("w", TensorProto.FLOAT, [4, 4], weight.ravel()),
        folder=tmp_path,
    )
    typed = convert(model, precision, {"softmax": "^Softmax "})
    onnx.checker.check_model(typed.model, full_check=True)
    assert [w.data_type for w in typed.model.graph.initializer] == [dtype]
    types = {
        v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(typed.model).graph.value_info
    }
    assert types["m"] == dtype
    assert types["s"] == TensorProto.FLOAT
    assert {v.type.tensor_type.elem_type for v in (*typed.model.graph.input, *typed.model.graph.output)} == {
        TensorProto.FLOAT
    }
    assert typed.float_nodes == 1


def test_an_island_keeps_its_weights_in_full(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="/a/MatMul"),
        helper.make_node("MatMul", ["m", "w"], ["y"], name="/wo/MatMul"),
    ]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], normals(4, 4).ravel())
    typed = convert(graph(nodes, weight, folder=tmp_path), "fp16", {"wo": "/wo/"})
    assert sorted(w.data_type for w in typed.model.graph.initializer) == [TensorProto.FLOAT, TensorProto.FLOAT16]
    assert typed.extra_bytes == 2 * 16


def test_what_masks_use_as_lowest_stays_finite(tmp_path: Path) -> None:
    """-3.4e38 as -Inf would make NaN of a row that is masked in full."""
    nodes = [
        helper.make_node("Add", ["x", "lowest"], ["masked"], name="/Add"),
        helper.make_node("Softmax", ["masked"], ["y"], name="/Softmax"),
    ]
    model = graph(nodes, scalar("lowest", float(np.finfo(np.float32).min)), folder=tmp_path)
    y = run(convert(model, "fp16", {}, emulate=True).model, np.zeros((2, 4), np.float32))
    assert y == pytest.approx(np.full((2, 4), 0.25))


def test_arithmetic_that_ends_in_an_index_is_exact(tmp_path: Path) -> None:
    """floor(x * 1000.5) in FP16 is off by hundreds."""
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["scaled"], name="/Mul"),
        helper.make_node("Cast", ["scaled"], ["index"], name="/Cast", to=TensorProto.INT64),
        helper.make_node("Cast", ["index"], ["y"], name="/Cast_1", to=TensorProto.FLOAT),
    ]
    model = graph(nodes, scalar("k", 1000.5), folder=tmp_path)
    x = np.abs(normals(5, 4)) + 1
    typed = convert(model, "fp16", {}, emulate=True)
    assert run(typed.model, x) == pytest.approx(np.trunc(x * np.float32(1000.5)), rel=6e-4)
    inner = {node.name: node for node in convert(model, "fp16", {}).model.graph.node}
    assert inner["/Mul"].input[0] == "x"  # not a half copy of it


def test_inputs_are_rounded_where_they_are_used(tmp_path: Path) -> None:
    """A timestep is reshaped first: rounding it there would lose what an island downstream needs."""
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["moved"], name="/Reshape"),
        helper.make_node("Sin", ["moved"], ["y"], name="/time_proj/Sin"),
    ]
    flat = helper.make_tensor("flat", TensorProto.INT64, [1], [-1])
    model = graph(nodes, flat, folder=tmp_path)
    x = np.full((1, 4), 999.5, np.float32)
    for precision in ("fp16", "bf16"):
        typed = convert(model, precision, {"time": "/time_proj/"}, emulate=True)
        assert run(typed.model, x) == pytest.approx(np.sin(np.float32(999.5)), abs=1e-5)


def test_subgraphs_are_refused(tmp_path: Path) -> None:
    then = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["t"])], "then", [], [helper.make_tensor_value_info("t", 1, None)]
    )
    nodes = [
        helper.make_node("Cast", ["flag"], ["b"], to=TensorProto.BOOL),
        helper.make_node("If", ["b"], ["y"], name="/If", then_branch=then, else_branch=then),
    ]
    model = graph(nodes, helper.make_tensor("flag", TensorProto.INT64, [], [1]), folder=tmp_path)
    with raises_line(BuildError, "/If (If) holds a subgraph"):
        convert(model, "fp16", {})


@pytest.fixture(scope="module")
def traced(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Component, onnx.ModelProto]]:
    @cache  # every precision of a component is a rounding of one trace
    def make(name: str) -> tuple[Component, onnx.ModelProto]:
        component = COMPONENTS[name](Checkpoint(checkpoint("one_width"), "one_width"))
        folder = tmp_path_factory.mktemp(name)
        return component, read_model(folder / export_onnx(component, folder, name)[0])

    return make


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", list(COMPONENTS))
def test_every_component_within_its_tolerance(traced: Any, name: str, precision: str) -> None:
    component, model = traced(name)
    without_norms = {"vocoder", "projection_model"}
    patterns = [] if name in without_norms else component.islands.values()
    assert all(any(matches(model, pattern)) for pattern in (*patterns, *component.bf16_islands.values()))
    engine = emulated(name, component, model, precision, component.islands_in(precision))
    for sizes in component.sizes:
        error = compare(component, engine, sizes, int(torch.seed() % 2**31))
        assert 1e-5 < error <= TOLERANCE[precision]  # not exact: something was rounded


def test_t5_survives_outputs_beyond_fp16(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """The trained model's feed-forward outputs leave FP16's range: weights are scaled here until they do."""
    component = COMPONENTS["text_encoder_2"](Checkpoint(checkpoint("plain"), "plain"))
    with torch.no_grad():
        for name, weight in component.module.named_parameters():
            if name.endswith("wo.weight"):
                weight.mul_(1e5)
    model = read_model(tmp_path / export_onnx(component, tmp_path, "t5")[0])
    plain = {"norm statistics": component.islands["norm statistics"]}
    engine = emulated("t5", component, model, "fp16", plain)
    assert not np.isfinite(compare(component, engine, component.sizes[0], 1))
    engine = emulated("t5", component, model, "fp16", component.islands)
    assert compare(component, engine, component.sizes[0], 1) <= TOLERANCE["fp16"]
    said: list[str] = []
    table = {island.name: island for island in measure_islands("t5", component, model, "fp16", said.append)}
    assert table["feed-forward output and residual"].error_without is None  # overflow
    assert len(said) == 2


def test_files_are_half_the_size(traced: Any, tmp_path: Path) -> None:
    component, model = traced("vocoder")
    sizes = []
    for folder, content in (("full", model), ("half", convert(model, "fp16", component.islands).model)):
        (tmp_path / folder).mkdir()
        files = save(content, tmp_path / folder, "vocoder")
        sizes.append(sum((tmp_path / folder / file).stat().st_size for file in files))
    assert sizes[1] < 0.56 * sizes[0]
