import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from runtime.arguments import Arguments
from runtime.bundle.manifest import AudioSpec
from runtime.errors import InputError
from runtime.request import Request, check_request
from tests.unit.helpers import AUDIO, make_manifest, raises_line

DEFAULTS: dict[str, Any] = {
    "prompt": "rain",
    "negative_prompt": None,
    "audio_length_in_s": 1.0,
    "num_inference_steps": 10,
    "guidance_scale": 3.5,
    "num_waveforms_per_prompt": 1,
    "eta": 0.0,
    "seed": 0,
    "latents": None,
}
SHAPE = (1, 8, 25, 16)  # the latents of one second


def check(audio: AudioSpec = AUDIO, **changes: Any) -> Request:
    return check_request(make_manifest(audio), Arguments(**{**DEFAULTS, **changes}))


def spoilt(value: float) -> np.ndarray:
    latents = np.zeros(SHAPE, np.float32)
    latents[0, 3, 2, 1] = value
    return latents


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *[("num_inference_steps", value) for value in (0, -1, True, 10.0, "10", math.nan)],
        *[("num_waveforms_per_prompt", value) for value in (0, -1, True, 1.0, "1", None)],
        *[("audio_length_in_s", value) for value in (0, -1, 0.0399, math.nan, math.inf, -math.inf, True, "1")],
        *[("audio_length_in_s", value) for value in (1e300, 10**400)],
        *[("guidance_scale", value) for value in (math.nan, math.inf, True, "3", 1j, np.complex64(1))],
        *[("guidance_interval", value) for value in (None, 0.5, (0,), (0, 0.5, 1), (0.5, 0.5), (0.6, 0.5), (-0.1, 1))],
        *[("guidance_interval", value) for value in ((0, 1.1), (math.nan, 1), ("0", "1"), "01")],
        *[("feature_cache_interval", value) for value in (0, -2, True, 2.0, "2", None)],
        *[("eta", value) for value in (-0.01, 1.01, math.nan, True, "0", None, 10**400)],
        *[("prompt", value) for value in ([], (), 5, None, b"rain", ["rain", 5], [["rain"]], {"rain": 1})],
        *[("negative_prompt", value) for value in (["snow"], 5, ["snow", "wind"])],
        *[("latents", value) for value in (spoilt(math.nan), spoilt(math.inf), spoilt(-math.inf))],
        *[("latents", np.zeros(shape, np.float32)) for shape in ((2, *SHAPE[1:]), SHAPE[1:], (1, 8, 26, 16), ())],
        *[("latents", value) for value in ("noise", [[1.0], [1.0, 2.0]], np.zeros(SHAPE, np.complex64))],
        *[("seed", value) for value in (-1, 2**64, True, 1.0, "1", math.nan, [], [0, 1], [0, 1, 2], [-1], [None])],
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value)[:12],
)
def test_invalid_argument_is_named(argument: str, value: Any) -> None:
    with raises_line(InputError, argument):
        check(**{argument: value})


@pytest.mark.parametrize("negative", ["snow", ["snow"], ["snow", "wind", "hail"], ["snow", 5], []])
def test_negative_prompts_match_a_list_of_prompts(negative: Any) -> None:
    with raises_line(InputError, "negative_prompt"):
        check(prompt=["rain", "sun"], negative_prompt=negative)


@pytest.mark.parametrize(("count", "fragment"), [(3, "3 values for 4"), (5, "5 values for 4")])
def test_seed_count(count: int, fragment: str) -> None:
    with raises_line(InputError, "seed", fragment):
        check(prompt=["rain", "sun"], num_waveforms_per_prompt=2, seed=list(range(count)))


def test_messages_say_what_is_accepted() -> None:
    with raises_line(InputError, "0.04 to 1000000", "0.01"):
        check(audio_length_in_s=0.01)
    with raises_line(InputError, "0 to 1", "1.5"):
        check(eta=1.5)
    with raises_line(InputError, str(SHAPE), "(1, 8, 16, 25)"):
        check(latents=np.zeros((1, 8, 16, 25), np.float32))


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"num_waveforms_per_prompt": np.int64(7)}, "num_waveforms_per_prompt", 7),
        ({"audio_length_in_s": None}, "samples", 163_840),
        ({"audio_length_in_s": 0.04}, "samples", 640),
        ({"audio_length_in_s": np.float16(10)}, "samples", 160_000),
        ({"audio_length_in_s": np.float32(2.5)}, "samples", 40_000),
        ({"prompt": ("a", "b"), "num_waveforms_per_prompt": 3}, "rows", 6),
        ({"prompt": ""}, "prompts", ("",)),
        ({"prompt": ["a", "b"]}, "negative_prompts", ("", "")),
        ({"prompt": ["a", "b"], "negative_prompt": ["c", "d"]}, "negative_prompts", ("c", "d")),
        ({"guidance_scale": 1}, "negative_prompts", None),
        ({"guidance_scale": -2}, "guidance_scale", -2.0),
        ({"seed": 2**64 - 1}, "seeds", (2**64 - 1,)),
        ({"seed": np.uint64(2**64 - 1)}, "seeds", (2**64 - 1,)),
        ({"prompt": ["a", "b"], "seed": [3, 1]}, "seeds", (3, 1)),
        ({"prompt": ["a", "b"], "seed": [3]}, "seeds", (3,)),
    ],
)
def test_accepted(changes: dict[str, Any], field: str, expected: object) -> None:
    value = getattr(check(**changes), field)
    assert value == expected
    assert type(value) is type(expected)


def test_seed_is_drawn_anew() -> None:
    drawn = {check(seed=None).seeds for _ in range(5)}
    assert len(drawn) > 1
    assert all(len(seeds) == 1 and 0 <= seeds[0] < 2**32 for seeds in drawn)


def test_latents_are_kept_as_contiguous_float32() -> None:
    latents = np.random.default_rng().standard_normal((1, 8, 16, 25)).swapaxes(2, 3)
    kept = check(latents=latents).latents
    assert kept.dtype == np.float32
    assert kept.flags.c_contiguous
    np.testing.assert_array_equal(kept, latents.astype(np.float32))


def reference_sizes(audio: AudioSpec, duration_s: float) -> tuple[int, int]:
    """Samples that diffusers' AudioLDM2Pipeline promises and the mel frames that it renders for them."""
    seconds_a_frame = audio.hop_samples / audio.sample_rate_hz
    frames = int(duration_s / seconds_a_frame)
    frames = math.ceil(frames / audio.vae_scale_factor) * audio.vae_scale_factor
    return int(duration_s * audio.sample_rate_hz), frames


audios = st.builds(
    lambda rate, hop, scale: msgspec.structs.replace(
        AUDIO, sample_rate_hz=rate, hop_samples=hop, vae_scale_factor=scale
    ),
    st.sampled_from([16_000, 22_050, 44_100, 48_000]),
    st.sampled_from([100, 160, 256, 441]),
    st.sampled_from([1, 2, 4, 8]),
)


@settings(max_examples=300, deadline=None)
@given(audio=audios, duration_s=st.floats(0.4, 600) | st.integers(1, 600) | st.decimals(1, 60, places=2).map(float))
def test_latents_cover_the_samples_and_no_more(audio: AudioSpec, duration_s: float) -> None:
    request = check(audio, audio_length_in_s=duration_s)
    row = audio.hop_samples * audio.vae_scale_factor
    height = request.latent_shape[2]
    assert (height - 1) * row < request.samples <= height * row
    assert request.latent_shape == (1, 8, height, 64 // audio.vae_scale_factor)


@settings(max_examples=300, deadline=None)
@given(audio=audios, duration_s=st.floats(0.4, 600) | st.integers(1, 600) | st.decimals(1, 60, places=2).map(float))
def test_sizes_equal_the_reference_where_it_gives_all_it_promises(audio: AudioSpec, duration_s: float) -> None:
    samples, frames = reference_sizes(audio, duration_s)
    request = check(audio, audio_length_in_s=duration_s)
    assert request.samples == samples
    assume(frames * audio.hop_samples >= samples)  # else it rounds down and returns less
    assert request.latent_shape[2] == frames // audio.vae_scale_factor


@given(height=st.integers(1, 2_000))
def test_default_length_is_the_checkpoints(height: int) -> None:
    request = check(msgspec.structs.replace(AUDIO, default_latent_height=height), audio_length_in_s=None)
    assert request.latent_shape[2] == height
    assert request.samples == height * 640
