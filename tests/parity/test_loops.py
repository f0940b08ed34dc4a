"""A loop's end leads into its beginning, whatever its length; a long sound in windows is one sound."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.parity import relative_error
from runtime import AudioLDM2Pipeline
from runtime.errors import InputError


@pytest.fixture
def pipe(bundle: Callable[[str], Path]) -> AudioLDM2Pipeline:
    return AudioLDM2Pipeline.from_pretrained(bundle("plain"))


@pytest.mark.parametrize("duration", [1.28, 1.3, 2.0])
@pytest.mark.parametrize("window", [None, 0.64])
def test_a_loop_has_whole_rows_and_no_step_at_its_join(
    duration: float, window: float | None, pipe: AudioLDM2Pipeline
) -> None:
    height = math.ceil(duration * 25)
    latents = np.random.default_rng().standard_normal((1, 8, height, 16)).astype(np.float32)
    call = {"num_inference_steps": 3, "audio_length_in_s": duration, "window_s": window}
    made = pipe("rain", latents=latents, loop=True, **call).audios[0]
    assert len(made) == height * 640
    join = np.concatenate([made[-400:], made[:400]])
    steps = np.abs(np.diff(np.concatenate([made, made])))
    assert np.abs(np.diff(join))[398:401].max() <= steps.max()  # no larger a step than elsewhere
    plain = pipe("rain", latents=latents, **call).audios[0]
    assert relative_error(made[: len(plain)], plain) > 1e-3


def test_a_ring_is_decoded_around_its_join(pipe: AudioLDM2Pipeline) -> None:
    """Without steps nothing but the decoder and the vocoder are left: turned latents are the turned sound."""
    rng = np.random.default_rng()
    wave = (rng.standard_normal(64 * 640) * 0.1).astype(np.float32)
    latents = pipe("rain", audio=wave, sampling_rate=16_000, strength=0, output_type="latent").audios
    request = pipe.check("rain", audio=wave, sampling_rate=16_000, strength=0, loop=True)
    sounds = []
    for turned in (latents, np.roll(latents, 20, axis=2)):
        mel = pipe._codec.decode(turned, request.canvas)
        sounds.append(pipe._codec.waveforms(mel, request)[0])
    ahead = np.roll(sounds[0], 20 * 640)
    assert relative_error(sounds[1], ahead) < 0.2  # the decoder's attention and norms see all that there is
    line = pipe._codec.waveforms(pipe._codec.decode(latents, None), pipe.check("rain", audio_length_in_s=2.56))[0]
    ends = slice(60 * 640, None)
    assert relative_error(sounds[0][ends], line[ends]) > relative_error(sounds[0][20_000:21_000], line[20_000:21_000])


def test_one_window_is_no_window(pipe: AudioLDM2Pipeline) -> None:
    call = {"num_inference_steps": 3, "audio_length_in_s": 1.28, "seed": 5}
    expected = pipe("rain", **call).audios
    np.testing.assert_array_equal(pipe("rain", window_s=9.0, **call).audios, expected)
    assert relative_error(pipe("rain", window_s=0.64, **call).audios, expected) > 1e-3


def test_windows_of_a_batch_are_those_of_each(pipe: AudioLDM2Pipeline) -> None:
    call = {"num_inference_steps": 4, "audio_length_in_s": 2.0, "window_s": 0.64, "guidance_interval": (0.0, 0.5)}
    both = pipe(["rain", "wind"], seed=[1, 2], **call).audios
    for i, prompt in enumerate(("rain", "wind")):
        assert relative_error(both[i : i + 1], pipe(prompt, seed=i + 1, **call).audios) < 1e-4


@pytest.mark.parametrize("guidance_scale", [1.0, 3.5])
def test_windows_in_one_run_are_those_of_a_run_each(
    guidance_scale: float, pipe: AudioLDM2Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = {"num_inference_steps": 3, "audio_length_in_s": 2.6, "window_s": 0.64, "seed": 5}
    call |= {"guidance_scale": guidance_scale, "num_waveforms_per_prompt": 2}
    rows: list[int] = []
    unet = pipe.engines["unet"]
    monkeypatch.setattr(type(unet), "run", _counted(type(unet).run, rows))
    made = pipe("rain", **call).audios
    together, rows[:] = max(rows), []
    monkeypatch.setattr("runtime.sizes.TOGETHER", 1)
    assert relative_error(made, pipe("rain", **call).audios) < 1e-4
    assert together == 3 * max(rows)  # of six windows


def _counted(run: Callable[..., Any], rows: list[int]) -> Callable[..., Any]:
    def counted(engine: Any, feeds: dict[str, np.ndarray]) -> Any:
        if "timestep" in feeds:
            rows.append(len(feeds["sample"]))
        return run(engine, feeds)

    return counted


def test_features_are_kept_of_each_window(pipe: AudioLDM2Pipeline) -> None:
    call = {"num_inference_steps": 4, "audio_length_in_s": 2.0, "seed": 3}
    whole = pipe("rain", feature_cache_interval=2, window_s=9.0, **call).audios
    np.testing.assert_array_equal(whole, pipe("rain", feature_cache_interval=2, **call).audios)
    windows = pipe("rain", feature_cache_interval=2, window_s=0.64, **call).audios
    exact = pipe("rain", window_s=0.64, **call).audios
    assert relative_error(windows, exact) < relative_error(pipe("wind", window_s=0.64, **call).audios, exact)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"loop": 1}, "True or False"),
        ({"loop": True, "feature_cache_interval": 2}, "loop cannot"),
        ({"loop": True, "audio_callback": print}, "loop cannot"),
        ({"window_s": 0.01}, "window_s"),
        ({"window_s": float("inf")}, "window_s"),
        ({"window_s": True}, "window_s"),
    ],
    ids=str,
)
def test_refused(call: dict[str, object], words: str, pipe: AudioLDM2Pipeline) -> None:
    with pytest.raises(InputError, match=words):
        pipe.check("rain", **call)
