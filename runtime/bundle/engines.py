"""The engines of one bundle that are in memory."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from runtime.backends.device import Device, HostDevice
from runtime.backends.engine import Engine
from runtime.bundle.bundle import Bundle


class OpenEngines(Mapping[str, Engine]):
    """The engines of a bundle by name, each loaded at its first use.

    With `one_at_a_time` an engine is freed before the next is loaded, and at the end of the stage that used it.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device | None = None,
        *,
        backend: str | None = None,
        one_at_a_time: bool = False,
    ) -> None:
        self._bundle, self._device, self._backend = bundle, device or HostDevice(), backend
        self._one_at_a_time = one_at_a_time
        self._open: dict[str, Engine] = {}
        self._spent_s = 0.0

    def __getitem__(self, name: str) -> Engine:
        if name not in self._open:
            if self._one_at_a_time:
                self.close()
            start = time.perf_counter()
            self._open[name] = self._load(name)
            self._spent_s += time.perf_counter() - start
        return self._open[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._bundle.manifest.engines)

    def __len__(self) -> int:
        return len(self._bundle.manifest.engines)

    @property
    def loading_s(self) -> float:
        """The time spent so far on loading engines, and on compiling for a shape."""
        return self._spent_s + sum(engine.loading_s for engine in self._open.values())

    def open(self, *names: str) -> None:
        """Load the named engines now, unless they are loaded one at a time: then each waits for its use."""
        start, new = time.perf_counter(), [name for name in names if name not in self._open]
        if self._one_at_a_time or not new:
            return
        if self._device.name == "cpu":  # side by side: most of the time goes into hashing and reading
            with ThreadPoolExecutor() as pool:
                self._open |= zip(new, pool.map(self._load, new), strict=True)
        else:  # a GPU's context and stream are the thread's own
            self._open |= {name: self._load(name) for name in new}
        self._spent_s += time.perf_counter() - start

    def _load(self, name: str) -> Engine:
        return self._bundle.open(name, self._device, self._backend)

    def end_stage(self) -> None:
        """Free what the stage that ends has used, if engines are loaded one at a time."""
        if self._one_at_a_time:
            self.close()

    def close(self) -> None:
        """Free every engine; a later use loads it again."""
        while self._open:
            engine = self._open.popitem()[1]
            self._spent_s += engine.loading_s
            engine.close()
