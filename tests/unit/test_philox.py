import secrets

import numpy as np
import pytest
from scipy import stats

from runtime.diffusion.noise import SeededNoise, TorchGenerator
from runtime.diffusion.philox import PhiloxGenerator, philox4x32
from runtime.errors import InputError
from tests.unit.helpers import raises_line

# `kat_vectors` of Random123, philox4x32 with 10 rounds: counter, key, words
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
# what people printed of torch.randn(size, device="cuda") after a seed, from its first element on
PRINTED = {
    0: [  # stable-diffusion-webui, modules/rng_philox.py
        [
            *(-0.92466259, -0.42534415, -2.6438457, 0.14518388),
            *(-0.12086647, -0.57972564, -0.62285122, -0.32838709),
            *(-1.07454231, -0.36314407, -1.67105067, 2.26550497),
        ]
    ],
    10: [[-0.1029, 1.6810, -0.2708]],  # PyTorch issue 79496
    42: [  # consecutive calls
        [0.1940, 2.1614, -0.1721, 0.8491],
        [0.1391, -0.1082, -0.7174, 0.7566],
        [-0.5187, 1.2268, 0.6255, -0.9117],
        [-0.6974, -1.8688, -0.8832, -1.6627],
        [-1.2682, -0.0383, -0.1029, 1.4400],
        [1.4640, -0.3238, 0.7740, 1.5892],
    ],
}
# multiprocessors and threads of each, seed, size, the last values: more elements than threads
PRINTED_LARGE = {
    "H100, PyTorch issue 143086": (132, 2048, 1, 49 * 12 * 112 * 144, [-0.6970, -0.7780, 0.3267]),
    "A100, PyTorch issue 143086": (108, 2048, 1, 49 * 12 * 112 * 144, [0.1549, -0.6797, -0.1656]),
    # the issue names no GPU: of 24 to 511 blocks only 168, such as 28 x 6, gives its 18 values
    "PyTorch issue 158398": (28, 1536, 42, 64 * 2048, [-0.4841, 1.2850, -0.0282]),
}


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    low, high = words(key)
    output = philox4x32([np.full(2, word, np.uint32) for word in words(counter)], high << 32 | low)
    assert [word.tolist() for word in output] == [[word] * 2 for word in words(expected)]


@pytest.mark.parametrize("seed", PRINTED)
def test_values_printed_on_gpus(seed: int) -> None:
    generator = PhiloxGenerator(seed)
    for values in PRINTED[seed]:
        ours = generator.randn((len(values),))
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, values, rtol=0, atol=1e-6 if seed == 0 else 6e-5)  # the digits printed


@pytest.mark.parametrize("name", PRINTED_LARGE)
def test_more_elements_than_threads(name: str) -> None:
    multiprocessors, threads, seed, size, last = PRINTED_LARGE[name]
    ours = PhiloxGenerator(seed, multiprocessors=multiprocessors, threads_per_multiprocessor=threads).randn((1, size))
    np.testing.assert_allclose(ours[0, -3:], last, rtol=0, atol=6e-5)


def test_strides_and_rounds_of_a_small_gpu() -> None:
    """Normals of PyTorch issue 97097 on an RTX A4000, and of 62467 on an RTX A6000."""
    normals = PhiloxGenerator(14, multiprocessors=48, threads_per_multiprocessor=1536).randn((1000, 100))
    ours = (5 + 5**0.5 * normals)[[0, 1, 2, -3, -2, -1]][:, [0, 1, 2, -3, -2, -1]]
    printed = [
        [2.8731, 5.2727, 2.9889, 1.6853, 9.6331, 6.6319],
        [3.9968, 3.8097, 5.7328, 4.4029, 3.9804, 7.4698],
        [6.5552, 4.0857, 4.2315, 2.7704, 3.5479, 3.3063],
        [8.6297, 2.3137, 6.2596, 7.9358, 4.4697, 2.7475],
        [7.0551, 7.8583, 3.9990, 4.1139, 8.9315, 4.2042],
        [2.7337, 2.2106, 7.7815, 8.2207, 6.5395, 4.2604],
    ]
    np.testing.assert_allclose(ours, printed, rtol=0, atol=6e-5)
    ours = PhiloxGenerator(43, multiprocessors=84, threads_per_multiprocessor=1536).randn((1, 3, 128, 128))
    np.testing.assert_allclose(ours[0, :, 0, 0], [1.9983, 0.8704, 2.1127], rtol=0, atol=6e-5)


@pytest.mark.parametrize("size", [255, 256, 257, 511, 512, 513, 2047, 2048, 2049, 5000])
def test_offset_advances_as_in_torch(size: int) -> None:
    """By ((n - 1) / (256 * grid * 4) + 1) * 4 a call: the next call is that many rounds of four further on."""
    seed, grid = secrets.randbelow(2**64), min(-(-size // 256), 2)
    ours = PhiloxGenerator(seed, multiprocessors=2, threads_per_multiprocessor=256)
    ours.randn((size,))
    other = PhiloxGenerator(seed, multiprocessors=2, threads_per_multiprocessor=256)
    for _ in range((size - 1) // (256 * grid * 4) + 1):
        other.randn((1,))
    assert (ours.randn((size,)) == other.randn((size,))).all()


def test_normal() -> None:
    ours = PhiloxGenerator(secrets.randbelow(2**64), multiprocessors=1, threads_per_multiprocessor=1024).randn(
        (100_003,)
    )
    assert stats.kstest(ours, "norm").pvalue > 1e-6
    assert abs(ours.mean()) < 0.02
    assert abs(ours.std() - 1) < 0.02
    assert abs(stats.kurtosis(ours)) < 0.15
    assert abs(np.corrcoef(ours[:-1024], ours[1024:])[0, 1]) < 0.02  # sine and cosine of one angle


def test_all_64_bits_of_the_seed_count() -> None:
    low = secrets.randbelow(2**32)
    draws = [PhiloxGenerator(seed).randn((64,)) for seed in (low, low + 2**32, low + 2**63)]
    assert min(np.abs(draws[i] - draws[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.1
    assert PhiloxGenerator(low).initial_seed() == low


def test_nothing_drawn() -> None:
    generator = PhiloxGenerator(10)
    assert generator.randn((0, 3)).shape == (0, 3)
    np.testing.assert_allclose(generator.randn((3,)), PRINTED[10][0], atol=6e-5)


def test_half_of_a_limit() -> None:
    with raises_line(InputError, "multiprocessors", "threads_per_multiprocessor"):
        PhiloxGenerator(0, multiprocessors=132)


def test_seeds_for_the_gpu() -> None:
    """An integer is a Philox generator, rows are shared equally, and what is a generator stays one."""
    seeds = [secrets.randbelow(2**64) for _ in range(2)]
    ours = SeededNoise(seeds, "cuda").randn((4, 3, 5))
    np.testing.assert_array_equal(ours, np.concatenate([PhiloxGenerator(seed).randn((2, 3, 5)) for seed in seeds]))
    with raises_line(InputError, "2 seeds", "3 waveforms"):
        SeededNoise(seeds, "cuda").randn((3, 8))
    mixed = SeededNoise([TorchGenerator(1), PhiloxGenerator(2)], "cuda").randn((2, 4, 4))
    expected = np.concatenate([TorchGenerator(1).randn((1, 4, 4)), PhiloxGenerator(2).randn((1, 4, 4))])
    np.testing.assert_array_equal(mixed, expected)


def test_limits_reach_the_generator() -> None:
    ours = SeededNoise([1], "cuda", multiprocessors=1, threads_per_multiprocessor=256).randn((1, 600))
    assert (ours[0, :256] == PhiloxGenerator(1).randn((600,))[:256]).all()
    assert not (ours == PhiloxGenerator(1).randn((1, 600))).all()
