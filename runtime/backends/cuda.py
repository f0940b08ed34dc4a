"""CuPy: the device, its stream, CUDA graphs, and arrays over memory that others own. The only importer of cupy."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from runtime.backends.device import Array, Gpu, Replay, not_finite
from runtime.errors import EngineError, MissingDependencyError
from runtime.install import install_command


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
        self._device = self._cupy.cuda.Device(index)
        with self._device:
            self._stream = self._cupy.cuda.Stream(non_blocking=True)
            self._graph_pool = self._cupy.cuda.MemoryPool()
        self._watched: list[tuple[str, Array]] = []

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
        self._watched = []  # what a call that failed left behind
        try:
            with self._device, self._stream:
                yield
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            raise EngineError(f"{self.name} is out of memory ({error}): shorter audio, or fewer waveforms") from error

    def watch(self, stage: str, array: Array) -> Array:
        """Queue the check and return `array` at once."""
        if array.dtype.kind == "f":
            self._watched.append((stage, self.xp.isfinite(array).all()))
        return array

    def verify(self) -> None:
        """Wait for every check. Raises NumericsError with the first stage that was not finite."""
        watched, self._watched = self._watched, []
        if not watched:
            return
        finite = self.to_host(self.xp.stack([flag for _, flag in watched]))
        if not finite.all():
            raise not_finite(watched[int(np.argmin(finite))][0])

    def to_host(self, array: Array) -> Any:
        """Copy through pinned memory and wait for it, and so for all that was queued before."""
        if isinstance(array, np.ndarray):
            return array
        pinned = self._cupy.cuda.alloc_pinned_memory(max(array.nbytes, 1))
        host = np.frombuffer(pinned, array.dtype, array.size).reshape(array.shape)
        array.get(out=host)
        return host.copy()  # pinned memory goes back to its pool

    def capture(self, work: Callable[[], None]) -> Replay:
        """Capture `work` in a CUDA graph. It runs once before, so that libraries have loaded what they need.

        What it allocates comes from a pool that serves graphs alone: memory that is free again after a capture goes to
        the next one, and to nobody else. Graphs run one after the other, so they can share it; what outlives a replay
        is referred to and thus not free. What `work` watches is watched again at each replay.
        """
        before, self._watched = self._watched, []
        with self._cupy.cuda.using_allocator(self._graph_pool.malloc):
            try:
                work()
                self._watched.clear()
                self._stream.begin_capture()
                try:
                    work()
                finally:
                    graph = self._stream.end_capture()
            finally:
                watched, self._watched = self._watched, before

        def replay(work: object = work) -> None:  # noqa: ARG001  the arrays that it refers to stay where they are
            graph.launch(self._stream)
            self._watched += watched

        return replay

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

    def allocate(self, size_bytes: int) -> Any:
        """Scratch memory with an attribute `ptr`, given back when the object dies."""
        return self._cupy.cuda.alloc(size_bytes)
