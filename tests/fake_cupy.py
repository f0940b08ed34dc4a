"""cupy where there is no GPU: arrays that refuse to become NumPy arrays, streams that capture, pools that reclaim.

It is as strict as a GPU, or stricter. An implicit copy to the host is a TypeError as in CuPy. Fresh memory is NaN, and
freed memory is given out again, whole or in pieces, so that a graph which points to memory that is not its own spoils
somebody's. Where memory runs out a pool gives back to the device what nobody holds, as CuPy's does; what is written
there afterwards is lost. A capture fails on a wait, on a copy from the host, on memory of the common pool and on
`concatenate` of more than eight arrays, which uploads a table; once broken it stays so until it is ended. Work and
memory belong to the device that was current. g++ compiles kernels.
"""

import ctypes
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.host_cuda import Host


class OutOfMemoryError(Exception):
    """As cupy.cuda.memory.OutOfMemoryError."""


class Block:
    """A piece of device memory; it goes back to its pool when nothing refers to it any more."""

    def __init__(self, chunk: "Chunk", start: int, size: int) -> None:
        self.bytes = chunk.bytes[start : start + size]
        weakref.finalize(self, chunk.give_back, start, size)

    @property
    def ptr(self) -> int:
        return int(self.bytes.ctypes.data)

    def array(self, shape: tuple[int, ...], dtype: Any) -> Any:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.bytes[:count].view(dtype).reshape(shape)


class Chunk:
    """What a pool got from the device in one piece, and which ranges of it are free."""

    def __init__(self, size: int) -> None:
        memory = np.empty(size + 512, np.uint8)
        heap.append(memory)
        first = -memory.ctypes.data % 512
        self.bytes, self.free = memory[first : first + size], [(0, size)]

    def give_back(self, start: int, size: int) -> None:
        merged: list[tuple[int, int]] = []
        for first, length in sorted([*self.free, (start, size)]):
            if merged and sum(merged[-1]) == first:
                merged[-1] = merged[-1][0], merged[-1][1] + length
            else:
                merged.append((first, length))
        self.free = merged

    @property
    def unused(self) -> bool:
        return self.free == [(0, len(self.bytes))]


heap: list[Any] = []  # never unmapped: a stale address reads NaN and does not crash


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on the device: no operation mixes it with a NumPy array."""

    def __init__(self, cupy: "FakeCupy", host: Any, block: Block) -> None:
        self.cupy, self.host, self.block = cupy, host, block

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    flags = property(lambda self: self.host.flags)
    ctypes = property(lambda self: self.host.ctypes)
    data = property(lambda self: SimpleNamespace(ptr=self.host.ctypes.data))

    def __len__(self) -> int:
        return len(self.host)

    def __getitem__(self, key: Any) -> "DeviceArray":
        keys = key if isinstance(key, tuple) else (key,)
        view = self.host[keys if Ellipsis in keys else (*keys, ...)]  # of one element too
        return DeviceArray(self.cupy, view, self.block)

    def __setitem__(self, key: Any, value: Any) -> None:
        plain, host = unwrap(value), self.host
        self.cupy.kernels.submit(lambda: host.__setitem__(key, plain))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in ("astype", "copy", "reshape", "all", "sum", "fill", "clip", "transpose", "view"):
            raise AttributeError(f"cupy arrays have no '{name}' in this project's tests")

        def method(*args: Any, **kwargs: Any) -> Any:
            plain, host = [unwrap(arg) for arg in args], self.host
            return self.cupy.operation(lambda: getattr(host, name)(*plain, **kwargs), self.block)

        return method

    def get(self, out: Any = None) -> Any:
        self.cupy.wait()
        if out is None:
            return self.host.copy()
        out[...] = self.host
        return out

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed: use get()")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        plain = [unwrap(value) for value in inputs]
        return self.cupy.operation(lambda: getattr(ufunc, method)(*plain, **kwargs))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        plain, named = unwrap(args), unwrap(kwargs)
        if self.cupy.capturing and function in (np.concatenate, np.stack) and len(args[0]) > 8:
            raise self.cupy.broken("a table of pointers is uploaded while the stream is capturing")
        return self.cupy.operation(lambda: function(*plain, **named))

    def __bool__(self) -> bool:
        self.cupy.wait()
        return bool(self.host)


def unwrap(value: Any) -> Any:
    """Host arrays for the fake's own use. TypeError for what CuPy would not take: a NumPy array of any size."""
    if isinstance(value, DeviceArray):
        return value.host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: a host array in a device operation")
    if isinstance(value, list | tuple):
        return type(value)(map(unwrap, value))
    if isinstance(value, dict):
        return {key: unwrap(item) for key, item in value.items()}
    return value


class Memory:
    """The device's own, of which pools get chunks. `capacity` bytes; None: without end."""

    def __init__(self) -> None:
        self.capacity: int | None = None
        self.used = 0

    def take(self, size: int) -> Chunk:
        if self.capacity is not None and self.used + size > self.capacity:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")
        self.used += size
        return Chunk(size)

    def give_back(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            chunk.bytes.fill(0xFF)
            self.used -= len(chunk.bytes)


class Pool:
    """Memory that is given out again, from the smallest piece that fits; its chunks go back when the pool dies."""

    def __init__(self, cupy: "FakeCupy") -> None:
        self.cupy, self.chunks = cupy, list[Chunk]()
        self.limit = 0  # bytes; 0: none
        cupy.pools.add(self)
        weakref.finalize(self, cupy.memory.give_back, self.chunks)

    def malloc(self, size_bytes: int) -> Block:
        if self.cupy.capturing and self is self.cupy.common_pool:
            raise self.cupy.broken("memory of the common pool while the stream is capturing: others will get it")
        wanted = -(-max(size_bytes, 1) // 512) * 512
        fitting = [(size, i, start) for i, c in enumerate(self.chunks) for start, size in c.free if size >= wanted]
        if not fitting:
            try:
                self.chunks.append(self._take(wanted))
            except OutOfMemoryError:
                self.free_all_blocks()
                self.chunks.append(self._take(wanted))
            fitting = [(wanted, len(self.chunks) - 1, 0)]
        size, i, start = min(fitting)
        chunk = self.chunks[i]
        chunk.free.remove((start, size))
        if size > wanted:
            chunk.free.append((start + wanted, size - wanted))
        chunk.bytes[start : start + wanted].fill(0xFF)  # NaN in every float type
        return Block(chunk, start, wanted)

    def free_all_blocks(self) -> None:
        unused = [chunk for chunk in self.chunks if chunk.unused]
        self.chunks[:] = [chunk for chunk in self.chunks if chunk not in unused]
        self.cupy.memory.give_back(unused)

    def set_limit(self, size: int) -> None:
        self.limit = size

    def get_limit(self) -> int:
        return self.limit

    def total_bytes(self) -> int:
        return sum(len(chunk.bytes) for chunk in self.chunks)

    def _take(self, size: int) -> Chunk:
        if self.limit and self.total_bytes() + size > self.limit:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (limit set to {self.limit:,} bytes)")
        return self.cupy.memory.take(size)

    def free_bytes(self) -> int:
        return sum(size for chunk in self.chunks for _, size in chunk.free)


class Event:
    def record(self, stream: "Stream") -> None:
        self.seconds = time.perf_counter()
        self.done = False

    def synchronize(self) -> None:
        self.done = True


def elapsed_ms(start: Event, stop: Event) -> float:
    if not stop.done:
        raise RuntimeError("cudaErrorNotReady: device not ready")
    return 1000 * (stop.seconds - start.seconds)


class Stream:
    def __init__(self, cupy: "FakeCupy") -> None:
        self.cupy, self.device = cupy, cupy.devices[-1]
        self.ptr = 77 + self.device

    def __enter__(self) -> "Stream":
        assert self.device == self.cupy.devices[-1], "a stream of another device"
        self.cupy.streams.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.cupy.streams.pop()

    def synchronize(self) -> None:
        self.cupy.wait()

    def begin_capture(self) -> None:
        if self.cupy.refuses:
            raise RuntimeError(self.cupy.refuses)
        self.manager = self.cupy.kernels.capture()
        self.cupy.graph = self.graph = self.manager.__enter__()
        self.cupy.capturing = True

    def end_capture(self) -> Any:
        self.manager.__exit__(None, None, None)
        self.cupy.capturing, broken = False, self.cupy.invalid
        self.cupy.graph, self.cupy.invalid = None, False
        if broken:
            raise RuntimeError("cudaErrorStreamCaptureInvalidated: operation failed due to a previous error")
        graph = self.graph
        if self.cupy.loses_work:
            graph.launches.clear()

        def launch(stream: "Stream") -> None:
            assert stream.device == self.device, "launched on another device"
            self.cupy.launches += 1
            graph.launch()

        return SimpleNamespace(launch=launch, launches=graph.launches)


class FakeCupy:
    """The module: what this project uses of it, and counters of what costs time. `waits` are times the host waited."""

    def __init__(self, capability: str = "90", gpus: int = 1) -> None:
        self.kernels = Host()
        self.waits = 0
        self.launches = 0  # of graphs
        self.queued = 0  # operations and kernels outside of captures
        self.capturing = False
        self.invalid = False  # the capture that is going on
        self.refuses = ""  # why nothing can be captured
        self.loses_work = False  # a capture records nothing, as one on the wrong device
        self.graph: Any = None  # that is captured now
        self.memory, self.pools = Memory(), weakref.WeakSet[Pool]()
        self.streams: list[Stream] = []
        self.devices = [0]  # the current one is the last
        self.common_pool = Pool(self)
        self._allocators: list[Callable[[int], Block]] = [self.common_pool.malloc]
        attributes = {"MultiProcessorCount": 132, "MaxThreadsPerMultiProcessor": 2048}
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            runtime=SimpleNamespace(getDeviceCount=lambda: gpus, memGetInfo=lambda: (2**36, 2**36)),
            Device=lambda index: _Entered(
                self, SimpleNamespace(id=index, compute_capability=capability, attributes=attributes)
            ),
            Stream=lambda non_blocking: Stream(self),
            Event=Event,
            get_elapsed_time=elapsed_ms,
            MemoryPool=lambda: Pool(self),
            using_allocator=self._using,
            alloc=self._alloc,
            alloc_pinned_memory=bytearray,
            UnownedMemory=lambda pointer, size, owner, device: SimpleNamespace(ptr=pointer, size=size, owner=owner),
            MemoryPointer=lambda memory, offset: memory,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        )

    def get_default_memory_pool(self) -> Pool:
        return self.common_pool

    def holds(self, pointer: int, size: int) -> bool:
        """Whether somebody still refers to this memory."""
        for chunk in (chunk for pool in self.pools for chunk in pool.chunks):
            start = pointer - chunk.bytes.ctypes.data
            if 0 <= start < len(chunk.bytes):
                return not any(first < start + size and start < first + length for first, length in chunk.free)
        return False

    def broken(self, reason: str) -> RuntimeError:
        """The error of what no capture can hold. From now on the capture is broken."""
        self.invalid = self.capturing
        return RuntimeError(reason)

    def operation(self, compute: Callable[[], Any], block: Block | None = None) -> Any:
        """The result of `compute`, which a replay computes again into the same memory."""
        result = compute()
        self.queued += not self.capturing
        if isinstance(result, list | tuple):
            return [self.operation(lambda i=i: compute()[i]) for i in range(len(result))]
        if result is None:
            return None
        result = np.asarray(result)
        if isinstance(block, Block) and np.may_share_memory(result, block.bytes):
            return DeviceArray(self, result, block)  # a view
        made = self.empty(result.shape, result.dtype)
        host = made.host  # a graph keeps addresses, not arrays
        self.kernels.submit(lambda: host.__setitem__(..., compute()))
        return made

    def wait(self) -> None:
        """The host waits for the device."""
        if self.capturing:
            raise self.broken("operation not permitted when stream is capturing")
        self.waits += 1

    def ndarray(self, shape: tuple[int, ...], dtype: Any, memory: Any) -> DeviceArray:
        raw = (ctypes.c_uint8 * memory.size).from_address(memory.ptr)
        return DeviceArray(self, np.frombuffer(raw, dtype).reshape(shape), memory)

    def asarray(self, value: Any, dtype: Any = None, order: str | None = None) -> DeviceArray:
        if isinstance(value, DeviceArray):
            return value if dtype in (None, value.dtype) else value.astype(dtype)
        if self.capturing:
            raise self.broken("a copy from pageable memory while the stream is capturing")
        return self._filled(np.asarray(value, dtype))

    def empty(self, shape: Any, dtype: Any = np.float32) -> DeviceArray:
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        block = self._alloc(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        return DeviceArray(self, block.array(shape, dtype), block)

    def zeros(self, shape: Any, dtype: Any = np.float32) -> DeviceArray:
        return self._filled(np.zeros(shape, dtype))

    def ones(self, shape: Any, dtype: Any = np.float32) -> DeviceArray:
        return self._filled(np.ones(shape, dtype))

    def arange(self, *args: Any, **kwargs: Any) -> DeviceArray:
        return self._filled(np.arange(*args, **kwargs))

    def RawKernel(self, code: str, name: str, options: Any = ()) -> Any:  # noqa: N802  as in CuPy
        kernel = self.kernels.RawKernel(code, name, options)

        def launch(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
            self.queued += not self.capturing
            kernel(grid, block, tuple(map(unwrap, args)))

        return launch

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if not callable(function) or isinstance(function, type):
            return function
        return lambda *args, **kwargs: self.operation(partial(function, *unwrap(args), **unwrap(kwargs)))

    def _filled(self, values: Any) -> DeviceArray:
        made = self.empty(values.shape, values.dtype)
        host = made.host
        self.kernels.submit(lambda: host.__setitem__(..., values))
        return made

    def _alloc(self, size_bytes: int) -> Block:
        return self._allocators[-1](size_bytes)

    @contextmanager
    def _using(self, allocator: Callable[[int], Block]) -> Iterator[None]:
        self._allocators.append(allocator)
        try:
            yield
        finally:
            self._allocators.pop()


class _Entered:
    """A device as a context manager."""

    def __init__(self, cupy: FakeCupy, device: Any) -> None:
        self._cupy, self._device = cupy, device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def __enter__(self) -> "_Entered":
        self._cupy.devices.append(self._device.id)
        return self

    def __exit__(self, *_: object) -> None:
        self._cupy.devices.pop()
