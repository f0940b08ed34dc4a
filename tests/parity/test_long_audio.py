"""Length and memory: every way to save memory gives the samples that the plain way gives, at every length."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from diffusers.models.upsampling import Upsample2D

from export.activation import activation_bytes
from export.checkpoint import Checkpoint
from export.components import COMPONENTS
from export.components.attention import FusedAttention, PlainAttention
from export.components.upsample import FoldedUpsample
from export.parity import relative_error
from runtime import AudioLDM2Pipeline
from runtime.bundle import Bundle, OpenEngines
from runtime.sound.vocode import vocode

EXACT = 1e-6
COMMON: dict[str, Any] = {"prompt": "rain falls on a tin roof", "num_inference_steps": 2, "seed": 3}


@pytest.mark.parametrize("name", ["plain", "other_sizes", "one_width"])
def test_the_vocoder_in_windows_equals_one_run(name: str, bundle: Callable[[str], Path]) -> None:
    opened = Bundle.read(bundle(name))
    vocoder, audio = opened.open("vocoder"), opened.manifest.audio
    window = audio.vocoder_window_frames
    rng = np.random.default_rng()
    for frames in (1, 10, window - 1, window + 1, window + 20, 2 * window + 301):
        mel = rng.standard_normal((2, frames, audio.mel_bins), np.float32)
        whole = vocoder.run({"mel": mel})["waveform"]
        error = relative_error(vocode(vocoder, mel, audio), whole)
        print(f"{name}, {frames} frames: relative error {error:.1e}")
        assert error <= EXACT


def test_too_little_context_is_audible(bundle: Callable[[str], Path]) -> None:
    """The comparison above can fail: with half the context the seam is off by more than it allows."""
    opened = Bundle.read(bundle("plain"))
    vocoder, audio = opened.open("vocoder"), opened.manifest.audio
    mel = np.random.default_rng().standard_normal((1, audio.vocoder_window_frames + 20, audio.mel_bins), np.float32)
    whole = vocoder.run({"mel": mel})["waveform"]

    half = msgspec.structs.replace(audio, vocoder_context_frames=audio.vocoder_context_frames // 2)
    assert relative_error(vocode(vocoder, mel, half), whole) > EXACT


@pytest.mark.parametrize("duration", [0.04, 1.27, 5.0])
def test_what_is_heard_early_is_the_same(duration: float, bundle: Callable[[str], Path]) -> None:
    pipe, parts = AudioLDM2Pipeline.from_pretrained(bundle("plain")), []
    call = {**COMMON, "prompt": ["rain", "a dog"], "seed": [3, 4], "audio_length_in_s": duration}
    audios = pipe(**call, audio_callback=lambda part: parts.append(part.copy())).audios
    assert np.array_equal(np.concatenate(parts, axis=1), audios)
    assert relative_error(audios, pipe(**call).audios) <= EXACT
    assert len(parts) > duration / 1.5  # the sizes are the published ones: a part has 1.28 s


@pytest.mark.parametrize("duration", [0.04, 0.1, 0.37, 12.3])
def test_any_duration_is_the_references(
    duration: float, bundle: Callable[[str], Path], reference: Callable[[str], Any]
) -> None:
    arguments = {key: value for key, value in COMMON.items() if key != "seed"}
    generator = torch.Generator("cpu").manual_seed(COMMON["seed"])
    expected = np.asarray(reference("plain")(generator=generator, audio_length_in_s=duration, **arguments).audios)
    actual = AudioLDM2Pipeline.from_pretrained(bundle("plain"))(audio_length_in_s=duration, **COMMON).audios
    assert actual.shape == (1, int(duration * 16_000))
    assert np.sqrt((expected**2).mean()) > 1e-2
    assert relative_error(actual[:, : expected.shape[1]], expected) <= 1e-4  # the reference may round down to frames


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """Name of each engine as it is loaded, with how many are then in memory; and that none stays."""
    events: list[tuple[str, int]] = []
    alive: set[int] = set()
    load = Bundle.open

    def spy(self: Bundle, name: str, *rest: Any) -> Any:
        engine = load(self, name, *rest)
        alive.add(id(engine))
        events.append((name, len(alive)))
        close = engine.close
        engine.close = lambda: (alive.discard(id(engine)), close())  # type: ignore[method-assign]
        return engine

    monkeypatch.setattr(Bundle, "open", spy)
    yield events
    assert not alive


def test_low_memory_holds_one_engine_at_a_time(bundle: Callable[[str], Path], opened: list[tuple[str, int]]) -> None:
    arguments = {**COMMON, "audio_length_in_s": 0.5, "num_waveforms_per_prompt": 2}
    plain = AudioLDM2Pipeline.from_pretrained(bundle("plain"))
    expected = plain(**arguments)
    plain.close()
    assert len(opened) == max(count for _, count in opened) == 8
    opened.clear()
    result = AudioLDM2Pipeline.from_pretrained(bundle("plain"), low_memory=True)(**arguments)
    texts = ["text_encoder_2", "text_encoder", "projection_model", "language_model"]
    assert [name for name, _ in opened] == [*texts, "unet", "vae_decoder", "vocoder", "text_encoder", "audio_encoder"]
    assert max(count for _, count in opened) == 1
    assert list(result.timings) == ["load", "encode", "denoise", "decode", "vocode", "rank"]
    assert result.timings["load"] > 0
    assert relative_error(result.audios, expected.audios) <= EXACT


def test_texts_are_freed_before_the_others_come(bundle: Callable[[str], Path], opened: list[tuple[str, int]]) -> None:
    arguments = {**COMMON, "audio_length_in_s": 0.5, "num_waveforms_per_prompt": 2}
    plain = AudioLDM2Pipeline.from_pretrained(bundle("plain"))
    expected = plain(**arguments)
    plain.close()
    opened.clear()
    pipe = AudioLDM2Pipeline.from_pretrained(bundle("plain"), free_text=True)
    result = pipe(**arguments)
    texts = ["text_encoder_2", "text_encoder", "projection_model", "language_model"]
    others = ["unet", "vae_decoder", "vocoder", "audio_encoder"]
    assert opened[:4] == [(name, 1) for name in texts]
    assert sorted(name for name, _ in opened[4:8]) == sorted(others)
    assert opened[8:] == [("text_encoder", 5)]  # for the ranking
    assert relative_error(result.audios, expected.audios) <= EXACT
    opened.clear()
    assert relative_error(pipe(**{**arguments, "num_waveforms_per_prompt": 1}).audios, expected.audios) > EXACT
    assert opened == []  # the prompt is known, and nothing is ranked
    pipe(**{**arguments, "num_waveforms_per_prompt": 1, "prompt": "a new prompt"})
    assert opened == [(name, 5) for name in texts]
    pipe.close()


def test_low_memory_frees_after_an_error(bundle: Callable[[str], Path], opened: list[tuple[str, int]]) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    pipe = AudioLDM2Pipeline.from_pretrained(bundle("plain"), low_memory=True)
    with pytest.raises(KeyboardInterrupt):
        pipe(audio_length_in_s=0.5, callback=stop, **COMMON)
    assert opened[-1] == ("unet", 1)


def test_vae_slicing_decodes_one_by_one(bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    get = OpenEngines.__getitem__

    def spy(self: OpenEngines, name: str) -> Any:
        engine = get(self, name)
        if name == "vae_decoder":
            run = type(engine).run
            engine.run = lambda feeds: (rows.append(len(feeds["latents"])), run(engine, feeds))[1]  # type: ignore[method-assign]
        return engine

    monkeypatch.setattr(OpenEngines, "__getitem__", spy)
    arguments = {**COMMON, "audio_length_in_s": 0.9, "num_waveforms_per_prompt": 3}
    expected = AudioLDM2Pipeline.from_pretrained(bundle("plain"))(**arguments)
    assert rows == [3]
    sliced = AudioLDM2Pipeline.from_pretrained(bundle("plain"), vae_slicing=True)(**arguments)
    assert rows == [3, 1, 1, 1]
    assert relative_error(sliced.audios, expected.audios) <= EXACT


@pytest.mark.parametrize("height", [1, 7, 64])
@pytest.mark.parametrize("processor", [PlainAttention, FusedAttention])
def test_our_attention_is_the_references(
    processor: type[PlainAttention], height: int, checkpoint: Callable[[str], Path]
) -> None:
    vae = Checkpoint(checkpoint("plain"), "plain").load("vae").double()
    latents = torch.randn(2, vae.config.latent_channels, height, 16, dtype=torch.float64)
    with torch.no_grad():
        expected = vae.decode(latents).sample
        vae.set_attn_processor(processor())
        actual = vae.decode(latents).sample
    assert relative_error(actual.numpy(), expected.numpy()) <= 1e-12


@pytest.mark.parametrize("name", ["unet", "vae_decoder"])
def test_turned_images_give_the_same(name: str, checkpoint: Callable[[str], Path]) -> None:
    """The component against the reference's own module, whose kernels stand upright."""
    source = Checkpoint(checkpoint("other_sizes"), "other_sizes")
    component, height = COMPONENTS[name](source), 21
    inputs = component.draw({**component.sizes[0], "height": height}, torch.Generator())
    values = list(inputs.values())
    with torch.no_grad():
        actual = component.module(*values)
        if name == "unet":
            actual = actual[0]
            names = ("encoder_hidden_states", "encoder_hidden_states_1", "encoder_attention_mask_1")
            states = dict(zip(names, values[2:], strict=True))
            expected = source.load("unet")(*values[:2], **states).sample
        else:
            expected = source.load("vae").decode(*values).sample[:, 0]
    assert relative_error(actual.numpy(), expected.numpy()) <= 1e-5


@pytest.mark.parametrize("name", ["unet", "vae_decoder"])
def test_fused_attention_takes_no_memory_that_grows_with_the_square(
    name: str, checkpoint: Callable[[str], Path]
) -> None:
    component = COMPONENTS[name](Checkpoint(checkpoint("plain"), "plain"))
    assert component.fuse_attention is not None
    component.fuse_attention()
    assert activation_bytes(component)[2] == 0


@pytest.mark.parametrize(("name", "part"), [("unet", "unet"), ("vae_decoder", "vae")])
def test_self_attention_is_one_operator(
    name: str, part: str, checkpoint: Callable[[str], Path], bundle: Callable[[str], Path]
) -> None:
    """The graph never holds scores as many as the square of the positions: only texts are attended to in parts."""
    graph = onnx.load(bundle("plain") / f"{name}.onnx", load_external_data=False).graph
    operators = [node.op_type for node in graph.node]
    modules = Checkpoint(checkpoint("plain"), "plain").load(part).named_modules()
    attentions = [m for key, m in modules if type(m).__name__ == "Attention" and not key.startswith("encoder.")]
    to_itself = sum(not attention.is_cross_attention for attention in attentions)
    assert operators.count("MultiHeadAttention") == to_itself > 0
    assert operators.count("Softmax") == len(attentions) - to_itself


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (8, 16)])
def test_upsampling_folds_into_one_convolution(shape: tuple[int, int]) -> None:
    upsample = Upsample2D(6, use_conv=True, out_channels=6).double()
    assert upsample.conv is not None
    images = torch.randn(2, 6, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected, actual = upsample(images), FoldedUpsample(upsample.conv).double()(images)
    assert relative_error(actual.numpy(), expected.numpy()) <= 1e-6
