"""What is asked of the benchmark, checked before anything is imported that may be missing, or started."""

import argparse
from importlib.util import find_spec

from bench.serve.subjects import checkpoint_folder
from runtime.bundle.manifest import MANIFEST
from runtime.errors import InputError, MissingDependencyError
from runtime.install import install_command
from runtime.sound.plot import check_plot


def check(options: argparse.Namespace) -> None:
    """Raise InputError for what cannot be asked, MissingDependencyError for what is not installed."""
    if options.url and (options.engines or options.checkpoint or options.serve_flags or options.overhead):
        raise InputError(
            "--url measures a server that runs: it goes with none of --engines, --checkpoint, --serve-flags, --overhead"
        )
    if not options.url and options.engines is None:
        raise InputError("--engines is missing: the bundle to serve (or --url: a server that runs)")
    if options.engines and not (options.engines / MANIFEST).is_file():
        raise InputError(f"{options.engines} is no bundle: it has no {MANIFEST}")
    rival = not options.url and not options.overhead and "rival" not in options.without
    if rival and options.checkpoint is None:
        raise InputError("--checkpoint is missing: the rival's weights, a folder or demo (or --without rival)")
    if rival and not (checkpoint_folder(options.checkpoint) / "model_index.json").is_file():
        raise InputError(f"{options.checkpoint} is no checkpoint in diffusers' layout: it has no model_index.json")
    needed = {"aiohttp": "bench"}  # which extra brings it
    if not options.url:
        needed.update(starlette="serve", uvicorn="serve")
    if rival:
        needed.update(fastapi="bench", torch="export", diffusers="export", transformers="export")
    missing = [module for module in needed if find_spec(module) is None]
    if missing:
        extras = dict.fromkeys(needed[module] for module in missing)
        raise MissingDependencyError(f"{', '.join(missing)} not installed: {install_command(*extras)}")
    if options.plot:
        check_plot()
