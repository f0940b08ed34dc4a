from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from runtime.backends.device import HostDevice
from runtime.backends.engine import Engine, load_engine
from runtime.backends.fake import FakeEngine
from runtime.backends.open_device import open_device
from runtime.backends.specs import TensorSpec
from runtime.errors import EngineError, InputError
from tests.unit.helpers import raises_line

INPUTS = {
    "states": TensorSpec(
        dtype="float32", axes=("rows", "tokens", "width"), min_shape=(1, 1, 4), max_shape=(8, None, 4)
    ),
    "mask": TensorSpec(dtype="int64", axes=("rows", "tokens"), min_shape=(1, 1), max_shape=(8, None)),
}
OUTPUTS = {"sums": TensorSpec(dtype="float32", axes=("rows", "width"), min_shape=(1, 4), max_shape=(8, 4))}


def feeds(rows: int = 2, tokens: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng()
    mask = np.ones((rows, tokens), np.int64)
    mask[:, -1] = 0
    return {"states": rng.standard_normal((rows, tokens, 4)).astype(np.float32), "mask": mask}


def masked_sum(states: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    return {"sums": (states * mask[..., None].astype(np.float32)).sum(axis=1)}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """An .onnx file that does what `masked_sum` does."""
    nodes = [
        helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["column"]),
        helper.make_node("Mul", ["states", "column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens_axis"], ["sums"], keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "masked_sum",
        [
            helper.make_tensor_value_info("states", TensorProto.FLOAT, ["rows", "tokens", 4]),
            helper.make_tensor_value_info("mask", TensorProto.INT64, ["rows", "tokens"]),
        ],
        [helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["rows", 4])],
        [
            helper.make_tensor("last", TensorProto.INT64, [1], [2]),
            helper.make_tensor("tokens_axis", TensorProto.INT64, [1], [1]),
        ],
    )
    path = tmp_path / "masked_sum.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


GRAPH_BACKENDS = pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])


@pytest.fixture(params=["fake", "onnxruntime", "openvino"])
def engine(request: pytest.FixtureRequest, graph: Path) -> Iterator[Engine]:
    """The same computation behind each backend: the contract is one."""
    made: Engine
    if request.param == "fake":
        made = FakeEngine("masked_sum", INPUTS, OUTPUTS, masked_sum)
    else:
        device = HostDevice("fp32")
        made = load_engine(graph, backend=request.param, inputs=INPUTS, outputs=OUTPUTS, device=device)
    yield made
    made.close()


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (2, 3), (8, 40)])
def test_run(engine: Engine, rows: int, tokens: int) -> None:
    given = feeds(rows, tokens)
    outputs = engine.run(given)
    assert outputs.keys() == OUTPUTS.keys()
    np.testing.assert_allclose(outputs["sums"], masked_sum(**given)["sums"], rtol=1e-5, atol=1e-6)


def test_several_wrong_feeds_are_each_named(engine: Engine) -> None:
    good = feeds()
    wrong: list[tuple[dict[str, np.ndarray], tuple[str, ...]]] = [
        ({"states": good["states"].astype(np.float64)}, ("'states'", "float64", "expected float32")),
        ({"mask": good["mask"].astype(np.int32)}, ("'mask'", "int32", "expected int64")),
        ({"states": good["states"][0]}, ("'states'", "(3, 4)", "3 axes", "rows, tokens, width")),
        ({"mask": good["mask"][..., None]}, ("'mask'", "(2, 3, 1)", "2 axes")),
        (feeds(rows=9), ("'states'", "'rows'", "is 9", "1 to 8")),
        (feeds(tokens=1) | {"mask": np.ones((2, 0), np.int64)}, ("'mask'", "'tokens'", "is 0", "1 to any")),
        ({"states": np.zeros((2, 3, 5), np.float32)}, ("'states'", "'width'", "is 5", "exactly 4")),
        ({"states": np.zeros((2, 4, 3), np.float32).swapaxes(1, 2)}, ("'states'", "contiguous")),
        ({"mask": np.ones((2, 6), np.int64)[:, ::2]}, ("'mask'", "contiguous")),
        ({"mask": np.ones((2, 4), np.int64)}, ("'tokens'", "3 in 'states'", "4 in 'mask'")),
        ({"mask": np.ones((1, 3), np.int64)}, ("'rows'", "2 in 'states'", "1 in 'mask'")),
        ({"other": good["mask"]}, ("unknown", "'other'")),
    ]
    for change, fragments in wrong:
        with raises_line(EngineError, "masked_sum", *fragments):
            engine.run({**good, **change})
    with raises_line(EngineError, "masked_sum", "missing", "'mask'"):
        engine.run({"states": good["states"]})


def test_fake_counts_only_the_calls_it_takes() -> None:
    engine = FakeEngine("masked_sum", INPUTS, OUTPUTS, masked_sum)
    engine.run(feeds())
    with raises_line(EngineError):
        engine.run({})
    assert engine.calls == 1


@pytest.mark.parametrize(
    ("output", "fragments"),
    [
        ({"sums": np.zeros((2, 4))}, ("'sums'", "float64", "expected float32")),
        ({"sums": np.zeros((2, 5), np.float32)}, ("'sums'", "'width'", "is 5", "exactly 4")),
        ({"total": np.zeros((2, 4), np.float32)}, ("missing", "'sums'", "unknown", "'total'")),
    ],
)
def test_fake_checks_what_its_function_gives(output: dict[str, np.ndarray], fragments: tuple[str, ...]) -> None:
    engine = FakeEngine("masked_sum", INPUTS, OUTPUTS, lambda **_: output)
    with raises_line(EngineError, "masked_sum (outputs)", *fragments):
        engine.run(feeds())


def test_no_bound_above_takes_any_size() -> None:
    assert INPUTS["mask"].mismatch(np.ones((1, 100_000), np.int64)) is None


def test_a_spec_of_unequal_lengths_is_refused() -> None:
    good = msgspec.to_builtins(INPUTS["mask"])
    for field, value in [("axes", ["rows"]), ("min_shape", [1, 1, 1]), ("max_shape", [8])]:
        with pytest.raises(msgspec.ValidationError, match="one entry an axis"):
            msgspec.convert({**good, field: value}, TensorSpec)


@GRAPH_BACKENDS
def test_garbage_is_refused(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "unet.onnx"
    path.write_bytes(np.random.default_rng().bytes(2_000))
    with raises_line(EngineError, "unet.onnx", "refused"):
        load_engine(path, backend=backend, inputs=INPUTS, outputs=OUTPUTS)


@GRAPH_BACKENDS
def test_a_missing_file_is_refused(backend: str, tmp_path: Path) -> None:
    with raises_line(EngineError, "unet.onnx", "refused"):
        load_engine(tmp_path / "unet.onnx", backend=backend, inputs=INPUTS, outputs=OUTPUTS)


@GRAPH_BACKENDS
@pytest.mark.parametrize(
    ("inputs", "outputs", "name"),
    [
        ({"states": INPUTS["states"]}, OUTPUTS, "mask"),
        ({**INPUTS, "extra": INPUTS["mask"]}, OUTPUTS, "extra"),
        (INPUTS, {"total": OUTPUTS["sums"]}, "total"),
    ],
)
def test_another_graph_is_refused(
    backend: str, graph: Path, inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec], name: str
) -> None:
    with raises_line(EngineError, "masked_sum", "manifest", f"'{name}'"):
        load_engine(graph, backend=backend, inputs=inputs, outputs=outputs)


@GRAPH_BACKENDS
def test_what_the_library_says_is_passed_on(backend: str, graph: Path) -> None:
    # a manifest that lies about a size: the spec lets the feed through, the library does not
    width = {"min_shape": (1, 1, 5), "max_shape": (8, None, 5)}
    inputs = {**INPUTS, "states": msgspec.structs.replace(INPUTS["states"], **width)}
    engine = load_engine(graph, backend=backend, inputs=inputs, outputs=OUTPUTS)
    given = feeds()
    with raises_line(EngineError, "masked_sum"):
        engine.run({**given, "states": np.ones((*given["mask"].shape, 5), np.float32)})


@GRAPH_BACKENDS
def test_after_close(backend: str, graph: Path) -> None:
    engine = load_engine(graph, backend=backend, inputs=INPUTS, outputs=OUTPUTS)
    engine.close()
    engine.close()  # twice is harmless
    with raises_line(EngineError, "masked_sum", "closed"):
        engine.run(feeds())


@pytest.mark.parametrize("module", ["cuda", "device", "engine", "fake"])
def test_modules_beside_the_backends_are_none(module: str, graph: Path) -> None:
    with raises_line(EngineError, f"unknown backend '{module}'; this version has onnxruntime, openvino, tensorrt"):
        load_engine(graph, backend=module, inputs=INPUTS, outputs=OUTPUTS)


def test_tensorrt_runs_on_a_gpu_only(graph: Path) -> None:
    with raises_line(EngineError, "masked_sum.onnx", "run on a GPU, not on device 'cpu'"):
        load_engine(graph, backend="tensorrt", inputs=INPUTS, outputs=OUTPUTS)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "CPU", "cuda:-1", ""])
def test_unknown_devices(name: str) -> None:
    with raises_line(InputError, f"unknown device '{name}'", "cuda:N"):
        open_device(name)


@pytest.mark.parametrize("backend", ["tensorflow", "", "os", "../fake"])
def test_unknown_backend_lists_the_known(graph: Path, backend: str) -> None:
    with raises_line(EngineError, "masked_sum.onnx", f"'{backend}'", "onnxruntime"):
        load_engine(graph, backend=backend, inputs=INPUTS, outputs=OUTPUTS)
