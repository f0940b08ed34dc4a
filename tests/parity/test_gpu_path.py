"""The whole pipeline on the GPU's code path, over stand-ins for cupy and TensorRT, against the CPU's."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from export.parity import relative_error
from runtime import AudioLDM2Pipeline, EngineError, NumericsError
from runtime.backends.cuda import CudaDevice, Scope
from runtime.backends.onnxruntime import OrtCudaEngine
from runtime.backends.specs import BuiltFor
from runtime.backends.tensorrt import TensorRTEngine
from runtime.bundle import Bundle
from runtime.bundle.manifest import describe_file, write_manifest
from runtime.diffusion.schedulers import scheduler_names
from tests.fake_cupy import Event, FakeCupy
from tests.fake_tensorrt import BoundSession, FakeTensorRT
from tests.families import FAMILIES

FAST: dict[str, Any] = {"num_inference_steps": 4, "audio_length_in_s": 0.52}
EXACT = 1e-5
Gpu = tuple[FakeCupy, FakeTensorRT]
LIMITS = {"batch": 8, "height": 300, "frames": 1200, "new": 133, "past": 800, "all": 1024, "new_tokens": 64}


@pytest.fixture(scope="module")
def compiled(bundle: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the plain checkpoint with its graphs as plans of the fake TensorRT."""
    return _compiled(bundle("plain"), tmp_path_factory.mktemp("gpu") / "plain")


def _compiled(graphs: Path, folder: Path) -> Path:
    source = Bundle.read(graphs)
    shutil.copytree(source.folder, folder)
    engines = {}
    for name, spec in source.manifest.engines.items():
        profile = {}
        for key, tensor in spec.inputs.items():
            sizes = zip(tensor.axes, tensor.max_shape, strict=True)
            high = [LIMITS[axis] if size is None else size for axis, size in sizes]
            profile[key] = (tensor.min_shape, tensor.min_shape, high)
        plan = {"name": name, "onnx": str(source.folder / spec.files[0].name), "profiles": [profile]}
        (folder / f"{name}.engine").write_text(json.dumps(plan))
        engines[name] = msgspec.structs.replace(
            spec,
            files=(describe_file(folder, f"{name}.engine"),),
            backend="tensorrt",
            activation_bytes=None,
            built_for=BuiltFor(flavour="tensorrt", version="10.13.3.9", compute_capability="9.0"),
        )
    write_manifest(folder, msgspec.structs.replace(source.manifest, engines=engines))
    return folder


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    cupy = FakeCupy()
    trt = FakeTensorRT(cupy)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    return cupy, trt


@pytest.fixture(scope="module")
def on_cpu(bundle: Callable[[str], Path]) -> AudioLDM2Pipeline:
    return AudioLDM2Pipeline.from_pretrained(bundle("plain"), device="cpu")


@pytest.mark.parametrize("scheduler", scheduler_names())
def test_equals_the_cpu(compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu, scheduler: str) -> None:
    """Two calls: the second has other texts and steps, and replays what the first captured."""
    rng = np.random.default_rng()
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    guidance_scale = float(rng.choice([1.0, 3.5]))
    for prompt, steps in (("a dog", 5), ("a longer text about rain on a roof", 6)):
        call: dict[str, Any] = {
            "audio_length_in_s": 0.52,
            "num_inference_steps": steps,
            "seed": int(rng.integers(2**31)),
            "scheduler": scheduler,
            "guidance_scale": guidance_scale,
        }
        ours, theirs = pipe(prompt, **call).audios, on_cpu(prompt, **call).audios
        assert theirs.std() > 5e-3  # a signal: silence would agree too. Random checkpoints differ in loudness
        assert relative_error(ours, theirs) <= EXACT, call


@pytest.mark.parametrize("name", FAMILIES)
def test_other_families_equal_the_cpu(name: str, bundle: Callable[[str], Path], gpu: Gpu, tmp_path: Path) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(_compiled(bundle(name), tmp_path / name))
    on_cpu = AudioLDM2Pipeline.from_pretrained(bundle(name), device="cpu")
    seeds = np.random.default_rng().integers(2**31, size=2).tolist()
    call: dict[str, Any] = {**FAST, "num_waveforms_per_prompt": 2, "seed": seeds}
    launches = []
    for prompt in ("a dog", "a longer text about rain on a roof", "techno"):
        before = gpu[0].launches
        ours, theirs = pipe(prompt, **call), on_cpu(prompt, **call)
        launches.append(gpu[0].launches - before)
        assert ours.seeds == theirs.seeds
        assert theirs.audios.std() > 5e-3
        assert relative_error(ours.audios, theirs.audios) <= EXACT
    assert launches[-1] > launches[0]  # the steps are replayed, whatever the text


@pytest.mark.parametrize(
    "edit",
    [
        {"strength": 0.0},
        {"strength": 0.6},
        {"strength": 0.5, "encoding": "sample", "seed_device": "cuda"},
        {"inpaint_seconds": [(0.2, 0.4)]},
        {"extend_s": 0.5, "window_s": 0.4},
        {"strength": 0.7, "loop": True},
    ],
    ids=str,
)
def test_audio_that_is_given_equals_the_cpu(
    compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu, edit: dict[str, Any]
) -> None:
    rng = np.random.default_rng()
    call = {
        "audio": noise(9_000),
        "sampling_rate": 16_000,
        "num_inference_steps": 5,
        "seed": int(rng.integers(2**31)),
        **edit,
    }
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    for _ in range(2):  # the second replays what the first captured
        ours, theirs = pipe("rain", **call).audios, on_cpu("rain", **call).audios
        assert theirs.std() > 5e-3
        assert relative_error(ours, theirs) <= EXACT


def test_a_step_is_captured_once_and_nobody_waits_for_it(compiled: Path, gpu: Gpu) -> None:
    cupy, trt = gpu
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    for prompt in ("bell", "dogs"):  # the second captures
        pipe(prompt, seed=1, **FAST)
    seen = []

    def callback(step: int, timestep: float, latents: Any) -> None:
        seen.append((cupy.waits, trt.addresses_set, trt.enqueued["unet"], trt.runs["unet"]))

    waits = cupy.waits
    pipe("wind", seed=3, callback=callback, **{**FAST, "num_inference_steps": 20})
    assert cupy.waits - waits == 2  # the samples, and one array of flags
    first, last = np.array(seen[0]), np.array(seen[-1])
    assert (last - first).tolist() == [0, 0, 0, 19]  # nothing but replays


@pytest.mark.parametrize("options", [{}, {"guidance_interval": (0.0, 0.5)}], ids=["captured", "plain"])
def test_the_host_is_two_steps_ahead_at_most(
    compiled: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Or a progress bar is full, and an early end wanted, before the first step is done."""
    passed: list[Event] = []
    monkeypatch.setattr(Event, "synchronize", lambda self: passed.append(self) or setattr(self, "done", True))
    at_callback: list[int] = []
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    pipe("rain", callback=lambda *_: at_callback.append(len(passed)), **{**FAST, "num_inference_steps": 6}, **options)
    assert at_callback == [0, 0, 1, 2, 3, 4]


def test_a_paused_run_goes_on_with_its_own_samples(compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu) -> None:
    """Another run of the same shapes, begun in the middle of one by its callback."""
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    inner: list[np.ndarray] = []

    def callback(step: int, *_: object) -> None:
        if step == 1 and not inner:
            inner.append(pipe("wind", seed=2, **FAST).audios)

    outer = pipe("rain", seed=1, callback=callback, **FAST).audios
    assert relative_error(outer, on_cpu("rain", seed=1, **FAST).audios) <= EXACT
    assert relative_error(inner[0], on_cpu("wind", seed=2, **FAST).audios) <= EXACT


def test_a_call_like_an_earlier_one_is_replayed_whole(compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu) -> None:
    """Texts of the same number of tokens: the third such call queues no engine, only graphs."""
    trt = gpu[1]
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    texts = [f"{a} {b}" for a in ("rain", "wind", "dogs", "bell") for b in ("one", "two", "six", "ten")]
    alike: dict[tuple[int, ...], list[str]] = {}
    for text in texts:
        lengths = tuple(len(tokenizer.ids(text)) for tokenizer in pipe._encoder._tokenizers.values())
        alike.setdefault(lengths, []).append(text)
    prompts = max(alike.values(), key=len)[:4]
    assert len(prompts) == 4
    for i, prompt in enumerate(prompts):
        enqueued = dict(trt.enqueued)
        call: dict[str, Any] = {**FAST, "seed": i}
        ours = pipe(prompt, **call)
        if i >= 2:
            assert trt.enqueued == enqueued
        assert relative_error(ours.audios, on_cpu(prompt, **call).audios) <= EXACT
        assert set(ours.timings) == {"load", "encode", "denoise", "decode", "vocode"}
        assert all(seconds >= 0 for seconds in ours.timings.values())


def test_other_shapes_are_captured_anew(compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    for seconds in (0.52, 0.6, 0.52, 0.6):  # back and forth: one graph must not spoil the memory of the other
        call: dict[str, Any] = {**FAST, "audio_length_in_s": seconds, "seed": 3, "num_waveforms_per_prompt": 2}
        ours, theirs = pipe("rain", **call), on_cpu("rain", **call)
        assert relative_error(ours.audios, theirs.audios) <= EXACT
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
    assert gpu[1].enqueued["unet"] == 4  # each shape: one warm-up, one capture


@pytest.mark.parametrize("options", [{"low_memory": True}, {"free_text": True}, {"vae_slicing": True}])
def test_options(compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu, options: dict[str, bool]) -> None:
    call: dict[str, Any] = {**FAST, "seed": 5, "num_waveforms_per_prompt": 2}
    ours = AudioLDM2Pipeline.from_pretrained(compiled, **options)("rain", **call)
    assert relative_error(ours.audios, on_cpu("rain", **call).audios) <= EXACT


def test_embeddings_and_latents_come_from_the_host(compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    embeds, mask, generated = pipe.encode_prompt("rain", do_classifier_free_guidance=False)
    assert isinstance(embeds, np.ndarray)
    latents = np.random.default_rng().standard_normal((1, 8, 13, 16), np.float32)
    call: dict[str, Any] = {
        **FAST,
        "prompt_embeds": embeds,
        "attention_mask": mask,
        "generated_prompt_embeds": generated,
        "negative_prompt": "wind",
        "latents": latents,
    }
    ours, theirs = pipe(**call), on_cpu(**call)
    assert relative_error(ours.audios, theirs.audios) <= EXACT


def noise(samples: int) -> Any:
    return (np.random.default_rng().standard_normal(samples) * 0.1).astype(np.float32)


THRESHOLDS = {"_class_name": "DDPMScheduler", "thresholding": True, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({"scheduler": THRESHOLDS}, 1),
        ({"scheduler": THRESHOLDS, "feature_cache_interval": 2, "guidance_interval": (0.3, 0.8)}, 1),
        ({"audio_length_in_s": 1.0, "window_s": 0.4}, 1),
        ({"audio_length_in_s": 2.5, "window_s": 0.4}, 2),  # eight windows, of which a run sees four
        ({"loop": True}, 1),
        ({"inpaint_seconds": [(0.2, 0.3)], "audio": noise(9000), "sampling_rate": 16_000}, 1),
    ],
    ids=["thresholds", "thresholds and faster ways", "windows", "many windows", "ring", "kept parts"],
)
def test_where_steps_cannot_be_captured_the_model_is(
    compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu, options: dict[str, Any], runs: int
) -> None:
    cupy, trt = gpu
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    call: dict[str, Any] = {"num_inference_steps": 7, **options}
    call |= {} if "audio" in call else {"audio_length_in_s": call.get("audio_length_in_s", 0.52)}
    for seed, prompt in enumerate(("rain", "bell", "dogs")):
        queued, seen = dict(trt.enqueued), list[int]()

        def callback(*_: Any) -> None:
            seen.append(cupy.launches)  # noqa: B023

        ours = pipe(prompt, seed=seed, callback=callback, **call)
        assert relative_error(ours.audios, on_cpu(prompt, seed=seed, **call).audios) <= EXACT
    assert trt.enqueued == queued
    assert np.diff(seen).tolist() == [runs] * 6


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.0, 0.5), (0.3, 0.8), (0.5, 1.0), (0.99, 1.0)])
@pytest.mark.parametrize(
    ("every", "scheduler"),
    [(1, "EulerAncestralDiscreteScheduler"), (2, "DDIMScheduler"), (3, "HeunDiscreteScheduler")],
)
def test_faster_ways_are_captured_too(
    compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu, interval: tuple[float, float], every: int, scheduler: str
) -> None:
    """Steps with guidance and without, of the whole UNet and of the shallow one: each is one launch, and no more."""
    cupy, trt = gpu
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    call: dict[str, Any] = {"guidance_interval": interval, "feature_cache_interval": every, "scheduler": scheduler}
    call |= {"num_inference_steps": 7, "audio_length_in_s": 0.52}
    for seed, prompt in enumerate(("rain", "bell", "dogs")):
        queued, seen = dict(trt.enqueued), list[tuple[int, int]]()

        def callback(*_: Any) -> None:
            seen.append((cupy.launches, cupy.queued))  # noqa: B023

        ours = pipe(prompt, seed=seed, callback=callback, **call)
        assert relative_error(ours.audios, on_cpu(prompt, seed=seed, **call).audios) <= EXACT
    assert trt.enqueued == queued
    steps = np.diff(np.array(seen), axis=0)
    calls = [2] * 5 + [1] if scheduler == "HeunDiscreteScheduler" else [1] * 6  # of the model, a step
    assert steps[:, 0].tolist() == calls
    assert (steps[:, 1] == 0).all()


def test_cuda_seeds_are_the_same_on_both(compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu) -> None:
    call: dict[str, Any] = {**FAST, "seed": 2**40 + 7, "seed_device": "cuda"}
    ours, theirs = AudioLDM2Pipeline.from_pretrained(compiled)("rain", **call), on_cpu("rain", **call)
    assert relative_error(ours.audios, theirs.audios) <= EXACT
    other = on_cpu("rain", **{**call, "seed_device": "cpu"})
    assert relative_error(other.audios, theirs.audios) > 0.1


@pytest.mark.parametrize("stage", ["text_encoder", "language_model", "unet", "vae_decoder", "vocoder"])
def test_nan_names_the_stage(compiled: Path, gpu: Gpu, stage: str) -> None:
    trt = gpu[1]
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    trt.spoils[stage] = lambda values: np.where(np.arange(values.shape[-1]) == 1, np.nan, values)
    for _ in range(2):  # what a broken engine made is not kept either
        with pytest.raises(NumericsError, match=f"^{stage}.* NaN or Inf"):
            pipe("rain", **FAST)
    trt.spoils.clear()
    assert np.isfinite(pipe("rain", **FAST).audios).all()


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("deserialize", "refused it: Serialization assertion stdVersionRead failed; rebuild: python -m export build"),
        ("enqueue", "TensorRT could not run it: Error Code 1: Cask"),
        ("context", "no execution context: CUDA initialization failure"),
        ("shape", "shape .* of 'input_ids': shape of input_ids is out of the profile"),
        ("address", "address of 'input_ids': no address for input_ids"),
    ],
)
def test_a_failed_call_quotes_the_library(compiled: Path, gpu: Gpu, failure: str, words: str) -> None:
    gpu[1].fails.add(failure)
    with pytest.raises(EngineError, match=words):
        AudioLDM2Pipeline.from_pretrained(compiled)("rain", **FAST)


def test_another_flavour_is_refused_with_the_rebuild_command(
    compiled: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # not installed
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", gpu[1])
    words = "it is for tensorrt, here is tensorrt_rtx; rebuild: python -m export build"
    with pytest.raises(EngineError, match=words):
        AudioLDM2Pipeline.from_pretrained(compiled)("rain", **FAST)


def test_a_shape_beyond_the_profiles(compiled: Path, gpu: Gpu) -> None:
    with pytest.raises(EngineError, match=r"unet: no shape profile of this engine holds .*sample .2, 8, 325, 16"):
        AudioLDM2Pipeline.from_pretrained(compiled)("rain", **{**FAST, "audio_length_in_s": 13.0})


def test_out_of_memory(compiled: Path, gpu: Gpu) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    pipe("rain", **FAST)
    gpu[0].memory.capacity = 100_000
    with pytest.raises(EngineError, match="cuda:0 is out of memory"):
        pipe("rain", **FAST)
    gpu[0].memory.capacity = None
    assert np.isfinite(pipe("rain", **FAST).audios).all()


def test_graphs_give_their_memory_back_when_it_runs_out(
    compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu, caplog: pytest.LogCaptureFixture
) -> None:
    """Or shapes that came before leave no room for those that come now, or what is replayed lies in freed memory."""
    cupy = gpu[0]
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    durations = [0.52, 0.6, 0.68, 0.76]
    for duration in durations[:2] * 2:
        pipe("rain", **{**FAST, "audio_length_in_s": duration})
    cupy.memory.capacity = cupy.memory.used + 50_000
    for duration in durations * 3:
        call: dict[str, Any] = {**FAST, "audio_length_in_s": duration, "seed": 3}
        assert relative_error(pipe("wind", **call).audios, on_cpu("wind", **call).audios) <= EXACT


@pytest.mark.parametrize(
    ("broken", "words"), [("refused", "no capture today"), ("empty", "another result"), ("later", "cannot be captured")]
)
def test_where_nothing_can_be_captured_the_work_is_done_plainly(
    compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu, broken: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    cupy, trt = gpu
    cupy.refuses = "no capture today" if broken == "refused" else ""
    cupy.loses_work = broken == "empty"
    trt.capturable = False if broken == "later" else None
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    for seed in range(3):
        ours, theirs = pipe("rain", seed=seed, **FAST), on_cpu("rain", seed=seed, **FAST)
        assert relative_error(ours.audios, theirs.audios) <= EXACT
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "runs without a CUDA graph" in warning
    assert words in warning


def test_without_cuda_graphs_nothing_is_captured(compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(compiled, cuda_graphs=False)
    for seed in range(2):
        ours, theirs = pipe("rain", seed=seed, **FAST), on_cpu("rain", seed=seed, **FAST)
        assert relative_error(ours.audios, theirs.audios) <= EXACT
    assert gpu[0].launches == 0


def test_texts_of_other_lengths_are_replayed(compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu) -> None:
    trt = gpu[1]
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    tokenizers = pipe._encoder._tokenizers.values()
    texts = ["a", "wind", "a dog", "rain on a", "birds", "my bell"]
    assert all(len(tokenizer.ids(text)) <= 16 for tokenizer in tokenizers for text in [*texts, "noise", "bad"])
    assert len({len(tokenizer.ids(text)) for tokenizer in tokenizers for text in texts}) > 3
    for i, prompt in enumerate(texts):
        queued = dict(trt.enqueued)
        call: dict[str, Any] = {**FAST, "seed": i, "negative_prompt": "noise" if i % 2 else "bad"}
        assert relative_error(pipe(prompt, **call).audios, on_cpu(prompt, **call).audios) <= EXACT
        if i >= 2:
            assert trt.enqueued == queued
    ours, theirs = (p.encode_prompt("a dog barks") for p in (pipe, on_cpu))
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert relative_error(one, other) <= EXACT


def test_texts_are_padded_only_where_there_is_room(
    compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text and new embeddings that just fit into the language model's positions fit on a GPU too."""
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    length = len(pipe._encoder._tokenizers["text_encoder_2"].ids("a dog barks"))
    assert length % 16
    spec = pipe.engines["language_model"].inputs["attention_mask"]
    fits = msgspec.structs.replace(spec, max_shape=(spec.max_shape[0], length + 5 + 7))
    monkeypatch.setitem(pipe.engines["language_model"].inputs, "attention_mask", fits)  # type: ignore[arg-type]
    for _ in range(2):
        pipe._encoder.encode.cache_clear()
        for one, other in zip(pipe.encode_prompt("a dog barks"), on_cpu.encode_prompt("a dog barks"), strict=True):
            assert relative_error(one, other) <= EXACT


def test_a_second_gpu_has_all_of_its_own(compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu, monkeypatch: Any) -> None:
    """From threads that never touched it, beside another pipeline's on the first."""
    cupy = FakeCupy(gpus=2)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(cupy))
    pipes = [AudioLDM2Pipeline.from_pretrained(compiled, device=f"cuda:{i}") for i in range(2)]
    for seed in range(3):
        for pipe in pipes:
            found: list[Any] = []
            thread = Thread(target=lambda p=pipe, s=seed: found.append(p("rain", seed=s, **FAST).audios))  # noqa: B023
            thread.start()
            thread.join()
            assert relative_error(found[0], on_cpu("rain", seed=seed, **FAST).audios) <= EXACT
    for pipe in pipes:
        pipe.close()


def test_what_is_not_finite_is_seen_in_every_replay(compiled: Path, gpu: Gpu) -> None:
    """Also when it is replayed again, finite, before anybody looks, and when other graphs ran in between."""
    trt = gpu[1]
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    for duration in (0.52, 0.6) * 2:
        pipe("rain", **{**FAST, "audio_length_in_s": duration})
    for duration in (0.52, 0.6, 0.52):  # no false alarm
        pipe("rain", **{**FAST, "audio_length_in_s": duration})
    runs = trt.runs["unet"]
    trt.spoils["unet"] = lambda values: values * np.nan if trt.runs["unet"] == runs + 2 else values
    with pytest.raises(NumericsError, match=r"^unet"):
        pipe("rain", **FAST)
    trt.spoils.clear()
    assert np.isfinite(pipe("rain", **FAST).audios).all()


def test_another_gpu_count_or_device(compiled: Path, gpu: Gpu) -> None:
    with pytest.raises(EngineError, match="there is no cuda:3: 1 GPUs are here"):
        AudioLDM2Pipeline.from_pretrained(compiled, device="cuda:3")
    with pytest.raises(EngineError, match="does not run on device 'cpu'"):
        AudioLDM2Pipeline.from_pretrained(compiled, device="cpu")


def test_onnxruntime_never_falls_back(bundle: Callable[[str], Path], gpu: Gpu) -> None:
    """The CPU build has no CUDA provider, and would run on the CPU without a word."""
    pipe = AudioLDM2Pipeline.from_pretrained(bundle("plain"), device="cuda")
    with pytest.raises(EngineError, match=r"no CUDA provider: pip uninstall onnxruntime, then .*\[cuda\]"):
        pipe("rain", **FAST)


def test_onnxruntime_binds_addresses(
    bundle: Callable[[str], Path], on_cpu: AudioLDM2Pipeline, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU provider in the CUDA provider's place, behind a binding that reads addresses."""
    module = "runtime.backends.onnxruntime"
    monkeypatch.setattr(f"{module}.CUDA", "CPUExecutionProvider")
    monkeypatch.setattr(f"{module}._providers", lambda device: ["CPUExecutionProvider"])
    monkeypatch.setattr(f"{module}.OrtCudaEngine", _bound_engine)
    call: dict[str, Any] = {**FAST, "seed": 8}
    ours = AudioLDM2Pipeline.from_pretrained(bundle("plain"), device="cuda")("rain", **call)
    assert relative_error(ours.audios, on_cpu("rain", **call).audios) <= EXACT


def _bound_engine(name: str, session: Any, *rest: Any) -> OrtCudaEngine:
    return OrtCudaEngine(name, BoundSession(session), *rest)


@pytest.mark.parametrize(
    ("variant", "seen"),
    [
        ("one context for all shapes", "not permitted"),
        ("contexts are made in the capture", "a profile is set"),
        ("nobody waits before the capture", "not permitted"),
        ("graphs take memory of the common pool", "common pool"),
        ("windows are concatenated", "table of pointers"),
        ("graphs share contexts", "wrong"),
        ("contexts die before their graph", "wrong"),
        ("scratch goes to others", "wrong"),
    ],
)
def test_what_would_break_on_a_gpu_is_seen_here(
    compiled: Path,
    on_cpu: AudioLDM2Pipeline,
    gpu: Gpu,
    variant: str,
    seen: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stand-ins are as strict as they say: each variant of the code breaks one of the rules."""
    _break(variant, monkeypatch)
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    many = msgspec.structs.replace(pipe._manifest.audio, vocoder_window_frames=2)
    pipe._codec._audio = many if variant == "windows are concatenated" else pipe._manifest.audio
    apart = []
    for seed in range(6):
        scheduler = "EulerAncestralDiscreteScheduler" if seed % 2 else "DDIMScheduler"
        call: dict[str, Any] = {**FAST, "seed": seed, "scheduler": scheduler}
        prompt = ("a dog", "rain on a roof", "birds")[seed % 3]
        try:
            apart.append(relative_error(pipe(prompt, **call).audios, on_cpu(prompt, **call).audios))
        except NumericsError:
            apart.append(1.0)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert max(apart) > EXACT if seen == "wrong" else seen in "".join(warnings), (apart, warnings)


def _break(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts: dict[Any, Any] = {}

    def own(engine: TensorRTEngine, index: int, _: Any) -> Any:
        if index not in engine._contexts:
            engine._contexts[index] = engine._new_context(index)
        return engine._contexts[index]

    def new(engine: TensorRTEngine, index: int, _: Any) -> Any:
        return engine._new_context(index)

    def by_shape(engine: TensorRTEngine, index: int, feeds: Any) -> Any:
        key = (id(engine), *(array.shape for array in feeds.values()))
        contexts[key] = contexts.get(key) or engine._new_context(index)
        return contexts[key]

    def forgotten(device: CudaDevice, *arguments: Any) -> Any:
        captured = capture(device, *arguments)
        scopes[-1].kept.clear()
        return captured

    def scratch(device: CudaDevice, size: int) -> Any:
        return SimpleNamespace(ptr=device._malloc(size, graph=False).ptr)  # nobody holds it

    scopes: list[Scope] = []
    capture, malloc = CudaDevice.capture, CudaDevice._malloc
    within = CudaDevice._within
    monkeypatch.setattr(CudaDevice, "_within", lambda self, scope: scopes.append(scope) or within(self, scope))
    owner, name, broken = {
        "one context for all shapes": (TensorRTEngine, "_bound", own),
        "contexts are made in the capture": (TensorRTEngine, "_bound", new),
        "nobody waits before the capture": (CudaDevice, "wait", lambda *_: None),
        "graphs take memory of the common pool": (
            CudaDevice,
            "_malloc",
            lambda self, size, graph=True: malloc(self, size, graph=False),
        ),
        "windows are concatenated": ("runtime.sound.vocode", "joined", np.concatenate),
        "graphs share contexts": (TensorRTEngine, "_bound", by_shape),
        "contexts die before their graph": (CudaDevice, "capture", forgotten),
        "scratch goes to others": (CudaDevice, "scratch", scratch),
    }[variant]
    monkeypatch.setattr(
        f"{owner}.{name}" if isinstance(owner, str) else owner,
        *((broken,) if isinstance(owner, str) else (name, broken)),
    )


def test_a_flag_stays_false_until_somebody_looks(gpu: Gpu) -> None:
    device = CudaDevice(cupy=gpu[0])
    with device.active():
        values = device.xp.ones(4)
        replay, _ = device.capture(lambda: (device.watch("it", values + 1),))
        for value in (np.nan, 1.0):
            values.fill(value)
            replay()
        with pytest.raises(NumericsError, match="it produced"):
            device.verify()
        replay()
        device.verify()
        values.fill(np.inf)
        replay()  # and nobody looks: the call ends in another error
    with device.active():
        values.fill(1.0)
        replay()
        device.verify()


def test_many_windows_are_captured(compiled: Path, on_cpu: AudioLDM2Pipeline, gpu: Gpu) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(compiled)
    pipe._codec._audio = msgspec.structs.replace(pipe._manifest.audio, vocoder_window_frames=2)
    for seed in range(3):
        queued = gpu[1].enqueued.get("vocoder", 0)
        ours, theirs = pipe("rain", seed=seed, **FAST), on_cpu("rain", seed=seed, **FAST)
        assert relative_error(ours.audios, theirs.audios) <= EXACT
    assert queued > 3 * 8
    assert gpu[1].enqueued["vocoder"] == queued
