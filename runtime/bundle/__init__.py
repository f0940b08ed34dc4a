"""A bundle on disk: its manifest, its files, the engines that are opened from it, and which bundle a run takes."""

from runtime.bundle.bundle import Bundle
from runtime.bundle.choice import (
    BACKEND_VARIABLE,
    choose_backend,
    find_bundle,
    open_bundle_device,
    preferred_backend,
)
from runtime.bundle.engines import OpenEngines

__all__ = [
    "BACKEND_VARIABLE",
    "Bundle",
    "OpenEngines",
    "choose_backend",
    "find_bundle",
    "open_bundle_device",
    "preferred_backend",
]
