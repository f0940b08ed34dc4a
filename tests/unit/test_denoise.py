"""What the denoising loop feeds a captured step."""

import numpy as np
import pytest

from runtime.backends.fake import FakeEngine
from runtime.backends.specs import TensorSpec
from runtime.diffusion.captured import padded


def unet(most: int | None) -> FakeEngine:
    def states(axis: str, most: int | None) -> TensorSpec:
        axes = ("batch", axis, "width")
        return TensorSpec(dtype="float32", axes=axes, min_shape=(1, 1, 4), max_shape=(None, most, 4))

    mask = TensorSpec(dtype="int64", axes=("batch", "tokens"), min_shape=(1, 1), max_shape=(None, most))
    inputs = {
        "encoder_hidden_states": states("new_tokens", None),
        "encoder_hidden_states_1": states("tokens", most),
        "encoder_attention_mask_1": mask,
    }
    return FakeEngine("unet", inputs, {}, dict)


@pytest.mark.parametrize(
    ("tokens", "most", "expected"),
    [(1, 128, 16), (16, 128, 16), (17, 128, 32), (33, 35, 35), (35, 35, 35), (120, None, 128)],
)
def test_tokens_are_padded_as_far_as_the_unet_takes_them(tokens: int, most: int | None, expected: int) -> None:
    rng = np.random.default_rng()
    states, mask = rng.standard_normal((2, tokens, 4), np.float32), np.ones((2, tokens), np.int64)
    found = padded(unet(most), {"encoder_hidden_states_1": states, "encoder_attention_mask_1": mask}, 16)
    assert found["encoder_hidden_states_1"].shape == (2, expected, 4)
    assert (found["encoder_attention_mask_1"].sum(axis=1) == tokens).all()
    np.testing.assert_array_equal(found["encoder_hidden_states_1"][:, :tokens], states)


def test_what_has_no_tokens_is_left_alone() -> None:
    states = np.ones((1, 3, 4), np.float32)
    assert padded(unet(None), {"encoder_hidden_states": states}, 16)["encoder_hidden_states"] is states
