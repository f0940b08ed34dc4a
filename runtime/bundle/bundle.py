"""A bundle: a folder with `manifest.json`, one engine a submodule and the tokenizers. Reading, checking, opening."""

import hashlib
import os
from pathlib import Path

from runtime.backends.device import Device
from runtime.backends.engine import Engine, load_engine
from runtime.backends.shared import file_stamp
from runtime.bundle.manifest import FileSpec, Manifest, read_manifest
from runtime.bundle.rebuild import rebuild_command
from runtime.bundle.schema import LATER_ENGINES, LATER_INPUTS
from runtime.checks import shown
from runtime.errors import BundleError, IncompatibleEngineError, InputError


class Bundle:
    """A bundle on disk. Construct with `Bundle.read`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._verified: dict[str, object] = {}  # by a file's name, what told it from others when its hash was right

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> "Bundle":
        """Read and check the manifest, and that every file is there in full. Hashes are checked when a file is opened.

        Files may be links, as a hub's cache has them. Raises BundleError with what is wrong and the command that mends
        it, InputError for what is no path.
        """
        try:
            folder = Path(folder)
        except TypeError as error:
            raise InputError(f"a bundle is the path of a folder, got {shown(folder)}") from error
        bundle = cls(folder, read_manifest(folder))
        for file in bundle.manifest.files():
            bundle._check_presence(file)
        return bundle

    @property
    def rebuild_command(self) -> str:
        """The command that makes this bundle anew, but for options of the builder."""
        return rebuild_command(self.manifest, self.folder)

    def needs_gpu(self) -> bool:
        """Whether its engines run on a GPU only."""
        return any(spec.built_for is not None for spec in self.manifest.engines.values())

    def is_float_of(self, weights_sha256: str) -> bool:
        """Whether it has graphs in float32 of these weights."""
        kinds = {(spec.backend, spec.precision) for spec in self.manifest.engines.values()}
        return self.manifest.checkpoint.weights_sha256 == weights_sha256 and kinds == {("onnxruntime", "fp32")}

    def path(self, file: FileSpec) -> Path:
        """Check the hash of one of the bundle's files and return its path. Raises BundleError if it was altered.

        A file that was checked before and was not written since is not read again.
        """
        path = self._check_presence(file)
        try:
            stamp = file_stamp(path)
            if self._verified.get(file.name) == stamp:
                return path
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error}; rebuild: {self.rebuild_command}") from error
        if found != file.sha256:
            raise BundleError(
                f"{path} was altered: its SHA-256 is {found[:12]}..., the manifest has {file.sha256[:12]}...; "
                f"rebuild: {self.rebuild_command}"
            )
        self._verified[file.name] = stamp
        return path

    def open(self, name: str, device: Device | None = None, backend: str | None = None) -> Engine:
        """Check and load one engine, with another backend than its own if one is named.

        Raises BundleError for a damaged file, EngineError if it cannot run here.
        """
        spec = self.manifest.engines.get(name)
        if spec is None:
            if name in LATER_ENGINES:
                command = f"{self.rebuild_command} --only-missing"
                raise BundleError(f"{self.folder} was built before there was an engine '{name}'; add it: {command}")
            has = ", ".join(sorted(self.manifest.engines))
            raise BundleError(f"{self.folder} has no engine '{name}' (it has {has}); rebuild: {self.rebuild_command}")
        if name in LATER_INPUTS and LATER_INPUTS[name] not in spec.inputs:
            raise BundleError(
                f"{self.folder} has an engine '{name}' of an older version; rebuild: {self.rebuild_command}"
            )
        paths = [self.path(file) for file in spec.files]
        try:
            return load_engine(
                paths[0],
                backend=backend or spec.backend,
                inputs=spec.inputs,
                outputs=spec.outputs,
                device=device,
                built_for=spec.built_for,
                audible=spec.audible,
            )
        except IncompatibleEngineError as error:
            raise IncompatibleEngineError(f"{error}; rebuild: {self.rebuild_command}") from error

    def _check_presence(self, file: FileSpec) -> Path:
        """The path of a file that is there in full. It may be a link: what the user linked is the user's."""
        path = self.folder / file.name
        try:
            size = path.stat().st_size if path.is_file() else None
        except (OSError, ValueError) as error:  # no permission; a null byte
            raise BundleError(f"{path} cannot be used: {error}; rebuild: {self.rebuild_command}") from error
        if size is None:
            raise BundleError(f"{path} {_what_is_wrong(path)}; rebuild: {self.rebuild_command}")
        if size != file.size_bytes:
            raise BundleError(
                f"{path} has {size} bytes, the manifest says {file.size_bytes}; rebuild: {self.rebuild_command}"
            )
        return path


def _what_is_wrong(path: Path) -> str:
    """Why a path is no regular file, which is all that is ever opened: a pipe or a device would never end."""
    if path.exists():
        return "is no regular file"
    return f"is a link to {str(path.readlink())!r}, which is missing" if path.is_symlink() else "is missing"
