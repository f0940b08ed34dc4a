"""Every wrong argument of a call is refused before any work, in one line that names it and says what is accepted."""

import math
import sys
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime import AudioLDM2Pipeline
from runtime.arguments import arguments_of
from runtime.backends.open_device import open_device
from runtime.backends.specs import TensorSpec
from runtime.diffusion.noise import TorchGenerator
from runtime.diffusion.philox import PhiloxGenerator
from runtime.embeddings import check_language_model_inputs, embedding_specs
from runtime.errors import InputError, MissingDependencyError
from runtime.request import Request, check_request
from runtime.text.conditioning import MASK, STATES
from tests.unit.helpers import make_manifest, raises_line

SHAPE = (1, 8, 25, 16)  # the latents of one second
TEXT, NEW = (2, 7, 24), (2, 8, 32)  # embeddings of two prompts


def spec(*shape: tuple[int, int | None]) -> TensorSpec:
    low, high = zip(*shape, strict=True)
    return TensorSpec(dtype="float32", axes=("batch", "tokens", "width"), min_shape=low, max_shape=high)


SPECS = {
    "prompt_embeds": spec((1, None), (1, 128), (24, 24)),
    "generated_prompt_embeds": spec((1, None), (1, None), (32, 32)),
}


def embeds(**changes: Any) -> dict[str, Any]:
    """A call with embeddings in place of texts."""
    return {"prompt": None, "prompt_embeds": ones(TEXT), "generated_prompt_embeds": ones(NEW), **changes}


def negative(**changes: Any) -> dict[str, Any]:
    return {"negative_prompt_embeds": ones(TEXT), "negative_generated_prompt_embeds": ones(NEW), **embeds(), **changes}


def ones(shape: tuple[int, ...]) -> np.ndarray:
    return np.ones(shape, np.float32)


def spoilt(shape: tuple[int, ...], value: float, dtype: Any = np.float32) -> np.ndarray:
    array = np.ones(shape, dtype)
    array.flat[3] = value
    return array


def spoilt_mask(value: float) -> np.ndarray:
    return spoilt(TEXT[:2], value, type(value))


def check(**changes: Any) -> Request:
    given = {"prompt": "rain", "audio_length_in_s": 1.0, "seed": 0, **changes}
    feeds = {"encoder_hidden_states": "generated_prompt_embeds", "encoder_hidden_states_1": "prompt_embeds"}
    unet = _engine({feed: SPECS[name] for feed, name in feeds.items()})
    return check_request(make_manifest(engines={"unet": unet}), arguments_of(given))


def wrong(name: str, fragment: str, *values: Any, given: dict[str, Any] | None = None) -> list[tuple[Any, str]]:
    """One case a value of an argument, over a call that is right."""
    return [({**(given or {}), name: value}, fragment) for value in values]


class Unreadable:
    """An object whose own conversion fails, and whose own description has lines."""

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise RuntimeError("it requires grad\ncall detach first")

    def __repr__(self) -> str:
        return "Unreadable(\n  1,\n)"


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("call", "fragment"),
    [
        ({"promt": "rain"}, "unknown argument 'promt': did you mean 'prompt'?"),
        ({"num_inference_step": 5}, "did you mean 'num_inference_steps'?"),
        ({"zzz": 5}, "unknown argument 'zzz': a call takes prompt, transcription,"),
        *wrong("prompt", "prompt has to be a str", b"rain", {"rain"}, iter(["rain"]), range(3)),
        *wrong("prompt", "prompt has to be a str", np.array([["a"]]), np.ones(3), Unshowable(), []),
        ({"prompt": Unreadable()}, "got Unreadable( 1, )"),
        ({"prompt": ["x" * 10_000, 5]}, "..."),
        ({"prompt": 10**5000}, "got a value of type int"),
        *wrong("latents", "latents", "noise", [[1.0], [1.0, 2.0]], [None], {}, 1j, True, b"x"),
        ({"latents": Unreadable()}, "latents is no array of numbers: it requires grad"),
        ({"latents": np.ones(SHAPE, bool)}, "real numbers, got an array of bool"),
        ({"latents": spoilt(SHAPE, 1e300, np.float64)}, "latents holds NaN or Inf"),
        ({"latents": spoilt(SHAPE, 1e30)}, "latents holds values up to 1e+30"),
        *wrong("prompt_embeds", "prompt_embeds", "rain", [[1], [1, 2]], 5, ones(TEXT[1:]), given=embeds()),
        (embeds(prompt_embeds=ones((2, 7, 25))), "prompt_embeds has shape (2, 7, 25): its width has to be 24, not 25"),
        (embeds(prompt_embeds=ones((2, 129, 24))), "its number of tokens has to be 1 to 128, not 129"),
        (embeds(prompt_embeds=spoilt(TEXT, math.nan)), "prompt_embeds holds NaN or Inf"),
        (embeds(prompt_embeds=spoilt(TEXT, 1e20)), "prompt_embeds holds values up to 1e+20"),
        (embeds(generated_prompt_embeds=ones((2, 8, 24))), "generated_prompt_embeds has shape (2, 8, 24): its width"),
        (embeds(generated_prompt_embeds=ones((3, 8, 32))), "generated_prompt_embeds has 3 prompts, prompt_embeds 2"),
        *[(negative(**{f"negative_{name}": ones((2, 7, 9))}), f"negative_{name}") for name in SPECS],
        ({"negative_prompt_embeds": ones((1, 7, 9)), "negative_generated_prompt_embeds": ones((1, 8, 32))}, "width"),
        *wrong("attention_mask", "0 and 1 only", *map(spoilt_mask, (math.nan, 0.5, -1.0, math.inf)), given=embeds()),
        *wrong("attention_mask", "0 and 1 only", *map(spoilt_mask, (2**62, 2, -1)), given=embeds()),
        *wrong("attention_mask", "attention_mask", "11", [[1], [1, 1]], Unreadable(), ones((2, 6)), given=embeds()),
        (embeds(attention_mask=np.full(TEXT[:2], "1")), "attention_mask has to hold 0 and 1 only"),
        (negative(negative_attention_mask=spoilt(TEXT[:2], math.nan)), "negative_attention_mask has to hold 0 and 1"),
        (embeds(max_new_tokens=9), "max_new_tokens is 9, but the embeddings given have 8 new tokens"),
        ({"attention_mask": ones((1, 7))}, "not both"),
        ({"negative_attention_mask": ones((1, 7))}, "go together"),
        *wrong("guidance_scale", "guidance_scale", 1e30, 1001, Decimal("sNaN"), 10**400),
        *wrong("guidance_scale", "guidance_scale", np.ones(3), np.bool_(True), Fraction(10**400)),
        *wrong("audio_length_in_s", "audio_length_in_s", Decimal("NaN"), Decimal("0.0399"), 1e7),
        *wrong("audio_length_in_s", "audio_length_in_s", np.float32(0.03), "1", np.ones(1)),
        *wrong("num_waveforms_per_prompt", "integer from 1", 10**5000, np.bool_(True), 1.5),
        *wrong("callback", "callback has to be a function", 5, "print", True),
        *wrong("audio_callback", "audio_callback has to be a function", 5, "print", True),
        *wrong("callback_steps", "callback_steps", True, 0, 1.0, "1"),
        *wrong("return_dict", "return_dict has to be True or False", None, 0, "no"),
        *wrong("output_type", "output_type has to be one of np, latent, pt", "pil", None, np.ones(2)),
        *wrong("seed_device", "seed_device has to be one of cpu, cuda", "cuda:0", None, ["cpu"]),
        *wrong("scheduler", "scheduler has to be the name of a class or a config", 5, [], True),
        *wrong("scheduler", "unknown scheduler", {}, {"_class_name": None}, "none of them"),
        *wrong("cross_attention_kwargs", "cross_attention_kwargs", {"scale": 1}, 5, np.ones(2)),
        *wrong("guidance_interval", "guidance_interval", np.ones(3), {0, 1}, (0, "1"), 5),
        *wrong("seed", "seed has to be an integer from 0", -1, 2**64, 1.0, True, np.bool_(True), "1"),
        *wrong("seed", "seed has to be an integer from 0", np.array([0.5]), np.ones((1, 1)), {1}),
        *wrong("seed", "seed has 0 values", [], np.zeros(0, int)),
        *wrong("seed", "seed has 3 values for 1 waveform: give one", [0, 1, 2], np.arange(3)),
        *wrong("generator", "generator has to be", 5, "x", TorchGenerator, [None], given={"seed": None}),
    ],
    ids=lambda value: list(value)[-1] if isinstance(value, dict) else "line",
)  # fmt: skip
def test_a_wrong_call_gets_one_line(call: dict[str, Any], fragment: str) -> None:
    with raises_line(InputError, fragment):
        check(**call)


@pytest.mark.parametrize(
    ("call", "field", "expected"),
    [
        ({"prompt": np.array(["a", "b"])}, "prompts", ("a", "b")),
        ({"prompt": (np.str_("a"), "b")}, "prompts", ("a", "b")),
        ({"prompt": ["a", "b"], "negative_prompt": np.array(["c", "d"])}, "negative_prompts", ("c", "d")),
        ({"prompt": ["a", "b"], "seed": np.array([1, 2**64 - 1], np.uint64)}, "seeds", (1, 2**64 - 1)),
        ({"prompt": ["a", "b"], "seed": range(2)}, "seeds", (0, 1)),
        ({"guidance_scale": Fraction(7, 2)}, "guidance_scale", 3.5),
        ({"guidance_scale": 1000}, "guidance_scale", 1000.0),
        ({"guidance_interval": np.array([0, 0.5])}, "guidance_interval", (0.0, 0.5)),
        ({"cross_attention_kwargs": {}}, "rows", 1),
        (embeds(), "max_new_tokens", 8),
        (embeds(generated_prompt_embeds=ones((2, 5, 32))), "max_new_tokens", 5),
        ({"max_new_tokens": 3}, "max_new_tokens", 3),
        ({"callback": print, "return_dict": False, "scheduler": {"_class_name": "DDPMScheduler"}}, "rows", 1),
    ],
)
def test_other_kinds_of_values(call: dict[str, Any], field: str, expected: Any) -> None:
    value = getattr(check(**call), field)
    assert value == expected
    assert type(value) is type(expected)
    if isinstance(value, tuple):
        assert all(type(item) is type(wanted) for item, wanted in zip(value, expected, strict=True))


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint64, np.float16, np.float64, list])
def test_masks_of_any_kind(kind: Any) -> None:
    """Also a row that is all 0: the reference's own negative speech rows are."""
    mask = np.random.default_rng().integers(0, 2, TEXT[:2])
    mask[1] = 0
    given = mask.tolist() if kind is list else mask.astype(kind)
    kept = check(**embeds(attention_mask=given)).embeds.feeds[MASK]  # type: ignore[union-attr]
    assert kept.dtype == np.int64
    np.testing.assert_array_equal(kept, mask)


def test_embeddings_are_kept_as_contiguous_float32() -> None:
    states = np.random.default_rng().standard_normal(TEXT[::-1]).T
    kept = check(**embeds(prompt_embeds=states)).embeds.feeds[STATES]  # type: ignore[union-attr]
    assert kept.dtype == np.float32
    assert kept.flags.c_contiguous
    np.testing.assert_array_equal(kept, states.astype(np.float32))


def durations() -> Iterator[tuple[Any, int]]:
    """Durations and the samples that each means at 16 kHz: what the reference makes of a float stays."""
    for k in range(4, 3000, 7):
        yield k / 100, int(k / 100 * 16_000)
        yield np.float64(k / 100), int(k / 100 * 16_000)
        yield np.float32(k / 100), 160 * k
        yield Decimal(k) / 100, 160 * k
        yield Fraction(k, 100), 160 * k
        if k < 1600:  # from 16 s on a float16 does not tell hundredths apart
            yield np.float16(k / 100), 160 * k
    for k in range(640, 1_600_000, 997):
        yield np.float32(k / 16_000), k
        yield Fraction(k, 16_000), k
    for seconds in range(1, 120):
        yield from ((kind(seconds), 16_000 * seconds) for kind in (np.int8, np.uint16, np.float16, int))


def test_durations_of_every_numeric_type() -> None:
    found = ((value, n, check(audio_length_in_s=value, num_inference_steps=1).samples) for value, n in durations())
    wrong = [(repr(value), n) for value, n, samples in found if samples != n]
    assert not wrong, f"{len(wrong)} wrong, such as {wrong[:5]}"
    assert check(audio_length_in_s=np.float32(0.64)).samples == 10_240


def test_generators_of_every_kind() -> None:
    import torch

    generators = [torch.Generator(), TorchGenerator(1), PhiloxGenerator(2)]
    for generator in generators:
        assert check(generator=generator, seed=None).seeds == (generator,)
    assert check(prompt=["a", "b", "c"], generator=generators, seed=None).seeds == tuple(generators)


def test_a_tensor_is_not_promised_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    check(output_type="pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    with raises_line(MissingDependencyError, "pip install torch"):
        check(output_type="pt")


@pytest.mark.parametrize("folder", [None, 5, b"folder", ["folder"], True])
def test_a_bundle_that_is_no_path(folder: Any) -> None:
    with raises_line(InputError, f"a bundle is the path of a folder, got {folder!r}"):
        AudioLDM2Pipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", [None, 0, b"cpu", ["cpu"]])
def test_a_device_or_precision_that_is_no_name(name: Any) -> None:
    with raises_line(InputError, "device has to be auto, cpu, cuda or cuda:N"):
        open_device(name)
    with raises_line(InputError, "unknown precision"):
        open_device("cpu", name)


LANGUAGE_MODEL = spec((1, None), (1, 160), (32, 32))


@pytest.mark.parametrize(
    ("inputs", "mask", "new_tokens", "fragment"),
    [
        *[(ones((1, 4, 32)), None, value, "max_new_tokens") for value in (-1, 0, True, 1.5, "8", 10**5000)],
        *[(value, None, 8, "inputs_embeds") for value in ("x", [[1], [1, 2]], None, ones((4, 32)), ones((0, 4, 32)))],
        (ones((1, 4, 31)), None, 8, "inputs_embeds has shape (1, 4, 31): its width has to be 32"),
        (ones((1, 161, 32)), None, 8, "its number of tokens has to be 1 to 160"),
        (spoilt((1, 4, 32), math.inf), None, 8, "inputs_embeds holds NaN or Inf"),
        (ones((1, 4, 32)), ones((1, 5)), 8, "attention_mask has shape (1, 5)"),
        (ones((1, 4, 32)), spoilt((1, 4), 2**62, np.int64), 8, "attention_mask has to hold 0 and 1 only"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_wrong_inputs_of_the_language_model(inputs: Any, mask: Any, new_tokens: Any, fragment: str) -> None:
    with raises_line(InputError, fragment):
        check_language_model_inputs(_speaker(), inputs, mask, new_tokens)


def test_inputs_of_the_language_model() -> None:
    *_, own = check_language_model_inputs(_speaker(), ones((2, 4, 32)), None, None)
    assert own == 8  # the checkpoint's
    embeds, mask, new_tokens = check_language_model_inputs(_speaker(), np.ones((2, 4, 32)), None, np.int64(3))  # type: ignore[arg-type]
    assert (embeds.dtype, mask.dtype, new_tokens) == (np.float32, np.int64, 3)
    assert mask.shape == (2, 4)
    assert mask.all()


def test_specs_of_a_bundles_embeddings() -> None:
    """The UNet says what it takes; where it does not see the prompt's states, the projection does."""
    text, new = SPECS["prompt_embeds"], SPECS["generated_prompt_embeds"]
    projection = _engine({"hidden_states_1": text})
    other = spec((1, None), (1, 64), (24, 24))
    unet = _engine({"encoder_hidden_states": new, "encoder_hidden_states_1": other})
    assert embedding_specs({"unet": unet, "projection_model": projection}) == {**SPECS, "prompt_embeds": other}
    speech = _engine({"encoder_hidden_states": new})
    assert embedding_specs({"unet": speech, "projection_model": projection}) == SPECS
    assert embedding_specs({}) == {}


def _speaker() -> Any:
    """A manifest with a language model in it."""
    return make_manifest(engines={"language_model": _engine({"inputs_embeds": LANGUAGE_MODEL})})


def _engine(inputs: dict[str, TensorSpec]) -> Any:
    return SimpleNamespace(inputs=inputs)
