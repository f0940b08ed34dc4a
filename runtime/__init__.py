"""AudioLDM2 without PyTorch: text to audio over prebuilt engines.

>>> from runtime import AudioLDM2Pipeline
>>> pipe = AudioLDM2Pipeline.from_pretrained("engines/audioldm2")
>>> audio = pipe("The sound of a hammer hitting a wooden surface.", seed=0).audios[0]
"""

from runtime.arguments import Arguments, StopDenoising
from runtime.errors import AudioLDM2Error, BundleError, EngineError, InputError, MissingDependencyError, NumericsError
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
