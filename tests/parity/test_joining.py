"""Calls that run as one: each gets what it gets alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.parity import relative_error
from runtime import AudioLDM2Pipeline
from runtime.joining import batch_key, join, split

CALL: dict[str, Any] = {"num_inference_steps": 3, "audio_length_in_s": 0.6}
RANDOM = np.random.default_rng()


@pytest.fixture(scope="module")
def pipe(bundle: Callable[[str], Path]) -> AudioLDM2Pipeline:
    return AudioLDM2Pipeline.from_pretrained(bundle("plain"), "cpu")


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"guidance_scale": 1.0},
        {"num_waveforms_per_prompt": 2},
        {"num_waveforms_per_prompt": 2, "seed": (3, 4)},
        {"scheduler": "EulerAncestralDiscreteScheduler"},  # draws noise in each step
        {"output_type": "latent"},
        {"guidance_interval": (0.0, 0.5), "feature_cache_interval": 2},
    ],
)
def test_each_gets_what_it_gets_alone(pipe: AudioLDM2Pipeline, more: dict[str, Any]) -> None:
    texts = [
        ("rain", ""),
        ("a dog barks far away behind tall trees", "music, voices"),
        ("a low bell", "hiss"),
    ]
    calls = [
        {"prompt": text, "negative_prompt": negative, "seed": int(RANDOM.integers(2**31)), **CALL, **more}
        for text, negative in texts
    ]
    requests = [pipe.check(**call) for call in calls]
    assert len({batch_key(request) for request in requests}) == 1
    joined = split(pipe.render(join(requests)), requests)
    for call, found in zip(calls, joined, strict=True):
        expected = pipe(**call)
        assert found.audios.shape == expected.audios.shape
        assert found.seeds == expected.seeds
        assert np.sqrt((expected.audios**2).mean()) > 1e-2
        assert relative_error(found.audios, expected.audios) <= 1e-4
        if expected.scores is not None:
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_lengths_of_one_latent_height_are_cut_each(pipe: AudioLDM2Pipeline) -> None:
    calls = [{**CALL, "prompt": "rain", "seed": 1, "audio_length_in_s": seconds} for seconds in (0.61, 0.63)]
    requests = [pipe.check(**call) for call in calls]
    assert batch_key(requests[0]) == batch_key(requests[1])
    for call, found in zip(calls, split(pipe.render(join(requests)), requests), strict=True):
        expected = pipe(**call).audios
        assert found.audios.shape == expected.shape
        assert relative_error(found.audios, expected) <= 1e-4


@pytest.mark.parametrize(
    "other",
    [
        {"audio_length_in_s": 0.9},
        {"num_inference_steps": 4},
        {"guidance_scale": 2.0},
        {"guidance_scale": 1.0},
        {"guidance_interval": (0.0, 0.5)},
        {"feature_cache_interval": 2},
        {"num_waveforms_per_prompt": 2},
        {"scheduler": "EulerDiscreteScheduler"},
        {"eta": 0.5},
        {"output_type": "latent"},
        {"seed_device": "cuda"},
        {"max_new_tokens": 4},
    ],
)
def test_what_differs_is_not_joined(pipe: AudioLDM2Pipeline, other: dict[str, Any]) -> None:
    one, two = (pipe.check("rain", seed=1, **{**CALL, **more}) for more in ({}, other))
    assert batch_key(one) is not None
    assert batch_key(one) != batch_key(two)


def test_what_runs_alone(pipe: AudioLDM2Pipeline) -> None:
    import torch

    shape = pipe.check("rain", seed=1, **CALL).latent_shape
    for more in (
        {"prompt": ["rain", "a dog"]},
        {"latents": RANDOM.standard_normal(shape)},
        {"generator": torch.Generator(), "seed": None},
        {"return_dict": False},
        {"callback": print},
        {"audio_callback": print},
    ):
        assert batch_key(pipe.check(**{"prompt": "rain", "seed": 1, **CALL, **more})) is None
