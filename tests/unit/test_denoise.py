"""What the denoising loop feeds a captured step."""

import numpy as np
import pytest

from runtime.backends.fake import FakeEngine
from runtime.backends.specs import TensorSpec
from runtime.diffusion.denoise import padded
from runtime.text.conditioning import Conditioning


def unet(most: int | None, *, sees_tokens: bool = True) -> FakeEngine:
    mask = TensorSpec(dtype="int64", axes=("batch", "tokens"), min_shape=(1, 1), max_shape=(None, most))
    return FakeEngine("unet", {"encoder_attention_mask_1": mask} if sees_tokens else {}, {}, dict)


@pytest.mark.parametrize(
    ("tokens", "most", "expected"),
    [(1, 128, 16), (16, 128, 16), (17, 128, 32), (33, 35, 35), (35, 35, 35), (120, None, 128)],
)
def test_tokens_are_padded_as_far_as_the_unet_takes_them(tokens: int, most: int | None, expected: int) -> None:
    rng = np.random.default_rng()
    states, mask = rng.standard_normal((2, tokens, 4), np.float32), np.ones((2, tokens), np.int64)
    found = padded(unet(most), Conditioning(states, mask, states), 16)
    assert found.prompt_embeds.shape == (2, expected, 4)
    assert (found.attention_mask.sum(axis=1) == tokens).all()
    np.testing.assert_array_equal(found.prompt_embeds[:, :tokens], states)


def test_tokens_that_the_unet_does_not_see_are_left_alone() -> None:
    states, mask = np.ones((1, 3, 4), np.float32), np.ones((1, 3), np.int64)
    assert padded(unet(None, sees_tokens=False), Conditioning(states, mask, states), 16).prompt_embeds is states
