"""cupy where there is no GPU: arrays that refuse to become NumPy arrays, streams that capture, pools that reclaim.

It is as strict as a GPU: an implicit copy to the host is a TypeError as in CuPy, fresh memory is NaN, freed memory is
given out again (so that a graph which points to memory that is not its own spoils somebody's), a wait inside a capture
fails. g++ compiles kernels.
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

    def __init__(self, memory: Any, free: list[Any]) -> None:
        self.bytes, self.offset = memory, -memory.ctypes.data % 512
        weakref.finalize(self, free.append, memory)

    @property
    def ptr(self) -> int:
        return int(self.bytes.ctypes.data) + self.offset

    def array(self, shape: tuple[int, ...], dtype: Any) -> Any:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.bytes[self.offset : self.offset + count].view(dtype).reshape(shape)


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
        return DeviceArray(self.cupy, np.asarray(self.host[key]), self.block)

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


class Pool:
    """Memory that is given out again, the smallest that fits first; overwritten when the pool dies."""

    def __init__(self) -> None:
        self.free: list[Any] = []
        self.all: list[Any] = []
        weakref.finalize(self, _overwrite, self.all)

    def malloc(self, size_bytes: int) -> Block:
        wanted = max(size_bytes, 1) + 512
        fitting = [i for i, memory in enumerate(self.free) if memory.size >= wanted]
        if fitting:
            memory = self.free.pop(min(fitting, key=lambda i: self.free[i].size))
        else:
            memory = np.empty(wanted, np.uint8)
            self.all.append(memory)
            heap.append(memory)
        memory.fill(0xFF)  # NaN in every float type
        return Block(memory, self.free)

    def free_bytes(self) -> int:
        return 0


def _overwrite(memories: list[Any]) -> None:
    for memory in memories:
        memory.fill(0xFF)


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
    ptr = 77

    def __init__(self, cupy: "FakeCupy") -> None:
        self.cupy = cupy

    def __enter__(self) -> "Stream":
        self.cupy.streams.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.cupy.streams.pop()

    def synchronize(self) -> None:
        self.cupy.wait()

    def begin_capture(self) -> None:
        self.manager = self.cupy.kernels.capture()
        self.graph = self.manager.__enter__()
        self.cupy.capturing = True

    def end_capture(self) -> Any:
        self.manager.__exit__(None, None, None)
        self.cupy.capturing = False
        graph = self.graph
        return SimpleNamespace(launch=lambda stream: graph.launch(), launches=graph.launches)


class FakeCupy:
    """The module: what this project uses of it, and counters of what costs time. `waits` are times the host waited."""

    def __init__(self, capability: str = "90") -> None:
        self.kernels = Host()
        self.waits = 0
        self.capturing = False
        self.memory_left: int | None = None
        self.streams: list[Stream] = []
        self._pool = Pool()
        self._allocators: list[Callable[[int], Block]] = [self._pool.malloc]
        attributes = {"MultiProcessorCount": 132, "MaxThreadsPerMultiProcessor": 2048}
        device = SimpleNamespace(
            id=0,
            compute_capability=capability,
            attributes=attributes,
        )
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            runtime=SimpleNamespace(getDeviceCount=lambda: 1, memGetInfo=lambda: (2**36, 2**36)),
            Device=lambda index: _Entered(device),
            Stream=lambda non_blocking: Stream(self),
            Event=Event,
            get_elapsed_time=elapsed_ms,
            MemoryPool=Pool,
            using_allocator=self._using,
            alloc=self._alloc,
            alloc_pinned_memory=bytearray,
            UnownedMemory=lambda pointer, size, owner, device: SimpleNamespace(ptr=pointer, size=size, owner=owner),
            MemoryPointer=lambda memory, offset: memory,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        )

    def get_default_memory_pool(self) -> Pool:
        return self._pool

    def operation(self, compute: Callable[[], Any], block: Block | None = None) -> Any:
        """The result of `compute`, which a replay computes again into the same memory."""
        result = compute()
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
            raise RuntimeError("operation not permitted when stream is capturing")
        self.waits += 1

    def ndarray(self, shape: tuple[int, ...], dtype: Any, memory: Any) -> DeviceArray:
        raw = (ctypes.c_uint8 * memory.size).from_address(memory.ptr)
        return DeviceArray(self, np.frombuffer(raw, dtype).reshape(shape), memory)

    def asarray(self, value: Any, dtype: Any = None, order: str | None = None) -> DeviceArray:
        if isinstance(value, DeviceArray):
            return value if dtype in (None, value.dtype) else value.astype(dtype)
        if self.capturing:
            raise RuntimeError("a copy from pageable memory while the stream is capturing")
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
        return lambda grid, block, args: kernel(grid, block, tuple(map(unwrap, args)))

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
        if self.memory_left is not None:
            self.memory_left -= size_bytes
            if self.memory_left < 0:
                raise OutOfMemoryError(f"Out of memory allocating {size_bytes:,} bytes")
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

    def __init__(self, device: Any) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def __enter__(self) -> "_Entered":
        return self

    def __exit__(self, *_: object) -> None:
        pass
