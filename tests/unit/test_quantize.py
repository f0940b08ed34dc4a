"""The search that INT8 and FP8 share, and what the FP8 graph says."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.engines_tensorrt import TENSORRT, TENSORRT_RTX
from export.errors import BuildError
from export.fp8 import LARGEST, Fp8
from export.int8 import Int8
from export.maker import TensorRTOptions
from export.onnx import save
from export.precision import convert, read_model
from export.quantize import quantize
from export.target import Target
from tests.unit.helpers import raises_line

WIDTH = 32


def layers(folder: Path, spread: float) -> Path:
    """Three blocks of one layer: the last one's input has a channel `spread` times as large as the others."""
    rng = np.random.default_rng(0)
    wide = np.diag([spread, *[1.0] * (WIDTH - 1)]).astype(np.float32)
    first, last = (rng.standard_normal((WIDTH, WIDTH), np.float32) for _ in range(2))
    weights = {"first": first, "second": wide, "third": np.linalg.inv(wide) @ last}
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], name="/net/easy/a/MatMul"),
        helper.make_node("MatMul", ["a", "second"], ["b"], name="/net/spread/b/MatMul"),
        helper.make_node("Tanh", ["b"], ["t"]),
        helper.make_node("Add", ["t", "b"], ["c"]),
        helper.make_node("MatMul", ["c", "third"], ["y"], name="/net/hard/c/MatMul"),
    ]
    shape = [None, WIDTH]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in ("x", "y")]
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph, opset = helper.make_graph(nodes, "layers", *ends, initializers), [helper.make_opsetid("", 18)]
    path = folder / "layers.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def fp8(path: Path) -> Fp8:
    return Fp8(read_model(path), {})


# FP8 has exponents: what INT8 loses beside a value a thousand times as large it keeps, but not beside 50000 times.
@pytest.mark.parametrize(("make", "spread"), [(Int8, 1e3), (fp8, 5e4)])
def test_blocks_that_cost_the_most_go_back_to_float(
    make: Callable[[Path], Any], spread: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.onnx.EXTERNAL_DATA_BYTES", 0)  # weights in a file of their own, as at base size
    rng, lines = np.random.default_rng(1), []
    feeds = [{"x": 0.03 * rng.standard_normal((64, WIDTH), np.float32)} for _ in range(9)]  # within FP16's range
    scheme = make(layers(tmp_path, spread))
    search = partial(quantize, "layers", scheme, feeds)
    assert search(1e-6, lines.append) is None
    assert [line.split(" more layers kept")[0][-1] for line in lines[:2]] == ["0", "1"]
    first, second = (float(line.split()[-1]) for line in lines[:2])
    assert second < 0.7 * first
    assert "not quantized" in lines[2]
    found = search((first + second) / 2, lines.append)
    assert found is not None
    assert found.error <= (first + second) / 2
    kept = scheme.layers(found.graph)
    assert len(kept) == 2
    assert "/net/hard/c/MatMul" not in kept


def test_an_fp8_graph_computes_with_rounded_inputs_and_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng()
    x, outlier = rng.standard_normal((64, WIDTH), np.float32), 10 * np.ones((1, WIDTH), np.float32)
    scheme = fp8(layers(tmp_path, 1.0))
    graph = scheme.quantized(["/net/spread/b/MatMul", "/net/hard/c/MatMul"], [{"x": x}, {"x": outlier}])
    onnx.checker.check_model(graph, full_check=True)
    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    assert stored["first/code"].data_type == TensorProto.FLOAT8E4M3FN

    def rounded(values: Any, largest: float) -> Any:
        scale = np.float32(np.float16(largest / LARGEST))
        return (values / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale

    first, last = (numpy_helper.to_array(stored[name]) for name in ("first", "third"))
    a = rounded(x, 10.0) @ rounded(first, np.abs(first).max())
    expected = (np.tanh(a) + a) @ last
    actual = scheme.outputs(graph, [{"x": x}])[0]
    assert np.linalg.norm(actual - expected) < 1e-2 * np.linalg.norm(expected)  # FP16 elsewhere
    exact = scheme.outputs(scheme.exact, [{"x": x}])[0]
    assert np.linalg.norm(actual - exact) > 2e-2 * np.linalg.norm(exact)


def test_a_typed_fp8_graph_is_valid_and_half_as_large_again(tmp_path: Path) -> None:
    scheme = fp8(layers(tmp_path, 1.0))
    x = np.random.default_rng().standard_normal((64, WIDTH), np.float32)
    graph = scheme.quantized([], [{"x": x}])
    typed = convert(graph, "fp8", {}).model
    onnx.checker.check_model(typed, full_check=True)
    weights = [tensor for tensor in typed.graph.initializer if len(tensor.dims) == 2]
    assert {tensor.data_type for tensor in weights} == {TensorProto.FLOAT8E4M3FN}
    assert sum(len(tensor.raw_data) for tensor in weights) == 3 * WIDTH**2
    session = onnxruntime.InferenceSession(str(tmp_path / save(typed, tmp_path, "typed")[0]))
    found, exact = session.run(None, {"x": x})[0], scheme.outputs(scheme.exact, [{"x": x}])[0]
    assert 2e-2 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < 0.1


@pytest.mark.parametrize(
    ("attributes", "dims", "suits"),
    [
        ({}, (32, 16, 3, 3), True),
        ({}, (32, 8, 3, 3), False),  # channels that no matrix instruction takes
        ({}, (24, 16, 3, 3), False),
        ({}, (32, 16, 7, 7), False),  # a window that TensorRT has no kernel for
        ({"group": 2}, (32, 16, 3, 3), False),
    ],
)
def test_convolutions_that_gpus_take_in_fp8(attributes: dict[str, int], dims: tuple[int, ...], suits: bool) -> None:
    channels = dims[1] * attributes.get("group", 1)
    weight = numpy_helper.from_array(np.ones(dims, np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="/net/conv1/Conv", **attributes)
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width, None, None])]
        for name, width in (("x", channels), ("y", dims[0]))
    ]
    graph = helper.make_graph([node], "conv", *ends, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    scheme = Fp8(model, {})
    found = scheme.quantized([], [{"x": np.ones((1, channels, 16, 16), np.float32)}])
    assert scheme.layers(found) == (["/net/conv1/Conv"] if suits else [])
    assert Fp8(model, {"an island": "^Conv /net/conv1/"}).layers(found) == []


def test_fp8_is_for_gpus_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Target(maker=TENSORRT_RTX, precision="fp8").options.compute_capabilities
    assert {"8.9", "12.0"} <= set(chosen)
    assert min(map(float, chosen)) == 8.9
    one = TensorRTOptions(compute_capabilities=("12.0",))
    assert Target(maker=TENSORRT_RTX, precision="fp8", options=one).options == one
    assert Target(maker=TENSORRT_RTX, precision="fp16").options.compute_capabilities == ()
    for capabilities in (("8.6",), ("8.9", "7.5")):
        with raises_line(BuildError, "--precision fp8 needs compute capability 8.9", capabilities[-1]):
            options = TensorRTOptions(compute_capabilities=capabilities)
            Target(maker=TENSORRT_RTX, precision="fp8", options=options)
    with raises_line(BuildError, "--hardware-compatible"):
        Target(maker=TENSORRT, precision="fp8", options=TensorRTOptions(hardware_compatible=True))
    for here in ("9.0", "10.0", None):
        monkeypatch.setattr("export.engines_tensorrt.gpu_capability", lambda here=here: here)
        assert Target(maker=TENSORRT, precision="fp8").precision == "fp8"
    monkeypatch.setattr("export.engines_tensorrt.gpu_capability", lambda: "8.0")
    with raises_line(BuildError, "8.9", "8.0"):
        Target(maker=TENSORRT, precision="fp8")
