"""How much memory a module's activations take, by latent height, measured without computing anything."""

import weakref
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from export.components import Component

HEIGHTS = (64, 128, 256)


def activation_bytes(component: Component) -> tuple[float, ...]:
    """Coefficients c0, c1, c2 of the peak bytes of one row, c0 + c1 h + c2 h^2; empty if memory does not grow with h.

    The module is moved to the meta device, where shapes are computed but no numbers: it is of no use afterwards.
    """
    if component.grows_with is None:
        return ()
    axis, factor = component.grows_with
    module = component.module.to("meta")
    peaks = []
    for height in HEIGHTS:
        sizes = {**component.sizes[0], "batch": 1, axis: height * factor}
        inputs = component.draw(sizes, torch.Generator().manual_seed(0))
        with torch.no_grad(), _PeakMemory() as memory:
            module(*(inputs[key].to("meta") for key in component.inputs))
        peaks.append(memory.peak)
    highest_first = np.polyfit(HEIGHTS, peaks, deg=2)
    return tuple(max(float(c), 0.0) for c in highest_first[::-1])


class _PeakMemory(TorchDispatchMode):
    """Counts the bytes of live tensors that were made inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, torch.Tensor):
                storage = output.untyped_storage()
                if storage not in self._seen:
                    self._seen.add(storage)
                    self._count(storage.nbytes())
                    weakref.finalize(storage, self._count, -storage.nbytes())
        return outputs

    def _count(self, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)
