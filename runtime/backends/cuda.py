"""CuPy: the device, its stream, CUDA graphs, and arrays over memory that others own. The only importer of cupy."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import numpy as np

from runtime.backends.device import Array, Gpu, Replay, not_finite
from runtime.checks import reason
from runtime.errors import CaptureError, EngineError, MissingDependencyError
from runtime.install import install_command

MOST_WATCHED = 64  # stages of one graph; what is beyond counts as the last of them
SAME = 1e-2  # relative difference between a graph's first replay and the plain run: FP16 differs by less


def import_cupy() -> Any:
    """The module. Raises MissingDependencyError if it is not installed, EngineError if there is no GPU."""
    try:
        import cupy
    except ImportError as error:
        raise MissingDependencyError(
            f"cupy is not installed: {install_command('tensorrt')} (or tensorrt-rtx, or cuda)"
        ) from error
    if not cupy.cuda.is_available():
        raise EngineError("no usable NVIDIA GPU: CUDA finds no device or no driver here")
    return cupy


class Scope:
    """What one CUDA graph owns, and what lives as long as it: memory, contexts of engines, flags of what it watched."""

    def __init__(self, pool: Any, flags: Array) -> None:
        self.pool, self.flags = pool, flags
        self.kept: dict[object, Any] = {}  # of engines: what no other work may touch
        self.stages: list[str] = []  # one a flag
        self.capturing = False

    def note(self, stage: str, finite: Array) -> None:
        """A flag that was once false stays so, however often the graph is replayed before somebody looks."""
        place = min(len(self.stages), MOST_WATCHED - 1)
        self.flags[place] = self.flags[place] & finite
        self.stages[place:] = [stage]


class CudaDevice:
    """One GPU and one non-blocking stream on it. NaN and Inf are looked for on the device and reported by `verify`."""

    def __init__(self, index: int = 0, cupy: Any = None) -> None:
        self._cupy = cupy or import_cupy()
        count = self._cupy.cuda.runtime.getDeviceCount()
        if index >= count:
            raise EngineError(f"there is no cuda:{index}: {count} GPUs are here")
        self.name, self.index = f"cuda:{index}", index
        self.xp: ModuleType = self._cupy
        self.precision = "auto"
        self.cpu_threads: int | None = None
        self.relief: list[Callable[[], None]] = []  # what gives memory back when it runs out
        self.scope: Scope | None = None  # of the graph that is made now
        self._device = self._cupy.cuda.Device(index)
        with self._device:
            self._stream = self._cupy.cuda.Stream(non_blocking=True)
        self._scratch: Any = None
        self._scratch_bytes = 0
        self._watched: list[tuple[Sequence[str], Array, Scope | None]] = []  # stages, a flag of each, whose they are

    @property
    def gpu(self) -> Gpu | None:
        """The device itself."""
        return self

    @property
    def compute_capability(self) -> str:
        """Such as "9.0"."""
        digits = str(self._device.compute_capability)
        return f"{digits[:-1]}.{digits[-1]}"

    @property
    def stream_pointer(self) -> int:
        """The stream's handle, for libraries that queue work on it."""
        return int(self._stream.ptr)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Work is queued on this device's stream. Raises EngineError where memory runs out."""
        before, self._watched = self._watched, []
        try:
            with self._device, self._stream, self._cupy.cuda.using_allocator(self._malloc):
                try:
                    yield
                finally:
                    self._look_again(self._watched)  # a call that failed left some
                    self._watched = before
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            raise EngineError(f"{self.name} is out of memory ({error}): shorter audio, or fewer waveforms") from error

    def watch(self, stage: str, array: Array) -> Array:
        """Queue the check and return `array` at once."""
        if array.dtype.kind == "f":
            self.watch_flag(stage, self.xp.isfinite(array).all())
        return array

    def watch_flag(self, stage: str, finite: Array) -> None:
        """The same for who knows already whether all is finite: an array of one bool."""
        if self.scope is None:
            self._watched.append(((stage,), finite.reshape(1), None))
        else:
            self.scope.note(stage, finite)

    def verify(self) -> None:
        """Wait for every check. Raises NumericsError with the first stage that was not finite."""
        watched, self._watched = self._watched, []
        if not watched:
            return
        finite = self.to_host(self.xp.concatenate([flags[: len(stages)] for stages, flags, _ in watched]))
        self._look_again(watched)
        if not finite.all():
            raise not_finite([stage for stages, *_ in watched for stage in stages][int(np.argmin(finite))])

    def to_host(self, array: Array) -> Any:
        """Copy through pinned memory and wait for it, and so for all that was queued before."""
        if isinstance(array, np.ndarray):
            return array
        pinned = self._cupy.cuda.alloc_pinned_memory(max(array.nbytes, 1))
        host = np.frombuffer(pinned, array.dtype, array.size).reshape(array.shape)
        array.get(out=host)
        return host.copy()  # pinned memory goes back to its pool

    def capture(
        self, work: Callable[[], Sequence[Array]], restore: Callable[[], None] = lambda: None
    ) -> tuple[Replay, Sequence[Array]]:
        """Capture `work` in a CUDA graph, and what it returns: the arrays that every replay writes.

        It runs once before, so that libraries load what they need for its shapes, and once as a graph, whose result has
        to be the same: a graph that was captured on another device is empty, and no error says so. `restore` brings
        back what a run changes in its inputs. All memory and all contexts of engines are the graph's own. What `work`
        watches is watched again at each replay. Raises CaptureError where something cannot be captured.
        """
        scope = Scope(self._cupy.cuda.MemoryPool(), self.xp.ones(MOST_WATCHED, bool))
        restore()
        with self._within(scope):
            made = work()
        expected = [array.copy() for array in made]
        del made  # its memory is the graph's
        self.wait()
        scope.stages.clear()
        scope.capturing = True
        with self._within(scope):
            graph, outputs = self._captured(work)
        scope.capturing = False
        stages = tuple(scope.stages)

        def replay(work: object = work) -> None:  # noqa: ARG001  the arrays that it refers to stay where they are
            graph.launch(self._stream)
            if stages and not any(owner is scope for *_, owner in self._watched):
                self._watched.append((stages, scope.flags, scope))

        self._check_replay(replay, restore, expected, outputs)
        return replay, outputs

    def mark(self) -> Any:
        """An event in the stream."""
        event = self._cupy.cuda.Event()
        event.record(self._stream)
        return event

    def wait(self, mark: Any = None) -> None:
        """Wait for an event, or for all that is queued."""
        (self._stream if mark is None else mark).synchronize()

    def seconds_between(self, start: Any, stop: Any) -> float:
        """Time on the device between two events."""
        stop.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(start, stop)) / 1000

    def free_bytes(self) -> int | None:
        """Free memory of the GPU, and what CuPy's pool holds unused."""
        with self._device:
            free, _ = self._cupy.cuda.runtime.memGetInfo()
            return int(free) + int(self._cupy.get_default_memory_pool().free_bytes())

    def threads(self) -> dict[str, int]:
        """Multiprocessors, and the threads that one holds."""
        attributes = self._device.attributes
        return {
            "multiprocessors": int(attributes["MultiProcessorCount"]),
            "threads_per_multiprocessor": int(attributes["MaxThreadsPerMultiProcessor"]),
        }

    def array_over(self, pointer: int, shape: tuple[int, ...], dtype: str, owner: object) -> Array:
        """An array over memory that `owner` keeps alive."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape)) * kind.itemsize
        memory = self._cupy.cuda.UnownedMemory(pointer, size, owner, self._device.id)
        return self.xp.ndarray(shape, kind, self._cupy.cuda.MemoryPointer(memory, 0))

    def scratch(self, size_bytes: int) -> Any:
        """Memory with an attribute `ptr` that whoever runs next may overwrite. Its holder keeps it alive.

        All work on the stream shares it, graphs included. One that holds an older, smaller piece goes on with that.
        """
        if self._scratch is None or self._scratch_bytes < size_bytes:
            if self.scope is not None and self.scope.capturing:
                raise CaptureError("an engine asks for memory that it did not ask for before")
            self._scratch = None  # before the larger one is asked for
            self._scratch, self._scratch_bytes = self._malloc(size_bytes, graph=False), size_bytes
        return self._scratch

    def _malloc(self, size_bytes: int, *, graph: bool = True) -> Any:
        """Memory of the graph that is made now, else of CuPy's pool. Where there is none, what can be freed is."""
        scope = self.scope if graph else None
        pool = self._cupy.get_default_memory_pool() if scope is None else scope.pool
        try:
            return pool.malloc(size_bytes)
        except self._cupy.cuda.memory.OutOfMemoryError:
            if scope is not None and scope.capturing:
                raise
            self.wait()
            self._scratch = None
            for relieve in self.relief:
                relieve()
            self._cupy.get_default_memory_pool().free_all_blocks()
            return pool.malloc(size_bytes)

    def _captured(self, work: Callable[[], Sequence[Array]]) -> tuple[Any, Sequence[Array]]:
        """The graph of `work` and what it returned. Raises CaptureError with the first thing that went wrong."""
        try:
            self._stream.begin_capture()
            outputs = work()
        except BaseException as error:
            with suppress(Exception):  # the capture is broken: what it says of that is no news
                self._stream.end_capture()
            if isinstance(error, Exception):
                raise CaptureError(f"it cannot be captured: {reason(error)}") from error
            raise
        try:
            return self._stream.end_capture(), outputs
        except Exception as error:  # CuPy raises the driver's own
            raise CaptureError(f"it cannot be captured: {reason(error)}") from error

    def _check_replay(
        self, replay: Replay, restore: Callable[[], None], expected: Sequence[Array], outputs: Sequence[Array]
    ) -> None:
        """Raises CaptureError unless a replay writes to `outputs` what a plain run gave."""
        for array in outputs:
            array.fill(np.nan if array.dtype.kind == "f" else 0)
        restore()
        replay()
        for one, other in zip(expected, outputs, strict=True):
            power = self.to_host((one * one).sum())
            apart = self.to_host(((other - one) * (other - one)).sum())
            if np.isfinite(power) and not apart <= SAME**2 * power:
                raise CaptureError("what was captured gives another result when it is replayed")

    @contextmanager
    def _within(self, scope: Scope) -> Iterator[None]:
        """What is allocated, and what engines keep, belongs to a graph."""
        self.scope = scope
        try:
            yield
        finally:
            self.scope = None

    def _look_again(self, watched: Sequence[tuple[Sequence[str], Array, Scope | None]]) -> None:
        """The flags of graphs are true again: they were read, or nobody will."""
        for *_, scope in watched:
            if scope is not None:
                scope.flags.fill(True)
