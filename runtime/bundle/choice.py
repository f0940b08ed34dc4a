"""Which bundle, which device and which backend a run takes."""

import contextlib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from runtime.backends.device import Device
from runtime.backends.open_device import open_device, usable_gpu
from runtime.bundle.bundle import Bundle
from runtime.bundle.manifest import MANIFEST
from runtime.errors import BundleError, EngineError, InputError, MissingDependencyError

ENGINES_FOLDER = "engines"
ENGINES_VARIABLE = "TRT_AUDIOLDM2_ENGINES"
BACKEND_VARIABLE = "TRT_AUDIOLDM2_BACKEND"
GRAPH_BACKENDS = ("onnxruntime", "openvino")


def default_device(bundle: Bundle) -> str:
    """The device of `auto`: a GPU for engines that were compiled for one."""
    return "cuda" if bundle.needs_gpu() else "cpu"


def open_bundle_device(
    bundle: Bundle, name: str = "auto", precision: str = "auto", threads: int | None = None
) -> Device:
    """The device to run on. Where it cannot be had the error names a bundle beside this one that needs no GPU."""
    try:
        if name == "cpu" and bundle.needs_gpu():
            raise EngineError(f"{bundle.folder} is compiled for GPUs: it does not run on device 'cpu'")
        return open_device(default_device(bundle) if name == "auto" else name, precision, threads)
    except (EngineError, MissingDependencyError) as error:
        others = [other.folder for other in _siblings(bundle) if not other.needs_gpu()]
        hint = f"; for the CPU, from the same checkpoint: {others[0]}" if others and bundle.needs_gpu() else ""
        raise type(error)(f"{error}{hint}") from error


def _siblings(bundle: Bundle) -> Iterator[Bundle]:
    """Readable bundles of the same weights in the same folder."""
    for path in sorted(bundle.folder.absolute().parent.glob(f"[!.]*/{MANIFEST}")):
        with contextlib.suppress(BundleError):
            other = Bundle.read(bundle.folder.parent / path.parent.name)
            if other.manifest.checkpoint.weights_sha256 == bundle.manifest.checkpoint.weights_sha256:
                yield other


def preferred_backend(bundle: Bundle, environment: Mapping[str, str]) -> str:
    """What TRT_AUDIOLDM2_BACKEND says runs graphs, else auto. Engines that were compiled for a GPU have no choice."""
    return "auto" if bundle.needs_gpu() else environment.get(BACKEND_VARIABLE) or "auto"


def choose_backend(bundle: Bundle, device: Device, asked: str = "auto") -> str | None:
    """The backend to run this bundle's graphs with; None: as each engine says.

    Left to choose, OpenVINO on a CPU where it is installed. Raises InputError for one that cannot run this bundle.
    """
    if asked == "auto":
        openvino = device.gpu is None and not bundle.needs_gpu() and find_spec("openvino") is not None
        return "openvino" if openvino else None
    if asked not in GRAPH_BACKENDS:
        raise InputError(f"unknown backend '{asked}': auto, {', '.join(GRAPH_BACKENDS)}")
    if bundle.needs_gpu():
        raise InputError(f"backend '{asked}' runs graphs: {bundle.folder} holds engines that were compiled for a GPU")
    if asked == "onnxruntime" and any(spec.backend == "openvino" for spec in bundle.manifest.engines.values()):
        raise InputError(f"{bundle.folder} is in OpenVINO's format: backend 'onnxruntime' does not read it")
    return asked


def find_bundle(
    engines: str | None, environment: Mapping[str, str], device: str = "auto", *, fast: bool = False
) -> Path:
    """The bundle to use: as asked, else by TRT_AUDIOLDM2_ENGINES, else the only one under `engines/` that fits.

    Where a GPU is usable, and `device` is not the CPU, bundles that were compiled for one come first; elsewhere they do
    not count. With `fast` the one in INT8 is taken of several of the same weights. Raises BundleError with the build
    command if there is none, or with their names if there are several.
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
            found = _fitting([Bundle.read(path) for path in found], device, fast=fast) or found
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise BundleError(f"several bundles: {names}; choose one with --engines or {ENGINES_VARIABLE}")
    return found[0]


def _fitting(bundles: list[Bundle], device: str, *, fast: bool) -> list[Path]:
    """Bundles of the kind that this machine runs best."""
    compiled = [bundle for bundle in bundles if bundle.needs_gpu()]
    graphs = [bundle for bundle in bundles if not bundle.needs_gpu()]
    if compiled and device != "cpu" and usable_gpu() is not None:
        return [bundle.folder for bundle in compiled]
    weights = {bundle.manifest.checkpoint.weights_sha256 for bundle in graphs}
    eight_bits = [bundle for bundle in graphs if bundle.manifest.engines["unet"].precision == "int8"]
    chosen = eight_bits if fast and len(weights) == 1 and find_spec("openvino") is not None else []
    return [bundle.folder for bundle in chosen or graphs]
