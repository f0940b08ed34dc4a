"""One pipeline and many callers; many pipelines of one bundle; and what is left open after a call."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.parity import relative_error
from runtime import AudioLDM2Pipeline, InputError
from runtime.backends.onnxruntime import OrtEngine
from runtime.bundle import Bundle
from tests.unit.helpers import raises_line

CALLS = [("rain", 1, 0.4), ("a dog", 2, 0.5), ("siren", 3, 0.4)]


def run(pipe: AudioLDM2Pipeline, prompt: str, seed: int, seconds: float) -> np.ndarray:
    return pipe(prompt, seed=seed, audio_length_in_s=seconds, num_inference_steps=2).audios


@pytest.mark.parametrize("options", [{}, {"low_memory": True}], ids=str)
def test_threads_that_share_a_pipeline_get_what_they_get_alone(
    bundle: Callable[[str], Path], options: dict[str, Any]
) -> None:
    alone = [run(AudioLDM2Pipeline.from_pretrained(bundle("plain")), *call) for call in CALLS]
    pipe = AudioLDM2Pipeline.from_pretrained(bundle("plain"), **options)  # cold: its engines are loaded by threads
    with ThreadPoolExecutor(len(CALLS)) as pool:
        for _ in range(2):
            found = pool.map(lambda call: run(pipe, *call), CALLS)
            for audios, expected in zip(found, alone, strict=True):
                assert relative_error(audios, expected) <= 1e-5


def test_a_callback_may_call_the_pipeline(bundle: Callable[[str], Path]) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(bundle("plain"))
    alone, inner = run(pipe, *CALLS[0]), []
    call = {"seed": 1, "audio_length_in_s": 0.4, "num_inference_steps": 2}
    outer = pipe("rain", callback=lambda *_: inner.append(run(pipe, *CALLS[1])), **call).audios
    assert relative_error(outer, alone) <= 1e-5
    assert len(inner) == 2


def test_pipelines_of_one_bundle_hold_its_weights_once(bundle: Callable[[str], Path]) -> None:
    read = Bundle.read(bundle("plain"))
    engines = [read.open("unet"), Bundle.read(bundle("plain")).open("unet"), read.open("vocoder")]
    first, second, other = (engine._session for engine in engines if isinstance(engine, OrtEngine))
    assert first is second is not other
    engines[0].close()
    mel = np.zeros((1, 8, 64), np.float32)
    assert engines[2].run({"mel": mel})["waveform"].size
    assert engines[1]._session is not None  # type: ignore[attr-defined]  # the other's end is not its own


def test_nothing_stays_loaded_with_low_memory(bundle: Callable[[str], Path]) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(bundle("plain"), low_memory=True)
    states, _, generated = pipe.encode_prompt("rain")
    assert np.isfinite(states).all()
    assert not pipe._engines._open
    pipe.generate_language_model(generated)
    assert not pipe._engines._open
    with pytest.raises(InputError):
        pipe("rain", seed=1, audio_length_in_s=0.5, num_inference_steps=2, feature_cache_interval=2)
    assert not pipe._engines._open


def test_the_label_is_that_of_the_last_run(bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(bundle("plain"), low_memory=True)
    assert pipe.label == ""
    run(pipe, *CALLS[0])
    monkeypatch.setattr(Bundle, "open", lambda *_: pytest.fail("an engine was loaded for its label"))
    assert pipe.label == "onnxruntime"


@pytest.mark.parametrize(
    ("call", "fragments"),
    [
        ({"promt": "rain"}, ["unknown argument 'promt'", "'prompt'"]),
        ({"prompt": "rain", "steps": 5}, ["unknown argument 'steps'"]),
        ({"prompt": "rain", "negative_promt": "x"}, ["'negative_prompt'"]),
    ],
)
def test_a_mistyped_argument_is_named(
    call: dict[str, Any], fragments: list[str], bundle: Callable[[str], Path]
) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(bundle("plain"))
    with raises_line(InputError, *fragments):
        pipe(**call)


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"low_memry": True}, ["unknown option 'low_memry'", "'low_memory'"]),
        ({"device": None}, ["device has to be a str", "None"]),
        ({"precision": 16}, ["precision has to be a str", "16"]),
        ({"threads": 0}, ["threads has to be an integer from 1", "0"]),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], fragments: list[str], bundle: Callable[[str], Path]) -> None:
    with raises_line(InputError, *fragments):
        AudioLDM2Pipeline.from_pretrained(bundle("plain"), **options)
