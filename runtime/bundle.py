"""A bundle: a folder with `manifest.json`, one engine a submodule and the tokenizers. Finding, checking, opening."""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from runtime.device import Device, HostDevice, open_device, usable_gpu
from runtime.engine import Engine, load_engine
from runtime.errors import BundleError, EngineError, IncompatibleEngineError, InputError, MissingDependencyError
from runtime.manifest import MANIFEST, FileSpec, Manifest, build_command, read_manifest

ENGINES_FOLDER = "engines"
ENGINES_VARIABLE = "TRT_AUDIOLDM2_ENGINES"
BACKEND_VARIABLE = "TRT_AUDIOLDM2_BACKEND"
GRAPH_BACKENDS = ("onnxruntime", "openvino")


class Bundle:
    """A bundle on disk. Construct with `Bundle.read`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> "Bundle":
        """Read and check the manifest, and that every file is there in full. Hashes are checked when a file is opened.

        Raises BundleError with what is wrong and the command that mends it.
        """
        folder = Path(folder)
        bundle = cls(folder, read_manifest(folder))
        for file in bundle.manifest.files():
            bundle._check_presence(file)
        return bundle

    @property
    def rebuild_command(self) -> str:
        """The command that makes this bundle anew, but for options of the builder."""
        return build_command(self.manifest.checkpoint.id, self.folder, *self._target_flags())

    def needs_gpu(self) -> bool:
        """Whether its engines run on a GPU only."""
        return any(spec.built_for is not None for spec in self.manifest.engines.values())

    def is_float_of(self, weights_sha256: str) -> bool:
        """Whether it has graphs in float32 of these weights."""
        kinds = {(spec.backend, spec.precision) for spec in self.manifest.engines.values()}
        return self.manifest.checkpoint.weights_sha256 == weights_sha256 and kinds == {("onnxruntime", "fp32")}

    def default_device(self) -> str:
        """The device of `auto`: a GPU for engines that were compiled for one."""
        return "cuda" if self.needs_gpu() else "cpu"

    def open_device(self, name: str = "auto", precision: str = "auto") -> Device:
        """The device to run on. Where it cannot be had the error names a bundle beside this one that needs no GPU."""
        try:
            if name == "cpu" and self.needs_gpu():
                raise EngineError(f"{self.folder} is compiled for GPUs: it does not run on device 'cpu'")
            return open_device(self.default_device() if name == "auto" else name, precision)
        except (EngineError, MissingDependencyError) as error:
            others = [other.folder for other in self._siblings() if not other.needs_gpu()]
            hint = f"; for the CPU, from the same checkpoint: {others[0]}" if others and self.needs_gpu() else ""
            raise type(error)(f"{error}{hint}") from error

    def _siblings(self) -> Iterator["Bundle"]:
        """Readable bundles of the same weights in the same folder."""
        for path in sorted(self.folder.absolute().parent.glob(f"[!.]*/{MANIFEST}")):
            with contextlib.suppress(BundleError):
                other = Bundle.read(self.folder.parent / path.parent.name)
                if other.manifest.checkpoint.weights_sha256 == self.manifest.checkpoint.weights_sha256:
                    yield other

    def _target_flags(self) -> list[str]:
        spec = next(iter(self.manifest.engines.values()), None)
        flags = []
        if spec is not None and spec.built_for is not None:
            flags += ["--backend", spec.built_for.flavour.replace("_", "-")]
        elif spec is not None and spec.backend == "openvino":
            flags += ["--backend", "openvino"]
        precisions = {engine.precision for engine in self.manifest.engines.values()}
        if precisions - {"fp32"}:
            flags += ["--precision", "int8" if "int8" in precisions else precisions.pop()]
        return flags

    def path(self, file: FileSpec) -> Path:
        """Check the hash of one of the bundle's files and return its path. Raises BundleError if it was altered."""
        path = self._check_presence(file)
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != file.sha256:
            raise BundleError(
                f"{path} was altered: its SHA-256 is {found[:12]}..., the manifest has {file.sha256[:12]}...; "
                f"rebuild: {self.rebuild_command}"
            )
        return path

    def backend_on(self, device: Device, asked: str = "auto") -> str | None:
        """The backend to run this bundle's graphs with; None: as each engine says.

        Left to choose, OpenVINO on a CPU where it is installed. Raises InputError for one that cannot run this bundle.
        """
        if asked == "auto":
            openvino = device.name == "cpu" and not self.needs_gpu() and find_spec("openvino") is not None
            return "openvino" if openvino else None
        if asked not in GRAPH_BACKENDS:
            raise InputError(f"unknown backend '{asked}': auto, {', '.join(GRAPH_BACKENDS)}")
        if self.needs_gpu():
            raise InputError(f"backend '{asked}' runs graphs: {self.folder} holds engines that were compiled for a GPU")
        if asked == "onnxruntime" and any(spec.backend == "openvino" for spec in self.manifest.engines.values()):
            raise InputError(f"{self.folder} is in OpenVINO's format: backend 'onnxruntime' does not read it")
        return asked

    def open(self, name: str, device: Device | None = None, backend: str | None = None) -> Engine:
        """Check and load one engine, with another backend than its own if one is named.

        Raises BundleError for a damaged file, EngineError if it cannot run here.
        """
        spec = self.manifest.engines.get(name)
        if spec is None:
            has = ", ".join(sorted(self.manifest.engines))
            raise BundleError(f"{self.folder} has no engine '{name}' (it has {has}); rebuild: {self.rebuild_command}")
        paths = [self.path(file) for file in spec.files]
        try:
            return load_engine(
                paths[0],
                backend=backend or spec.backend,
                inputs=spec.inputs,
                outputs=spec.outputs,
                device=device,
                built_for=spec.built_for,
            )
        except IncompatibleEngineError as error:
            raise IncompatibleEngineError(f"{error}; rebuild: {self.rebuild_command}") from error

    def _check_presence(self, file: FileSpec) -> Path:
        name = PurePosixPath(file.name)
        path = self.folder / name
        try:
            inside, found = path.resolve().is_relative_to(self.folder.resolve()), path.is_file()
        except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a null byte
            raise BundleError(
                f"{self.folder / MANIFEST}: file name {file.name!r} cannot be used: {error}; "
                f"rebuild: {self.rebuild_command}"
            ) from error
        if name.is_absolute() or ".." in name.parts or not inside:
            raise BundleError(f"{self.folder / MANIFEST}: file name '{file.name}' leaves the bundle; do not use it")
        if not found:
            raise BundleError(f"{path} is missing; rebuild: {self.rebuild_command}")
        if path.stat().st_size != file.size_bytes:
            raise BundleError(
                f"{path} has {path.stat().st_size} bytes, the manifest says {file.size_bytes}; "
                f"rebuild: {self.rebuild_command}"
            )
        return path


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


def find_bundle(engines: str | None, environment: Mapping[str, str], device: str = "auto") -> Path:
    """The bundle to use: as asked, else by TRT_AUDIOLDM2_ENGINES, else the only one under `engines/` that fits.

    Where a GPU is usable, and `device` is not the CPU, bundles that were compiled for one come first; elsewhere they do
    not count. Raises BundleError with the build command if there is none, or with their names if there are several.
    """
    asked = engines or environment.get(ENGINES_VARIABLE)
    if asked:
        return Path(asked)
    found = sorted(path.parent for path in Path(ENGINES_FOLDER).glob(f"[!.]*/{MANIFEST}"))
    if not found:
        raise BundleError(
            f"no bundle under {ENGINES_FOLDER}/; build one: python -m export build --checkpoint cvssp/audioldm2 "
            "(or --checkpoint demo to try without a download)"
        )
    if len(found) > 1:
        with contextlib.suppress(BundleError):  # of a damaged one: then the choice is the user's
            found = _fitting([Bundle.read(path) for path in found], device) or found
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise BundleError(f"several bundles: {names}; choose one with --engines or {ENGINES_VARIABLE}")
    return found[0]


def _fitting(bundles: list[Bundle], device: str) -> list[Path]:
    """Bundles of the kind that this machine runs best."""
    compiled = [bundle.folder for bundle in bundles if bundle.needs_gpu()]
    graphs = [bundle.folder for bundle in bundles if not bundle.needs_gpu()]
    return (compiled or graphs) if device != "cpu" and usable_gpu() is not None else graphs
