"""Seeded normals equal to PyTorch's CUDA generator, made where they are needed: NumPy or CuPy.

Sources: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011) for Philox4x32-10; cuRAND's
`curand_init` and `curand_normal4` for counters and normals; PyTorch's `distribution_nullary_kernel` for which thread
makes which element.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.errors import InputError

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1, in 32 bits
_WORD = 0xFFFFFFFF
_BLOCK = 256  # threads of a block of PyTorch's kernel
_UNROLL = 4  # values that a thread makes at a time

Array = Any  # of NumPy or CuPy, whichever `xp` is


class PhiloxGenerator:
    """`torch.Generator("cuda").manual_seed(seed)`: consecutive `randn` calls continue one stream.

    Up to `256 * multiprocessors * (threads_per_multiprocessor // 256)` elements a call, the numbers are the same on
    every GPU. Above it PyTorch gives a thread several elements, so they depend on the GPU: pass its number of
    multiprocessors and its most threads per multiprocessor (both, from the device) to get those. None: no such limit.
    """

    def __init__(
        self,
        seed: int,
        xp: Any = np,
        *,
        multiprocessors: int | None = None,
        threads_per_multiprocessor: int | None = None,
    ) -> None:
        if (multiprocessors is None) != (threads_per_multiprocessor is None):
            raise InputError("give both multiprocessors and threads_per_multiprocessor, or neither")
        self._seed, self._xp = seed, xp
        self._most_blocks = (multiprocessors or 0) * ((threads_per_multiprocessor or 0) // _BLOCK) or None
        self._counter = 0  # blocks of four words that each thread has drawn; PyTorch's offset is 4 times this

    def initial_seed(self) -> int:
        """The seed it started from."""
        return self._seed

    def randn(self, shape: Sequence[int]) -> Array:
        """Return `torch.randn(shape, device="cuda", generator=self)`, float32, an array of `xp`.

        Not bit for bit: cuRAND takes the GPU's fast sine and cosine, which err in the last places.
        """
        xp, size = self._xp, math.prod(shape)
        blocks = -(-size // _BLOCK)
        stride = _BLOCK * min(blocks, self._most_blocks or blocks)  # threads
        thread = xp.arange(min(size, stride), dtype=np.uint64)
        parts: list[Array] = []  # element t + j * stride, (stride,) for each j
        for first in range(0, size, _UNROLL * stride or 1):
            words = philox4x32(_words(xp.full_like(thread, self._counter)) + _words(thread), self._seed)
            self._counter += 1
            parts += box_muller(xp, *words[:2])
            if first + 2 * stride < size:
                parts += box_muller(xp, *words[2:])
        return xp.concatenate([*parts, xp.empty(0, np.float32)])[:size].reshape(shape)


def philox4x32(counter: Sequence[Array], key: int) -> list[Array]:
    """Philox4x32-10 of four arrays of 32-bit words, lowest first, under a 64-bit key: four arrays, uint32."""
    a, b, c, d = (word.astype(np.uint32) for word in counter)
    keys = [key & _WORD, key >> 32 & _WORD]
    for _ in range(_ROUNDS):
        low_0, high_0 = _words(a.astype(np.uint64) * _MULTIPLIERS[0])
        low_1, high_1 = _words(c.astype(np.uint64) * _MULTIPLIERS[1])
        a, b, c, d = high_1 ^ b ^ np.uint32(keys[0]), low_1, high_0 ^ d ^ np.uint32(keys[1]), low_0
        keys = [key + step & _WORD for key, step in zip(keys, _KEY_STEPS, strict=True)]
    return [a, b, c, d]


def box_muller(xp: Any, x: Array, y: Array) -> list[Array]:
    """Two arrays of normals, float32, from two of 32-bit words: the sine half, then the cosine half."""
    u = x.astype(np.float32) * np.float32(2**-32) + np.float32(2**-33)
    two_pi = float(np.float32(2 * np.pi)) * 2**-32
    # in double and rounded once: the GPU multiplies and adds in one operation
    v = (y.astype(np.float32).astype(np.float64) * two_pi + two_pi / 2).astype(np.float32)
    radius = xp.sqrt(xp.log(u) * np.float32(-2))
    return [radius * xp.sin(v), radius * xp.cos(v)]


def _words(array: Array) -> list[Array]:
    """Low and high 32 bits of a uint64 array, each uint32."""
    return [(array & np.uint64(_WORD)).astype(np.uint32), (array >> np.uint64(32)).astype(np.uint32)]
