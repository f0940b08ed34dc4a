"""What TensorRT's Python bindings hold, read without TensorRT: PyPI has the bindings, but not the libraries under them.

The bindings are downloaded (1.2 to 1.4 MB a release) and imported in a subprocess over stub libraries, which define the
few C functions that the extension links to. Every class, enum member and docstring is then there; nothing can be run.
`python -m tests.bindings PACKAGE` prints the description of a package that can be imported.
"""

import inspect
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypedDict

ROOT = Path(__file__).parents[1]

# what the extension modules link to; one missing here shows as an "undefined symbol" of that name at import
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


class Member(TypedDict):
    """One name of a class or of the module."""

    kind: str  # class, method, property, readonly (a property that cannot be set) or value
    type: str  # of a class its own name, of a value the name of its class
    doc: str  # for a method, the signatures


class Description(TypedDict):
    """A package by its classes; the key "" holds the names of the module itself."""

    version: str
    classes: dict[str, dict[str, Member]]


@dataclass(frozen=True)
class Release:
    """A wheel of bindings and the libraries that it asks the loader for."""

    distribution: str
    version: str
    package: str
    libraries: tuple[str, ...]

    def describe(self, cache: Path) -> Description:
        """Its names; `cache` keeps the unpacked wheel between runs."""
        folder = cache / f"{self.package}-{self.version}-{sys.implementation.cache_tag}"
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache) as name:
                unpacked = Path(name) / "unpacked"
                self.unpack(Path(name), unpacked)
                unpacked.rename(folder)  # last: what was interrupted is not taken for whole
        return describe_package(self.package, folder)

    def unpack(self, work: Path, out: Path) -> None:
        """Download the wheel into `work`, unpack it into `out` and lay the stub libraries beside its extension."""
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
        output_of([*pip, "--no-deps", "--only-binary=:all:", f"--dest={work}", f"{self.distribution}=={self.version}"])
        (wheel,) = work.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(out)
        # the bindings import their libraries' package first: an installed one would load libraries of another release
        (out / f"{self.package.replace('bindings', 'libs')}.py").touch()
        source = work / "stub.c"
        source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
        for library in self.libraries:  # the run path of every extension holds $ORIGIN
            output_of(["cc", "-shared", "-fPIC", "-nostdlib", source, "-o", out / self.package / library])


def tensorrt(version: str) -> Release:
    """The release of TensorRT proper of a version."""
    libraries = (f"lib{name}.so.{version.split('.')[0]}" for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"))
    return Release("tensorrt-cu13-bindings", version, "tensorrt_bindings", tuple(libraries))


RELEASES = {
    "TensorRT 10.13": tensorrt("10.13.3.9"),
    "TensorRT 10.16": tensorrt("10.16.1.11"),
    "TensorRT 11.0": tensorrt("11.0.0.114"),
    "TensorRT 11.4": tensorrt("11.4.0.106"),
    "TensorRT-RTX 1.7": Release(
        "tensorrt-rtx-cu13-bindings",
        "1.7.1.116",
        "tensorrt_rtx_bindings",
        ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"),
    ),
}


def describe_package(package: str, folder: Path | None = None) -> Description:
    """The names of a package that can be imported once `folder` is on the path; in a subprocess."""
    path = {} if folder is None else {"PYTHONPATH": str(folder)}
    return json.loads(output_of([sys.executable, "-m", "tests.bindings", package], os.environ | path))


def output_of(command: list[str | Path], environment: dict[str, str] | None = None) -> str:
    """What a command prints; an error holds what it said."""
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} exited with {done.returncode}:\n{done.stderr}")
    return done.stdout


def names_in(module: Any) -> Description:
    """The names of an imported package."""
    classes: dict[str, dict[str, Member]] = {}
    waiting = [("", module)]
    while waiting:
        key, owner = waiting.pop()
        if key in classes:
            continue
        classes[key] = {name: member(owner, name) for name in dir(owner)}
        for name, found in classes[key].items():
            if found["kind"] == "class" and not name.startswith("__"):
                waiting.append((found["type"], getattr(owner, name)))
    return {"version": module.__version__, "classes": classes}


def member(owner: Any, name: str) -> Member:
    """One name, looked up without running a property."""
    value = inspect.getattr_static(owner, name)
    if isinstance(value, type):
        kind = "class"
    elif isinstance(value, property):
        kind = "readonly" if value.fset is None else "property"
    else:
        kind = "method" if callable(value) else "value"
    kept = value if kind == "class" else type(value)
    return {"kind": kind, "type": kept.__qualname__, "doc": inspect.getdoc(value) or ""}


if __name__ == "__main__":
    print(json.dumps(names_in(import_module(sys.argv[1]))))
