"""An engine made of a Python function: for tests, and for trying a pipeline without building one."""

from collections.abc import Callable, Mapping
from types import ModuleType

import numpy as np

from runtime.backends.device import Array
from runtime.backends.specs import TensorSpec, check_feeds


class FakeEngine:
    """Runs `function(**feeds) -> {output: array}` behind the same checks as a real engine; counts its calls."""

    xp: ModuleType = np
    capturable = True
    loading_s = 0.0
    label = "fake"

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        function: Callable[..., Mapping[str, Array]],
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.calls = 0
        self._name, self._function = name, function

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Check the feeds, call the function, check what it gave."""
        check_feeds(self._name, self.inputs, feeds)
        self.calls += 1
        outputs = self._function(**feeds)
        check_feeds(f"{self._name} (outputs)", self.outputs, outputs)
        return outputs

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """A function runs every size."""

    def close(self) -> None:
        """Nothing to free."""
