"""A stand-in for the cupy module where there is no GPU: g++ compiles its raw kernels, NumPy is everything else."""

import ctypes
import functools
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_PRELUDE = """
#include <cstddef>
#include <utility>
#define __global__
#define __device__ static
static struct Dim3 { unsigned x, y, z; } blockIdx, threadIdx, blockDim;
"""
# As cuLaunchKernel: a pointer to each argument's value. The threads run one after another, in no block's favour.
_LAUNCHER = """
template <class... A, std::size_t... I>
static void run(void (*kernel)(A...), unsigned grid, unsigned block, void** args, std::index_sequence<I...>) {
    blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < block; ++threadIdx.x) kernel(*static_cast<A*>(args[I])...);
}
template <class... A> static void launch(void (*kernel)(A...), unsigned grid, unsigned block, void** args) {
    run(kernel, grid, block, args, std::index_sequence_for<A...>());
}
template <class... A> static int sizes(void (*)(A...), int* out) {
    for (std::size_t size : {sizeof(A)...}) *out++ = static_cast<int>(size);
    return sizeof...(A);
}
"""
_EXPORTS = """
extern "C" void launch_{0}(unsigned grid, unsigned block, void** args) {{ launch({0}, grid, block, args); }}
extern "C" int sizes_{0}(int* out) {{ return sizes({0}, out); }}
"""


@functools.cache
def compile_host(source: str) -> ctypes.CDLL:
    """The kernels of CUDA C `source` as a library; FMA stays off, as the sums are compared with NumPy's."""
    names = re.findall(r"__global__ void (\w+)\(", source)
    with tempfile.TemporaryDirectory() as folder:  # the loaded library outlives its file
        code, library = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
        code.write_text(_PRELUDE + source + _LAUNCHER + "".join(_EXPORTS.format(name) for name in names))
        flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fPIC", "-shared"]
        subprocess.run(["g++", *flags, str(code), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))


class Graph:
    """Launches with their arguments as they were at capture: addresses of arrays, values of scalars."""

    def __init__(self) -> None:
        self.launches: list[Any] = []

    def launch(self) -> None:
        for launch in self.launches:
            launch()


class Host:
    """`RawKernel` and stream capture; every other attribute is NumPy's."""

    def __init__(self) -> None:
        self._graph: Graph | None = None

    def __getattr__(self, name: str) -> Any:
        return functools.partial(_Kernel, self) if name == "RawKernel" else getattr(np, name)

    @contextmanager
    def capture(self) -> Iterator[Graph]:
        self._graph = graph = Graph()
        try:
            yield graph
        finally:
            self._graph = None

    def submit(self, launch: Any) -> None:
        launch() if self._graph is None else self._graph.launches.append(launch)


class _Kernel:
    def __init__(self, host: Host, code: str, name: str, options: Sequence[str] = ()) -> None:
        library = compile_host(code)
        self._host, self._launch = host, library[f"launch_{name}"]
        sizes = (ctypes.c_int * 64)()
        self._sizes = list(sizes[: library[f"sizes_{name}"](sizes)])
        assert all(option.startswith("-") for option in options)

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
        values = [np.uintp(arg.ctypes.data) if hasattr(arg, "ctypes") else arg for arg in args]
        assert all(isinstance(value, np.generic) for value in values)
        assert [value.itemsize for value in values] == self._sizes
        frozen = [ctypes.create_string_buffer(value.tobytes(), value.itemsize) for value in values]
        self._host.submit(functools.partial(self._run, (*grid, *block), frozen, args))

    def _run(self, grid_and_block: tuple[int, ...], frozen: list[Any], _kept_alive: tuple[Any, ...]) -> None:
        pointers = (ctypes.c_void_p * len(frozen))(*[ctypes.addressof(value) for value in frozen])
        self._launch(*grid_and_block, pointers)
