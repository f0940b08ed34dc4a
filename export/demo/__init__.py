"""`--checkpoint demo`: an embedded checkpoint of the real architecture, and the sounds that one can be trained on."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.demo.checkpoint import CONFIGS, PHONEMES, make_pipeline, scale_weights, write_checkpoint

TRAINED = Path(__file__).parent / "trained"  # what `--checkpoint demo` opens, in diffusers' layout

__all__ = ["CONFIGS", "PHONEMES", "TRAINED", "make_pipeline", "scale_weights", "write_checkpoint"]


def __getattr__(name: str) -> Any:
    # late, because the sounds need NumPy alone and torch takes seconds to import
    if name in __all__:
        return getattr(import_module("export.demo.checkpoint"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
