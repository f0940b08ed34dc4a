"""Arrays behind each other, also while a CUDA graph records."""

from collections.abc import Sequence

import numpy as np

from runtime.backends.device import Array


def joined(parts: Sequence[Array], axis: int = 0) -> Array:
    """What `concatenate` gives. CuPy's own copies a table from the host for more than eight arrays, which no graph can.

    Arrays of one dtype, at least one, that differ along `axis` alone.
    """
    first, lengths = parts[0], [part.shape[axis] for part in parts]
    shape = tuple(sum(lengths) if i == axis else size for i, size in enumerate(first.shape))
    whole, done, before = np.empty_like(first, shape=shape), 0, (slice(None),) * axis
    for part, length in zip(parts, lengths, strict=True):
        whole[(*before, slice(done, done + length))] = part
        done += length
    return whole
