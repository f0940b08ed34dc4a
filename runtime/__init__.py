"""AudioLDM2 without PyTorch: text to audio over prebuilt engines.

>>> from runtime import AudioLDM2Pipeline
>>> pipe = AudioLDM2Pipeline.from_pretrained("engines/audioldm2")
>>> audio = pipe("The sound of a hammer hitting a wooden surface.", seed=0).audios[0]
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.arguments import Arguments, StopDenoising
    from runtime.errors import (
        AudioLDM2Error,
        BundleError,
        EngineError,
        InputError,
        MissingDependencyError,
        NumericsError,
    )
    from runtime.output import AudioOutput
    from runtime.pipeline import AudioLDM2Pipeline

__all__ = [
    "Arguments",
    "AudioLDM2Error",
    "AudioLDM2Pipeline",
    "AudioOutput",
    "BundleError",
    "EngineError",
    "InputError",
    "MissingDependencyError",
    "NumericsError",
    "StopDenoising",
]
_MODULES = {
    "Arguments": "arguments",
    "StopDenoising": "arguments",
    "AudioLDM2Pipeline": "pipeline",
    "AudioOutput": "output",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use, so that `trt-audioldm2 --help` does not wait for NumPy."""
    if name not in __all__:
        raise AttributeError(f"module 'runtime' has no attribute '{name}'")
    return getattr(importlib.import_module(f"runtime.{_MODULES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
