"""Every argument of the reference's call: the same meaning, against the reference itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.parity import relative_error
from runtime import AudioLDM2Pipeline, InputError, StopDenoising
from tests.parity.test_pipeline import SEEN, random_text, run_reference

FAST: dict[str, Any] = {"audio_length_in_s": 0.7, "num_inference_steps": 3}
EMBEDS = ("prompt_embeds", "attention_mask", "generated_prompt_embeds")
NEGATIVE = ("negative_prompt_embeds", "negative_attention_mask", "negative_generated_prompt_embeds")


@pytest.fixture
def pipe(bundle: Callable[[str], Path]) -> AudioLDM2Pipeline:
    return AudioLDM2Pipeline.from_pretrained(bundle("plain"))


@pytest.fixture
def theirs(reference: Callable[[str], Any]) -> Any:
    return reference("plain")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng()


@pytest.fixture
def prompt(rng: np.random.Generator) -> str:
    return random_text(rng, 6)


@pytest.fixture
def seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


@pytest.mark.parametrize("guided", [True, False])
def test_encode_prompt_gives_the_references_arrays(
    guided: bool, pipe: AudioLDM2Pipeline, theirs: Any, prompt: str
) -> None:
    common: dict[str, Any] = {"num_waveforms_per_prompt": 2, "do_classifier_free_guidance": guided, "max_new_tokens": 5}
    ours = pipe.encode_prompt(prompt, negative_prompt="low quality" if guided else None, **common)
    with torch.no_grad():
        expected = theirs.encode_prompt(prompt, "cpu", negative_prompt="low quality" if guided else None, **common)
    for name, array, wanted in zip(EMBEDS, ours, expected, strict=True):
        assert array.shape == tuple(wanted.shape), name
        assert relative_error(array, wanted.numpy()) <= SEEN, name


@pytest.mark.parametrize("negative", ["embeds", "text", "none", "without mask"])
def test_embeddings_in_place_of_texts(
    negative: str, pipe: AudioLDM2Pipeline, theirs: Any, prompt: str, seed: int
) -> None:
    with torch.no_grad():
        both = theirs.encode_prompt(prompt, "cpu", 1, True, negative_prompt="noise")
    given = {name: array[1:] for name, array in zip(EMBEDS, both, strict=True)}
    if negative in ("embeds", "without mask"):
        given |= {name: array[:1] for name, array in zip(NEGATIVE, both, strict=True)}
    if negative == "without mask":
        del given["negative_attention_mask"], given["attention_mask"]
    if negative == "text":
        given["negative_prompt"] = ["low quality"]  # the reference wants its type to be that of a missing prompt
        ours = {**given, "negative_prompt": "low quality"}
        given.pop("negative_prompt")
        expected = None
    else:
        ours, expected = given, run_reference(theirs, seed, **given, **FAST)
    actual = pipe(seed=seed, **ours, **FAST).audios
    if expected is None:  # then against our own texts
        expected = pipe(prompt, negative_prompt="low quality", seed=seed, **FAST).audios
    assert relative_error(actual, expected) <= SEEN


def test_texts_with_negative_embeddings(pipe: AudioLDM2Pipeline, theirs: Any, prompt: str, seed: int) -> None:
    with torch.no_grad():
        both = theirs.encode_prompt(prompt, "cpu", 1, True, negative_prompt="noise")
    negative = {name: array[:1] for name, array in zip(NEGATIVE, both, strict=True)}
    expected = run_reference(theirs, seed, prompt=prompt, **negative, **FAST)
    assert relative_error(pipe(prompt, seed=seed, **negative, **FAST).audios, expected) <= SEEN


def test_generate_language_model(pipe: AudioLDM2Pipeline, theirs: Any, rng: np.random.Generator) -> None:
    width = theirs.language_model.config.n_embd
    embeds = rng.standard_normal((2, 9, width), np.float32)
    mask = np.ones((2, 9), np.int64)
    mask[1, 5:8] = 0
    with torch.no_grad():
        expected = theirs.generate_language_model(
            torch.from_numpy(embeds), max_new_tokens=11, attention_mask=torch.from_numpy(mask)
        )
    actual = pipe.generate_language_model(embeds, 11, attention_mask=mask)
    assert actual.shape == (2, 11, width)
    assert relative_error(actual, expected.numpy()) <= SEEN


@pytest.mark.parametrize("new", [1, 2, 30, 200])
def test_the_language_model_goes_to_its_last_position(
    new: int, pipe: AudioLDM2Pipeline, theirs: Any, rng: np.random.Generator
) -> None:
    """The last embedding is not fed back, and takes no position."""
    config = theirs.language_model.config
    length = config.n_positions - new + 1
    embeds, mask = rng.standard_normal((1, length, config.n_embd), np.float32), np.ones((1, length), np.int64)
    with torch.no_grad():
        expected = theirs.generate_language_model(
            torch.from_numpy(embeds), max_new_tokens=new, attention_mask=torch.from_numpy(mask)
        )
    assert relative_error(pipe.generate_language_model(embeds, new, attention_mask=mask), expected.numpy()) <= SEEN
    with pytest.raises(InputError, match=f"so at most {new}"):
        pipe.generate_language_model(embeds, new + 1, attention_mask=mask)


def test_max_new_tokens(pipe: AudioLDM2Pipeline, theirs: Any, prompt: str, seed: int) -> None:
    expected = run_reference(theirs, seed, prompt=prompt, max_new_tokens=3, **FAST)
    assert relative_error(pipe(prompt, seed=seed, max_new_tokens=3, **FAST).audios, expected) <= SEEN
    other = pipe(prompt, seed=seed, **FAST).audios
    assert relative_error(other, expected) > 0.01


def test_generators(pipe: AudioLDM2Pipeline, theirs: Any, prompt: str, seed: int) -> None:
    """A torch generator is used and advanced as the reference does; a list gives each waveform its own."""
    ours, reference = (torch.Generator().manual_seed(seed) for _ in range(2))
    for _ in range(2):
        expected = np.asarray(theirs(prompt, generator=reference, eta=0.5, **FAST).audios)
        result = pipe(prompt, generator=ours, eta=0.5, **FAST)
        assert relative_error(result.audios, expected) <= SEEN
        assert result.seeds == (seed,)
    several = [torch.Generator().manual_seed(seed + i) for i in range(2)]
    expected = np.asarray(theirs([prompt, prompt], generator=several, **FAST).audios)
    actual = pipe([prompt, prompt], seed=[seed, seed + 1], **FAST).audios
    assert relative_error(actual, expected) <= SEEN


def test_callback_is_told_what_the_reference_tells(
    pipe: AudioLDM2Pipeline, theirs: Any, prompt: str, seed: int
) -> None:
    told: list[list[tuple[int, float, np.ndarray]]] = [[], []]
    arguments: dict[str, Any] = {"audio_length_in_s": 0.5, "num_inference_steps": 5, "callback_steps": 2}
    pipe(prompt, seed=seed, callback=lambda i, t, x: told[0].append((i, t, x)), **arguments)
    run_reference(
        theirs, seed, prompt=prompt, callback=lambda i, t, x: told[1].append((i, int(t), x.numpy())), **arguments
    )
    assert [(i, t) for i, t, _ in told[0]] == [(i, t) for i, t, _ in told[1]]
    assert len(told[0]) == 3
    assert all(relative_error(a, b) <= SEEN for (_, _, a), (_, _, b) in zip(*told, strict=True))


def test_a_callback_may_stop_the_loop(pipe: AudioLDM2Pipeline, prompt: str, seed: int) -> None:
    kept: list[np.ndarray] = []

    def stop(step: int, _: float, latents: np.ndarray) -> None:
        kept.append(latents)
        if step == 1:
            raise StopDenoising

    stopped = pipe(prompt, seed=seed, callback=stop, output_type="latent", **{**FAST, "num_inference_steps": 50})
    assert len(kept) == 2
    assert np.array_equal(stopped.audios, kept[-1])


def test_output_types(pipe: AudioLDM2Pipeline, theirs: Any, prompt: str, seed: int) -> None:
    latents = pipe(prompt, seed=seed, output_type="latent", **FAST)
    expected = run_reference(theirs, seed, prompt=prompt, output_type="latent", **FAST)
    assert relative_error(latents.audios, expected) <= SEEN
    (tensor,) = pipe(prompt, seed=seed, output_type="pt", return_dict=False, **FAST)  # type: ignore[misc]
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), pipe(prompt, seed=seed, **FAST).audios)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler", "PNDMScheduler"])
def test_scheduler_in_place_of_the_checkpoints(
    name: str, pipe: AudioLDM2Pipeline, theirs: Any, prompt: str, seed: int
) -> None:
    import diffusers

    own = theirs.scheduler
    try:
        theirs.scheduler = getattr(diffusers, name).from_config(own.config)
        expected = run_reference(theirs, seed, prompt=prompt, **{**FAST, "num_inference_steps": 6})
    finally:
        theirs.scheduler = own
    steps = {**FAST, "num_inference_steps": 6}
    assert relative_error(pipe(prompt, seed=seed, scheduler=name, **steps).audios, expected) <= SEEN
    config = {**pipe._manifest.scheduler, "_class_name": name}
    assert relative_error(pipe(prompt, seed=seed, scheduler=config, **steps).audios, expected) <= SEEN


def test_the_same_prompt_is_encoded_once(pipe: AudioLDM2Pipeline, prompt: str) -> None:
    calls = []
    run = pipe._encoder._run
    pipe._encoder._run = lambda name, **feeds: calls.append(name) or run(name, **feeds)  # type: ignore[method-assign]
    first = pipe([prompt, prompt, "other"], seed=1, **FAST).audios
    assert calls.count("text_encoder_2") == 2
    again = pipe(prompt, seed=2, **FAST).audios
    assert calls.count("text_encoder_2") == 2
    pipe(prompt, seed=1, negative_prompt="noise", **FAST)
    assert calls.count("text_encoder_2") == 3
    assert first.shape[0] == 3
    assert relative_error(again, first[:1]) > 0.01


def test_ranking_is_each_prompts_own_with_latents_of_the_users(
    pipe: AudioLDM2Pipeline, rng: np.random.Generator
) -> None:
    prompts = [random_text(rng, 4), random_text(rng, 9)]
    latents = rng.standard_normal((4, 8, 18, 16), np.float32)
    both = pipe(prompts, num_waveforms_per_prompt=2, latents=latents, **FAST)
    for i, prompt in enumerate(prompts):
        rows = slice(2 * i, 2 * i + 2)
        alone = pipe(prompt, num_waveforms_per_prompt=2, latents=latents[rows], **FAST)
        assert relative_error(both.audios[rows], alone.audios) <= SEEN
        assert np.allclose(both.scores[rows], alone.scores, atol=1e-5)  # type: ignore[index, arg-type]
        assert alone.scores[0] >= alone.scores[1]  # type: ignore[index]


ROW = np.zeros((1, 4, 64), np.float32)
NEW = np.zeros((1, 4, 48), np.float32)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({}, "prompt"),
        ({"prompt_embeds": ROW}, "generated_prompt_embeds"),
        ({"prompt": "a", "prompt_embeds": ROW, "generated_prompt_embeds": ROW}, "not both"),
        ({"prompt": "a", "generated_prompt_embeds": ROW}, "not both"),
        ({"prompt": "a", "negative_prompt": "b", "negative_prompt_embeds": ROW}, "not both"),
        ({"prompt": "a", "negative_prompt_embeds": ROW}, "negative_generated_prompt_embeds"),
        ({"prompt_embeds": ROW, "generated_prompt_embeds": NEW, "attention_mask": np.ones((1, 5))}, "attention_mask"),
        (
            {
                "prompt_embeds": ROW,
                "generated_prompt_embeds": NEW,
                "negative_prompt_embeds": ROW[:, :2],
                "negative_generated_prompt_embeds": NEW,
            },
            "negative_prompt_embeds",
        ),
        ({"prompt_embeds": ROW * np.nan, "generated_prompt_embeds": ROW}, "NaN"),
        ({"prompt": "a", "callback_steps": 0}, "callback_steps"),
        ({"prompt": "a", "callback_steps": None}, "callback_steps"),
        ({"prompt": "a", "output_type": "wav"}, "output_type"),
        ({"prompt": "a", "cross_attention_kwargs": {"scale": 1}}, "cross_attention_kwargs"),
        ({"prompt": "a", "seed": 1, "generator": torch.Generator()}, "not both"),
        ({"prompt": "a", "generator": 5}, "generator"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens"),
        ({"prompt": "a", "max_new_tokens": 5000}, "max_new_tokens"),
        ({"prompt": "a", "scheduler": "DDIMSheduler"}, "DDIMScheduler"),
        ({"prompt": "a", "scheduler": {"beta_start": 0.1}}, "scheduler"),
        ({"prompt": "a", "transcription": "b"}, "transcription"),
    ],
    ids=lambda value: str(value).split(" object at")[0][:60],  # an address differs from process to process
)
def test_wrong_arguments_get_one_line(arguments: dict[str, Any], word: str, pipe: AudioLDM2Pipeline) -> None:
    with pytest.raises(InputError) as caught:
        pipe(**arguments, **FAST)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
