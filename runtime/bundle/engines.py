"""The engines of one bundle that are in memory, and the stages of a call that use them."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from runtime.backends.device import Array, Device, HostDevice
from runtime.backends.engine import Engine
from runtime.bundle.bundle import Bundle

Arrays = Mapping[str, Array]
Sizes = Mapping[str, int]  # of an engine's inputs, by axis
Around = Callable[[Callable[[Arrays], Arrays], Arrays], Arrays]  # of an engine's own `run` and the feeds: the outputs


class InterceptedEngine:
    """An engine whose every run goes through a function. It is never captured: a replay would pass the function by."""

    capturable = False

    def __init__(self, engine: Engine, around: Around) -> None:
        self._engine, self._around = engine, around
        self.inputs, self.outputs, self.xp, self.label = engine.inputs, engine.outputs, engine.xp, engine.label

    @property
    def loading_s(self) -> float:
        """As the engine itself says."""
        return self._engine.loading_s

    def run(self, feeds: Arrays) -> Arrays:
        """Run once, through the function."""
        return self._around(self._engine.run, feeds)

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """As the engine itself does."""
        self._engine.prepare(sizes)

    def close(self) -> None:
        """Free all that the engine holds."""
        self._engine.close()


class OpenEngines(Mapping[str, Engine]):
    """The engines of a bundle by name, each loaded at its first use.

    Those that are `freed` are in memory one at a time, each from its use to the end of the stage that used it.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device | None = None,
        *,
        backend: str | None = None,
        freed: Collection[str] = (),
    ) -> None:
        self._bundle, self._device = bundle, device or HostDevice()
        self.backend = backend  # what runs graphs; None: as each engine says
        self._freed = freed
        self._open: dict[str, Engine] = {}
        self._around: dict[str, Around] = {}
        self._preparing: dict[str, Future[None]] = {}
        self._sizes: dict[str, Sizes] = {}  # that each engine was prepared for last
        self._spent_s = 0.0
        self.labels: dict[str, str] = {}  # of each engine that was loaded so far: its library and precision

    def __getitem__(self, name: str) -> Engine:
        if name not in self._open:
            if name in self._freed:
                self.end_stage()
            self._device.wait()  # what is still queued is not to count as loading
            start = time.perf_counter()
            self._keep({name: self._load(name)})
            self._spent_s += time.perf_counter() - start
        self._wait_for(name)
        around = self._around.get(name)
        return self._open[name] if around is None else InterceptedEngine(self._open[name], around)

    def __iter__(self) -> Iterator[str]:
        return iter(self._bundle.manifest.engines)

    def __len__(self) -> int:
        return len(self._bundle.manifest.engines)

    @property
    def loading_s(self) -> float:
        """The time spent so far on loading engines, and on compiling for a shape."""
        return self._spent_s + sum(engine.loading_s for engine in self._open.values())

    def free_bytes(self) -> int | None:
        """Memory that is free where they run, or None if that is not known."""
        return self._device.free_bytes()

    def open(self, *names: str) -> None:
        """Load the named engines now, but for those that are freed: each of these waits for its use."""
        start, new = time.perf_counter(), [name for name in names if name not in {*self._open, *self._freed}]
        if not new:
            return
        if self._device.gpu is None:  # side by side: most of the time goes into hashing and reading
            with ThreadPoolExecutor() as pool:
                self._keep(dict(zip(new, pool.map(self._load, new), strict=True)))
        else:  # a GPU's context and stream are the thread's own
            self._keep({name: self._load(name) for name in new})
        self._spent_s += time.perf_counter() - start

    def prepare(self, sizes: Mapping[str, Sizes]) -> None:
        """Have open engines compile for these sizes in the background, one a core, in this order.

        An engine that is used before it is ready is waited for, which counts as loading.
        """
        new = {name: size for name, size in sizes.items() if name in self._open and self._sizes.get(name) != size}
        if new and self._device.gpu is None:
            pool = ThreadPoolExecutor(self._device.cpu_threads or os.cpu_count())
            wait([self._preparing[name] for name in new if name in self._preparing])
            for name, size in new.items():
                self._preparing[name] = pool.submit(self._open[name].prepare, size)
            self._sizes |= new
            pool.shutdown(wait=False)

    def stages(self) -> "Stages":
        """A new call's stages."""
        return Stages(self, self._device)

    def intercept(self, name: str, around: Around) -> None:
        """From now on have every run of the named engine go through `around(run, feeds)`, which returns the outputs.

        For those who record what an engine is fed, or time it. A second function takes the place of the first.
        """
        self._around[name] = around

    def end_stage(self) -> None:
        """Free what the stage that ends has used, of the engines that are not kept."""
        self._close(name for name in self._freed if name in self._open)

    def close(self) -> None:
        """Free every engine when the device is done with it; a later use loads it again."""
        self._close(self._open)

    def _close(self, names: Iterable[str]) -> None:
        closing = list(names)
        wait([self._preparing.pop(name) for name in closing if name in self._preparing])
        if closing:
            self._device.wait()
        for name in closing:
            self._sizes.pop(name, None)
            engine = self._open.pop(name)
            self._spent_s += engine.loading_s
            engine.close()

    def _wait_for(self, name: str) -> None:
        """Until the engine is prepared, if it is being prepared. Raises EngineError."""
        if (preparing := self._preparing.pop(name, None)) is not None:
            start = time.perf_counter()
            preparing.result()
            self._spent_s += time.perf_counter() - start

    def _load(self, name: str) -> Engine:
        return self._bundle.open(name, self._device, self.backend)

    def _keep(self, loaded: Mapping[str, Engine]) -> None:
        self._open |= loaded
        self.labels |= {name: engine.label for name, engine in loaded.items()}


class Stages:
    """The stages of one call: times each on the device, and frees its engines when it ends.

    Loading and compiling an engine counts as "load", in whichever stage it happens.
    """

    def __init__(self, engines: OpenEngines, device: Device) -> None:
        self._engines, self._device = engines, device
        self._marks: list[tuple[str, Any, Any, float]] = []  # name, start, stop, seconds of loading in it

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Run the block as stage `name`."""
        start, loading_s = self._device.mark(), self._engines.loading_s
        try:
            yield
        finally:
            self._engines.end_stage()
        self._marks.append((name, start, self._device.mark(), self._engines.loading_s - loading_s))

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, when all of them are done."""
        seconds = {"load": 0.0}
        for name, start, stop, loading_s in self._marks:
            seconds["load"] += loading_s
            seconds[name] = seconds.get(name, 0.0) + self._device.seconds_between(start, stop) - loading_s
        return seconds
