import secrets
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from runtime.diffusion.noise import SeededNoise, TorchGenerator
from runtime.errors import InputError
from tests.unit.helpers import raises_line

SHAPES = [(1, 8, 256, 16), (2, 3, 5, 7), (16,), (17,)]  # 210 and 17 are no multiples of torch's block of 16
TOLERANCE = 1e-6


def fresh_seeds() -> list[int]:
    """Half of them above 32 bits, up to the last that torch takes."""
    return [secrets.randbelow(2**32) for _ in range(5)] + [2**32 + secrets.randbelow(2**64 - 2**32) for _ in range(5)]


def generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def assert_close(ours: np.ndarray, theirs: torch.Tensor, seeds: object) -> None:
    assert ours.dtype == np.float32
    assert ours.shape == tuple(theirs.shape)
    worst = np.abs(ours - theirs.numpy()).max()
    assert worst <= TOLERANCE, f"seeds {seeds}: worst difference {worst:.2e}"


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_torch(shape: Sequence[int]) -> None:
    for seed in fresh_seeds():
        assert_close(TorchGenerator(seed).randn(shape), torch.randn(shape, generator=generator(seed)), seed)


@pytest.mark.parametrize("shape", SHAPES)
def test_draws_continue_one_stream(shape: Sequence[int]) -> None:
    for seed in fresh_seeds():
        ours, theirs = TorchGenerator(seed), generator(seed)
        for size in (shape, (33,), shape):
            assert_close(ours.randn(size), torch.randn(size, generator=theirs), seed)


def test_crosses_many_state_refills() -> None:
    seed = secrets.randbelow(2**64)
    assert_close(TorchGenerator(seed).randn((100_003,)), torch.randn(100_003, generator=generator(seed)), seed)


@pytest.mark.parametrize("row", [(8, 25, 16), (3, 5, 7)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_seeds_as_diffusers_takes_generators(row: tuple[int, ...], count: int) -> None:
    seeds = fresh_seeds()[-count:]
    ours, theirs = SeededNoise(seeds), [generator(seed) for seed in seeds]
    for _ in range(2):  # the second draw is a step's noise
        assert_close(ours.randn((count, *row)), randn_tensor((count, *row), generator=theirs), seeds)


def test_one_seed_serves_the_whole_batch() -> None:
    seed = secrets.randbelow(2**64)
    shape = (3, 8, 25, 16)
    assert_close(SeededNoise([seed]).randn(shape), torch.randn(shape, generator=generator(seed)), seed)


def test_other_seed_other_noise() -> None:
    assert np.abs(TorchGenerator(1).randn((64,)) - TorchGenerator(2).randn((64,))).max() > 0.1


def test_below_sixteen_elements() -> None:
    with raises_line(InputError, "16", "(3, 5)"):
        TorchGenerator(0).randn((3, 5))
    with raises_line(InputError, "16", "(1, 15)"):
        SeededNoise([0, 1]).randn((2, 15))  # it is the row that counts


def test_seed_count_is_neither_one_nor_the_rows() -> None:
    with raises_line(InputError, "2 seeds", "3 waveforms"):
        SeededNoise([0, 1]).randn((3, 8, 4, 16))
