"""The waveform against the reference pipeline's, for the same latents and for the same seed."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.parity import relative_error
from runtime import AudioLDM2Pipeline
from tests.checkpoints import SMALL

TOLERANCE = 1e-3  # the most that FP32 may be off; what is seen is below 1e-5
SEEN = 1e-4  # a regression would still pass the contract: this bound is ours
AUDIBLE = 1e-2

WORDS = ("dog", "barks", "twice", "rain", "falls", "on", "tin", "roof", "techno", "music", "with", "high", "riffs")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng()


def random_text(rng: np.random.Generator, count: int) -> str:
    return " ".join(rng.choice(WORDS, count))


def run_reference(pipeline: Any, seed: int | None = None, **arguments: Any) -> np.ndarray:
    generator = None if seed is None else torch.Generator("cpu").manual_seed(seed)
    return np.asarray(pipeline(generator=generator, **arguments).audios)


@pytest.mark.parametrize(("name", "duration"), [*product(SMALL, (1.0, 2.5)), ("nested_dims", 10.0)])
def test_same_latents_same_waveform(
    name: str,
    duration: float,
    bundle: Callable[[str], Path],
    reference: Callable[[str], Any],
    rng: np.random.Generator,
) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(bundle(name))
    audio = pipe._manifest.audio
    height = -(-int(duration * 100) // audio.vae_scale_factor)
    latents = rng.standard_normal((1, audio.latent_channels, height, audio.latent_width), np.float32)
    arguments = {
        "prompt": random_text(rng, 7),
        "negative_prompt": random_text(rng, 12),  # longer than the prompt: it is cut
        "audio_length_in_s": duration,
        "num_inference_steps": 3,
    }
    expected = run_reference(reference(name), latents=torch.from_numpy(latents), **arguments)
    actual = pipe(latents=latents, **arguments).audios
    assert np.sqrt((expected**2).mean()) > AUDIBLE
    error = relative_error(actual, expected)
    print(f"{name} {duration} s: relative error {error:.1e}")
    assert error <= SEEN <= TOLERANCE


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"guidance_scale": 1.0},
        {"guidance_scale": 0.3},
        {"eta": 0.8},
        {"eta": 1.0, "num_waveforms_per_prompt": 2},
        {"negative_prompt": "low quality"},
        {"num_waveforms_per_prompt": 3},
    ],
    ids=str,
)
def test_same_seed_same_waveform(
    arguments: dict[str, Any], bundle: Callable[[str], Path], reference: Callable[[str], Any], rng: np.random.Generator
) -> None:
    seed = int(rng.integers(2**31))
    common = {"prompt": random_text(rng, 9), "audio_length_in_s": 1.3, "num_inference_steps": 4, **arguments}
    expected = run_reference(reference("plain"), seed, **common)
    result = AudioLDM2Pipeline.from_pretrained(bundle("plain"))(seed=seed, **common)
    assert result.seeds == (seed,)
    assert relative_error(result.audios, expected) <= SEEN


def test_ranking_order_is_the_references(
    bundle: Callable[[str], Path], reference: Callable[[str], Any], rng: np.random.Generator
) -> None:
    pipe, seed = AudioLDM2Pipeline.from_pretrained(bundle("plain")), int(rng.integers(2**31))
    common = {"prompt": random_text(rng, 6), "audio_length_in_s": 0.7, "num_inference_steps": 2}
    result = pipe(num_waveforms_per_prompt=4, seed=seed, **common)
    expected = run_reference(reference("plain"), seed, num_waveforms_per_prompt=4, **common)
    assert result.scores is not None
    assert (np.diff(result.scores) <= 0).all()
    assert len(np.unique(result.scores.round(6))) == 4
    for row, wanted in zip(result.audios, expected, strict=True):
        assert relative_error(row, wanted) <= SEEN


def test_list_of_seeds_follows_its_rows(bundle: Callable[[str], Path], rng: np.random.Generator) -> None:
    pipe, seeds = AudioLDM2Pipeline.from_pretrained(bundle("plain")), [int(s) for s in rng.integers(2**31, size=3)]
    common: dict[str, Any] = {"prompt": random_text(rng, 5), "audio_length_in_s": 0.6, "num_inference_steps": 2}
    ranked = pipe(num_waveforms_per_prompt=3, seed=seeds, **common)
    assert sorted(ranked.seeds) == sorted(seeds)
    for seed, audio in zip(ranked.seeds, ranked.audios, strict=True):
        alone = pipe(seed=seed, **common).audios[0]
        assert relative_error(audio, alone) <= SEEN


def test_a_prompt_sounds_the_same_in_any_batch(
    bundle: Callable[[str], Path], reference: Callable[[str], Any], rng: np.random.Generator
) -> None:
    """Prompts of unequal length: a batch of the reference differs from its single runs; ours gives the single runs."""
    pipe = AudioLDM2Pipeline.from_pretrained(bundle("plain"))
    prompts, seeds = [random_text(rng, 3), random_text(rng, 14)], [int(s) for s in rng.integers(2**31, size=2)]
    common: dict[str, Any] = {"audio_length_in_s": 0.9, "num_inference_steps": 3}
    batch = pipe(prompts, seed=seeds, negative_prompt=["low quality", "noise"], **common).audios
    for row, prompt, negative, seed in zip(batch, prompts, ["low quality", "noise"], seeds, strict=True):
        expected = run_reference(reference("plain"), seed, prompt=prompt, negative_prompt=negative, **common)[0]
        assert relative_error(row, expected) <= SEEN


def test_a_long_prompt_is_cut_as_the_reference_cuts_it(
    bundle: Callable[[str], Path], reference: Callable[[str], Any], rng: np.random.Generator, caplog: Any
) -> None:
    seed = int(rng.integers(2**31))
    common = {"prompt": random_text(rng, 700) + " hammer", "audio_length_in_s": 0.5, "num_inference_steps": 2}
    expected = run_reference(reference("plain"), seed, **common)
    caplog.clear()
    result = AudioLDM2Pipeline.from_pretrained(bundle("plain"))(seed=seed, **common)
    assert relative_error(result.audios, expected) <= SEEN
    cuts = [record.getMessage() for record in caplog.records if record.name == "runtime.text.tokenizer"]
    assert [cut.split(" tokens")[0] for cut in cuts] == ["the prompt is cut at 128", "the prompt is cut at 512"]
    assert all("hammer" in cut for cut in cuts)
