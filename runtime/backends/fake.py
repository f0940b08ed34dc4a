"""An engine made of a Python function: for tests, and for trying a pipeline without building one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from runtime.device import Array
from runtime.engine import TensorSpec, check_feeds
from runtime.errors import EngineError


def load(path: Path, *_: object) -> "FakeEngine":
    """A fake has no file: this raises EngineError. Construct FakeEngine instead."""
    raise EngineError(f"{path.name}: the fake backend has no files; construct runtime.backends.fake.FakeEngine")


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

    def close(self) -> None:
        """Nothing to free."""
