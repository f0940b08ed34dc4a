"""Weights in prompts: how they are read, and which states they scale."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime import AudioLDM2Pipeline
from runtime.errors import InputError
from runtime.text.weights import weighted


@pytest.mark.parametrize(
    ("prompt", "text", "parts"),
    [
        ("a dog", "a dog", {"dog": 1.0}),
        ("a (dog:1.3) barks", "a dog barks", {"a": 1.0, "dog": 1.3, "barks": 1.0}),
        ("a (dog) [barks]", "a dog barks", {"dog": 1.1, "barks": 1 / 1.1}),
        ("((dog)) [(cat)]", "dog cat", {"dog": 1.21, "cat": 1.0}),
        ("(loud (dog: .5 ) here)", "loud dog here", {"loud": 1.1, "dog": 0.55, "here": 1.1}),
        (r"a \(dog\) \[x\] \\y", r"a (dog) [x] \y", {"dog": 1.0}),
        ("(dog at 3:30)", "dog at 3:30", {"dog": 1.1}),  # a number that nothing closes is a text
        ("(at 3:30)", "at 3", {"at": 30.0}),
        ("dog) barks]", "dog) barks]", {"dog": 1.0}),
        ("a (dog barks", "a dog barks", {"a": 1.0, "barks": 1.1}),
        ("(a [b)", "a b)", {"a": 1.1, "b": 1.0}),
        ("", "", {}),
        ("()", "", {}),
        ("\\", "\\", {}),
    ],
)
def test_reading(prompt: str, text: str, parts: dict[str, float]) -> None:
    if "3:30)" in prompt:
        with pytest.raises(InputError, match="30"):
            weighted(prompt)
        return
    found = weighted(prompt)
    assert found.text == text
    assert len(found.weights) == len(text)
    for part, weight in parts.items():
        start = text.index(part)
        assert found.of(start, start + len(part)) == pytest.approx(weight)


def test_only_the_states_of_the_words_are_scaled(bundle: Callable[[str], Path]) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(bundle("plain"))
    plain = pipe.encode_prompt("rain falls on a tin roof", negative_prompt="low quality")
    found = pipe.encode_prompt("rain (falls:1.5) on a tin roof", negative_prompt="low [quality]", prompt_weights=True)
    np.testing.assert_array_equal(plain[1], found[1])
    np.testing.assert_array_equal(plain[2], found[2])  # of the whole text, without its brackets
    ratios = (found[0] / plain[0]).mean(axis=2)  # (rows, tokens)
    tokenizer = pipe._encoder._tokenizers["text_encoder_2"]._tokenizer
    for row, text, word, weight in (
        (1, "rain falls on a tin roof", "falls", 1.5),
        (0, "low quality", "quality", 1 / 1.1),
    ):
        start = text.index(word)
        for i, (first, last) in enumerate(tokenizer.encode(text).offsets[: plain[1][row].sum()]):
            inside = text[first:last].strip() and start <= first + (text[first] == " ") < start + len(word)
            np.testing.assert_allclose(ratios[row, i], weight if inside else 1.0, rtol=1e-4)


def test_brackets_are_brackets_unless_weights_are_asked_for(bundle: Callable[[str], Path]) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(bundle("plain"))
    call = {"num_inference_steps": 2, "audio_length_in_s": 0.64, "seed": 1}
    plain = pipe("(rain:1.5)", **call).audios
    assert not np.array_equal(plain, pipe("(rain:1.5)", prompt_weights=True, **call).audios)
    np.testing.assert_array_equal(plain, pipe(r"\(rain:1.5\)", prompt_weights=True, **call).audios)


@pytest.mark.parametrize(("prompt", "weights"), [("(rain:11)", True), ("rain", 1), ("((((rain:9))))", True)])
def test_refused(prompt: str, weights: object, bundle: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="weight"):
        AudioLDM2Pipeline.from_pretrained(bundle("plain")).check(prompt, prompt_weights=weights)
