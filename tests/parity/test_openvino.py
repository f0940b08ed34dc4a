"""OpenVINO on the same bundles: what it computes, what it compiles, and who chooses it."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as opset

from export.demo import CONFIGS
from export.parity import relative_error
from runtime import AudioLDM2Pipeline, InputError
from runtime.backends import openvino as backend
from runtime.backends.device import HostDevice
from runtime.backends.engine import Engine
from runtime.bundle import Bundle, choose_backend
from runtime.errors import EngineError
from tests.checkpoints import SMALL
from tests.unit.helpers import raises_line

EXACT, BF16 = 1e-3, 0.04
needs_bf16 = pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="this CPU has no BF16"
)
CALL = {"num_inference_steps": 4, "audio_length_in_s": 0.5}
PROMPTS = [
    "a dog barks far away behind a wall of tall trees and then it stops to listen",
    "rain",
]  # lengths of their own


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gc.collect()  # pipelines of earlier tests: what they hold would be shared
    return tmp_path / "trt-audioldm2" / "openvino"


def opened(folder: Path, precision: str = "fp32", **options: Any) -> AudioLDM2Pipeline:
    return AudioLDM2Pipeline.from_pretrained(folder, "cpu", backend="openvino", precision=precision, **options)


@pytest.mark.parametrize("name", SMALL)
def test_fp32_gives_the_same_sound(name: str, bundle: Callable[[str], Path]) -> None:
    """Prompts in one call too: a result that is a view of the engine's memory is lost at the engine's next run."""
    seeds = np.random.default_rng().integers(1_000, size=2).tolist()
    arguments = {**CALL, "seed": seeds}
    expected = AudioLDM2Pipeline.from_pretrained(bundle(name), "cpu", backend="onnxruntime")(PROMPTS, **arguments)
    actual = opened(bundle(name))(PROMPTS, **arguments)
    assert np.sqrt((expected.audios**2).mean()) > 1e-2
    assert relative_error(actual.audios, expected.audios) <= EXACT


@pytest.mark.parametrize("options", [{"low_memory": True}, {"free_text": True}, {"vae_slicing": True}])
def test_ways_to_save_memory_change_nothing(options: dict[str, bool], bundle: Callable[[str], Path]) -> None:
    arguments = {**CALL, "seed": 3, "num_waveforms_per_prompt": 2}
    expected, actual = (opened(bundle("plain"), **way)(PROMPTS[0], **arguments) for way in ({}, options))
    assert relative_error(actual.audios, expected.audios) <= EXACT


def unet_feeds(unet: Engine) -> dict[str, Any]:
    """For two rows of 12, and texts of 16 tokens."""
    rng, sizes = np.random.default_rng(), {"batch": 2, "height": 12, "tokens": 16, "new_tokens": 8}
    feeds = {
        name: rng.standard_normal([sizes.get(a, low) for a, low in zip(s.axes, s.min_shape, strict=True)], np.float32)
        for name, s in unet.inputs.items()
        if s.dtype == "float32"
    }
    return feeds | {"encoder_attention_mask_1": np.ones((2, 16), np.int64)}


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_prepared_engine_compiles_nothing_more(
    precision: str, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    unet, text = (
        Bundle.read(bundle("plain")).open(name, HostDevice(precision), "openvino") for name in ("unet", "text_encoder")
    )
    unet.prepare({"batch": 2, "height": 12})
    text.prepare({})
    assert unet.loading_s == text.loading_s == 0
    monkeypatch.delattr(backend.Program, "_compile")
    assert np.isfinite(unet.run(unet_feeds(unet))["noise_pred"]).all()
    text.run({"input_ids": np.ones((2, 9), np.int64), "attention_mask": np.ones((2, 9), np.int64)})


def test_what_cannot_be_prepared_is_said_in_one_line(
    bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("Exception from src/core/node.cpp:1\nno such shape")

    engine = vocoder(bundle("plain"))
    monkeypatch.setattr(backend.Program, "_compile", refuse)
    with raises_line(EngineError, "vocoder", "no such shape"):
        engine.prepare({"batch": 1, "frames": 52})


@needs_bf16
def test_another_process_reads_the_program_of_the_first(bundle: Callable[[str], Path], cache: Path) -> None:
    """Its inputs once came in the order of a set, which is each process's own, and so did the key."""
    code = (
        "import sys; from runtime.bundle import Bundle; from runtime.backends.device import HostDevice\n"
        "unet = Bundle.read(sys.argv[1]).open('unet', HostDevice('bf16'), 'openvino')\n"
        "unet.prepare({'batch': 2, 'height': 12})"
    )
    for seed in "1234":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(bundle("plain"))], env=environment, check=True)
    assert len(list(cache.iterdir())) == 1


@needs_bf16
def test_bf16_is_what_auto_means_except_where_it_is_heard(bundle: Callable[[str], Path]) -> None:
    exact, half = (Bundle.read(bundle("plain")).open("unet", HostDevice(kind), "openvino") for kind in ("fp32", "auto"))
    feeds = unet_feeds(exact)
    for timestep in (5.0, 521.0, 999.0):  # the last two are no numbers of BF16
        feeds["timestep"][:] = timestep
        error = relative_error(half.run(feeds)["noise_pred"], exact.run(feeds)["noise_pred"])
        assert 1e-4 < error < BF16
    assert (exact.label, half.label) == ("openvino fp32", "openvino bf16")


def attention(heads: int, positions: int) -> Any:
    """An attention of queries (2, positions, 16 a head) to 5 others, as a graph of OpenVINO's."""
    width, rng = 16 * heads, np.random.default_rng()

    def projected(rows: Any) -> Any:
        weights = rng.normal(size=(width, width), scale=2 / np.sqrt(width)).astype(np.float32)
        return opset.matmul(rows, opset.constant(weights), False, False)

    queries, others = (opset.parameter([2, rows, width], np.float32) for rows in (positions, 5))
    split, swap = opset.constant(np.int64([2, -1, heads, 16])), opset.constant(np.int64([0, 2, 1, 3]))
    apart = [opset.transpose(opset.reshape(projected(x), split, False), swap) for x in (queries, others, others)]
    mixed = opset.transpose(opset.scaled_dot_product_attention(*apart), swap)
    joined = opset.reshape(mixed, opset.constant(np.int64([2, -1, width])), False)
    return openvino.Model([opset.result(projected(joined))], [queries, others])


@needs_bf16
@pytest.mark.parametrize("positions", [2, 3, 4, 5, 8])
def test_heads_are_not_taken_for_positions_in_bf16(positions: int, tmp_path: Path) -> None:
    """OpenVINO's generated kernels do, where there are as many of both."""
    openvino.save_model(attention(4, positions), tmp_path / "attention.xml")
    feeds = [np.random.default_rng().standard_normal((2, rows, 64), np.float32) for rows in (positions, 5)]
    exact, half = (
        backend.Program(tmp_path / "attention.xml", HostDevice(kind)).compiled({})(feeds)[0]
        for kind in ("fp32", "bf16")
    )
    assert relative_error(half, exact) < BF16


@needs_bf16
def test_the_vocoder_rounds_in_its_residual_blocks_alone(bundle: Callable[[str], Path]) -> None:
    mel = np.random.default_rng().standard_normal((1, 20, 64), np.float32)
    engines = [
        Bundle.read(bundle("plain")).open("vocoder", HostDevice(p), "openvino") for p in ("fp32", "auto", "bf16")
    ]
    assert [engine.label for engine in engines] == ["openvino fp32", "openvino mixed", "openvino bf16"]
    exact, mixed, half = (engine.run({"mel": mel})["waveform"].copy() for engine in engines)
    assert 1e-6 < relative_error(mixed, exact) < relative_error(half, exact) < BF16
    assert isinstance(engines[1], backend.OpenVinoEngine)
    compiled = engines[1]._program.compiled({"mel": [1, 20, 64]})  # the one that has just run
    layers = executed(compiled)  # first, last, and upsampling by convolution are in FP32
    config = CONFIGS["vocoder"]
    residual = 2 * len(config["upsample_rates"]) * sum(map(len, config["resblock_dilation_sizes"]))
    exact = [layers.count(("Convolution", kind)) for kind in ("f32", "bf16")]
    assert exact == [2 + len(config["upsample_rates"]), residual]
    assert "Deconvolution" not in {layer for layer, _ in layers}


@pytest.mark.parametrize(
    ("kernel", "stride", "cut"), [(16, 5, 5), (16, 4, 6), (8, 2, 3), (4, 2, 0), (3, 3, 0), (2, 3, 0)]
)
def test_upsampling_by_convolution_is_a_transposed_one(kernel: int, stride: int, cut: int) -> None:
    rng, core = np.random.default_rng(), openvino.Core()
    mel = opset.parameter([1, 6, 9], np.float32)
    weights = opset.constant(rng.standard_normal((6, 4, kernel), np.float32))
    model = openvino.Model(
        [opset.convolution_backprop_data(mel, weights, [stride], pads_begin=[cut], pads_end=[cut])], [mel]
    )
    samples = rng.standard_normal((1, 6, 9), np.float32)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    expected = core.compile_model(model, "CPU", exact)(samples)[0]
    backend.openvino_graph.upsample_by_convolution(model)
    assert "ConvolutionBackpropData" not in {layer.get_type_name() for layer in model.get_ordered_ops()}
    actual = core.compile_model(model, "CPU", exact)(samples)[0]
    assert actual.shape == expected.shape
    assert relative_error(actual, expected) < 1e-5


def executed(compiled: Any) -> list[tuple[str, str]]:
    """Type and precision of each layer of a program as it is run."""
    layers = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    return [(layer["layerType"].astype(str), layer["runtimePrecision"].astype(str)) for layer in layers]


def test_texts_of_any_length_share_a_program(bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_ = backend.Program._compile

    def spy(self: backend.Program, shapes: Any) -> Any:
        compiled.append(self._path.stem)
        return compile_(self, shapes)

    monkeypatch.setattr(backend.Program, "_compile", spy)
    pipe = opened(bundle("plain"))
    for prompt in PROMPTS:
        pipe(prompt, seed=1, **CALL)
    assert sorted(compiled) == sorted(set(compiled))
    pipe("rain", seed=1, **{**CALL, "audio_length_in_s": 0.8})
    assert {name for name in compiled if compiled.count(name) == 2} == {"unet", "vae_decoder", "vocoder"}


def test_programs_of_few_shapes_are_kept(bundle: Callable[[str], Path]) -> None:
    engine = Bundle.read(bundle("plain")).open("vocoder", HostDevice("fp32"), "openvino")
    assert isinstance(engine, backend.OpenVinoEngine)
    mels = [np.random.default_rng().standard_normal((1, frames, 64), np.float32) for frames in (8, 12, 16, 20)]
    again = [engine.run({"mel": mel})["waveform"] for mel in (*mels, mels[0])]
    assert len(engine._requests) == backend.KEPT_SHAPES
    np.testing.assert_array_equal(again[0], again[-1])


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of graphs as they are compiled, rather than read from the cache."""
    names: list[str] = []

    def spy(name: str, *_: object) -> None:
        names.append(name)

    keep = backend.keep_cached
    monkeypatch.setattr(backend, "keep_cached", lambda *entry: (spy(*entry), keep(*entry)))
    return names


def vocoder(folder: Path) -> backend.OpenVinoEngine:
    engine = Bundle.read(folder).open("vocoder", HostDevice("fp32"), "openvino")
    assert isinstance(engine, backend.OpenVinoEngine)
    return engine


def test_programs_are_kept_on_disk_within_bounds(
    bundle: Callable[[str], Path], cache: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(bundle("plain"))("rain", seed=1, **CALL)
    assert len(list(cache.iterdir())) == len(compiled) == 7
    opened(bundle("plain"))("rain", seed=1, **CALL)
    assert len(compiled) == 7  # all were read back
    most = max(file.stat().st_size for file in cache.iterdir())
    monkeypatch.setattr("runtime.backends.cache.CACHE_BYTES", most)
    vocoder(bundle("plain")).run({"mel": np.zeros((1, 28, 64), np.float32)})
    assert len(compiled) == 8
    assert 0 < sum(file.stat().st_size for file in cache.iterdir()) <= most
    before = sorted(cache.iterdir())
    monkeypatch.setattr(backend, "CACHED_GRAPH_BYTES", 0)
    gc.collect()  # a program of before would be shared
    vocoder(bundle("plain")).run({"mel": np.zeros((1, 36, 64), np.float32)})
    assert sorted(cache.iterdir()) == before


def test_a_damaged_program_is_compiled_again(bundle: Callable[[str], Path], cache: Path, compiled: list[str]) -> None:
    """A flipped bit once made another sound without a word."""
    mel = np.random.default_rng().standard_normal((1, 16, 64), np.float32)
    expected = vocoder(bundle("plain")).run({"mel": mel})["waveform"]
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:-2000] + bytes([whole[-2000] ^ 16]) + whole[-1999:], whole[:100], b""):
        compiled.clear()
        file.write_bytes(damaged)
        np.testing.assert_array_equal(vocoder(bundle("plain")).run({"mel": mel})["waveform"], expected)
        assert compiled == ["openvino"]
        compiled.clear()
        np.testing.assert_array_equal(vocoder(bundle("plain")).run({"mel": mel})["waveform"], expected)
        assert compiled == []  # what was kept in its place is whole


@pytest.mark.parametrize("trouble", ["a file in its place", "no home", "no space", "/proc"])
def test_a_cache_that_cannot_be_used_costs_no_render(
    trouble: str, bundle: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble == "a file in its place":
        (tmp_path / "trt-audioldm2").write_text("not a folder")
    elif trouble == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home")))
    elif trouble == "no space":
        monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    assert np.isfinite(vocoder(bundle("plain")).run({"mel": np.zeros((1, 16, 64), np.float32)})["waveform"]).all()


@pytest.mark.parametrize("together", [True, False], ids=["one pipeline", "a pipeline each"])
def test_threads_get_what_they_get_alone(bundle: Callable[[str], Path], together: bool) -> None:
    """Cold at first, of several lengths, so that programs are compiled and dropped while others run."""
    calls = [("rain", 1, 0.5), ("a dog", 2, 0.6), ("a low bell", 3, 0.7)]  # one length more than is kept

    def run(pipe: AudioLDM2Pipeline, prompt: str, seed: int, seconds: float) -> np.ndarray:
        return pipe(prompt, seed=seed, audio_length_in_s=seconds, num_inference_steps=2).audios

    alone = [run(opened(bundle("plain")), *call) for call in calls]
    one = opened(bundle("plain"))
    pipes = [one if together else opened(bundle("plain")) for _ in calls]
    with ThreadPoolExecutor(len(calls)) as pool:
        for _ in range(2):
            for found, expected in zip(pool.map(run, pipes, *zip(*calls, strict=True)), alone, strict=True):
                assert relative_error(found, expected) <= 1e-5


def test_who_chooses(bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read = Bundle.read(bundle("plain"))
    assert choose_backend(read, HostDevice(), "auto") is None  # here OpenVINO counts as not installed
    monkeypatch.setattr("runtime.bundle.choice.find_spec", find_spec)
    assert choose_backend(read, HostDevice(), "auto") == "openvino"
    with raises_line(InputError, "unknown backend 'tensorflow'", "auto, onnxruntime, openvino"):
        choose_backend(read, HostDevice(), "tensorflow")
    with raises_line(InputError, "unknown precision 'int4'", "auto, fp32, bf16"):
        AudioLDM2Pipeline.from_pretrained(bundle("plain"), "cpu", precision="int4")
    pipe = AudioLDM2Pipeline.from_pretrained(bundle("plain"), "cpu", backend="onnxruntime", precision="bf16")
    with raises_line(EngineError, "bf16", "openvino"):
        pipe("rain", **CALL)


def test_a_cpu_without_bf16(bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class OldCore:
        def get_property(self, *_: str) -> list[str]:
            return ["FP32", "INT8"]

    assert backend._precision(OldCore(), "auto") == "fp32"
    with raises_line(EngineError, "no instructions", "fp32"):
        backend._precision(OldCore(), "bf16")


def test_compiling_counts_as_loading(bundle: Callable[[str], Path]) -> None:
    pipe = opened(bundle("plain"))
    first, second = (pipe("rain", seed=1, **CALL).timings for _ in range(2))
    assert second["load"] < 0.05
    assert first["load"] > first["encode"] + first["decode"] + first["vocode"]  # what is left there is the work


def test_pages_are_given_back_when_weights_are_packed(
    bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a program for any shape that is in its first run."""
    given: list[str] = []
    monkeypatch.setattr(backend, "give_back", lambda graph: given.append(graph.name))
    engine = Bundle.read(bundle("plain")).open("text_encoder", HostDevice("fp32"), "openvino")
    for count in (2, 2, 2):
        engine.run({name: np.ones((1, 5), np.int64) for name in engine.inputs})
        assert given == ["text_encoder.onnx"] * count


def test_mapped_pages_are_given_back(tmp_path: Path) -> None:
    def resident_bytes() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) * 1024

    file = tmp_path / "weights of 40 MB.bin"
    values = np.random.default_rng().standard_normal(5_000_000)
    values.tofile(file)
    mapped = np.memmap(file, values.dtype, mode="r")
    assert mapped.sum() == values.sum()
    before = resident_bytes()
    backend.give_back(tmp_path / "weights of 41 MB.xml")
    assert abs(before - resident_bytes()) < 0.1 * values.nbytes
    backend.give_back(file.with_suffix(".xml"))  # a graph's weights lie beside it
    assert before - resident_bytes() > 0.9 * values.nbytes
    np.testing.assert_array_equal(mapped, values)
