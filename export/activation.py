"""How much memory a module's activations take, by latent height, measured without computing anything."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from export.components.component import Component, Sizes

LOW, HIGH = 64, 8192  # latent heights: one where convolutions take the most memory, one where attention does
# Against what ONNX Runtime took at base size (heights 256 and 750): its arena holds up to twice what lives at once, but
# its softmax works in place, which saves one of the two attention matrices counted here.
ARENA = 2.0


def activation_bytes(component: Component) -> tuple[float, ...]:
    """Coefficients c0, c1, c2 of the peak bytes of one row, c0 + c1 h + c2 h^2, for the latent height h.

    Empty if memory does not grow with h: what text engines and the scoring tower take is small beside the others'.

    The module is moved to the meta device, where shapes are computed but no numbers: it is of no use afterwards.
    """
    if component.grows_with is None:
        return ()
    axis, factor = component.grows_with
    linear = _peak(component, {axis: LOW * factor}) / LOW
    square = max(_peak(component, {axis: HIGH * factor}) - linear * HIGH, 0.0) / HIGH**2
    return (0.0, ARENA * linear, square)


def _peak(component: Component, sizes: Sizes) -> int:
    module = component.module.to("meta")
    inputs = component.draw({**component.sizes[0], "batch": 1, **sizes}, torch.Generator())
    with torch.no_grad(), _PeakMemory(module) as memory:
        module(*(inputs[key].to("meta") for key in component.inputs))
    return memory.peak


class _PeakMemory(TorchDispatchMode):
    """Counts the bytes of live tensors that were made inside it; a view of a weight is not."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.live = self.peak = 0
        weights = (*module.parameters(), *module.buffers())
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet(weight.untyped_storage() for weight in weights)

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
