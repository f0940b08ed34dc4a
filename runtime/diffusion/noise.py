"""Seeded normals equal to PyTorch's generators, so that one seed gives the reference's own latents."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from runtime.diffusion.philox import PhiloxGenerator
from runtime.errors import InputError

_BLOCK = 16  # torch fills normals in blocks of 16: 8 radii, then 8 angles
_TWO_PI = np.float32(2 * np.pi)


class TorchGenerator:
    """`torch.Generator("cpu").manual_seed(seed)`: consecutive `randn` calls continue one stream.

    MT19937, 24-bit uniforms, Box-Muller over blocks of 16. As in torch only the low 32 bits of the seed count.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._bits = np.random.MT19937()
        self._bits.state = cast(Any, np.random.RandomState(seed & 0xFFFFFFFF).get_state(legacy=False))

    def initial_seed(self) -> int:
        """The seed it started from."""
        return self._seed

    def randn(self, shape: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return `torch.randn(shape, generator=self)`, float32, equal to within one unit in the last place.

        Raises InputError below 16 elements, where torch takes another path.
        """
        size = int(np.prod(shape))
        if size < _BLOCK:
            raise InputError(f"seeded noise needs at least {_BLOCK} elements, got shape {tuple(shape)}")
        uniforms = self._uniform(size)
        whole = size - size % _BLOCK
        normals = np.empty(size, np.float32)
        normals[:whole] = _box_muller(uniforms[:whole])
        if whole < size:  # torch draws the last 16 values anew
            normals[-_BLOCK:] = _box_muller(self._uniform(_BLOCK))
        return normals.reshape(shape)

    def _uniform(self, count: int) -> npt.NDArray[np.float32]:
        return (self._bits.random_raw(count) & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)


class _BorrowedGenerator:
    """A `torch.Generator` of the caller's: torch draws, and the caller's generator advances."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def randn(self, shape: Sequence[int]) -> npt.NDArray[np.float32]:
        import torch  # the caller has it: the generator came from there

        drawn = torch.randn(tuple(shape), generator=self._generator, device=self._generator.device)
        return np.asarray(drawn.cpu().numpy(), np.float32)


Seed = int | Any  # an integer, a TorchGenerator, a PhiloxGenerator or a torch.Generator


class SeededNoise:
    """Noise for a batch, its rows shared equally among the seeds: one for all, one a prompt, or one a row.

    An integer stands for torch's generator on `device`, "cpu" or "cuda". Arrays are of `xp`, NumPy or CuPy. `gpu` goes
    to `PhiloxGenerator`: its multiprocessors and threads_per_multiprocessor.
    """

    def __init__(self, seeds: Sequence[Seed], device: str = "cpu", xp: Any = np, **gpu: int) -> None:
        self._xp = xp
        self._generators = [_generator(seed, device, xp, gpu) for seed in seeds]

    @property
    def sources(self) -> int:
        """How many seeds there are."""
        return len(self._generators)

    def randn(self, shape: Sequence[int]) -> Any:
        """Standard normals of `shape` (rows first), float32, an array of `xp`.

        Raises InputError when the rows cannot be shared equally.
        """
        rows, rest = divmod(shape[0], len(self._generators))
        if rest:
            raise InputError(f"{len(self._generators)} seeds for {shape[0]} waveforms: give one, or one a waveform")
        parts = [generator.randn((rows, *shape[1:])) for generator in self._generators]
        return self._xp.concatenate([self._xp.asarray(part) for part in parts])


def is_generator(source: Any) -> bool:
    """Whether it can draw noise: a generator of this package, or a `torch.Generator`, which only torch can make."""
    torch = sys.modules.get("torch")
    return isinstance(source, TorchGenerator | PhiloxGenerator) or (
        torch is not None and isinstance(source, torch.Generator)
    )


def _generator(seed: Seed, device: str, xp: Any, gpu: Mapping[str, int]) -> Any:
    if isinstance(seed, TorchGenerator | PhiloxGenerator):
        return seed
    if not isinstance(seed, int | np.integer):
        return _BorrowedGenerator(seed)
    return PhiloxGenerator(int(seed), xp, **gpu) if device.startswith("cuda") else TorchGenerator(int(seed))


def _box_muller(uniforms: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    blocks = uniforms.reshape(-1, 2, _BLOCK // 2)  # (blocks, radius | angle, 8)
    radius = np.sqrt(np.float32(-2) * np.log(1 - blocks[:, 0]))
    angle = _TWO_PI * blocks[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
