"""`--checkpoint demo`: an embedded checkpoint of the real architecture, and the sounds that one can be trained on."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.errors import CheckpointError
from runtime.install import source_folder

if TYPE_CHECKING:
    from export.demo.checkpoint import CONFIGS, PHONEMES, make_pipeline, scale_weights, write_checkpoint

_WEIGHTS = Path("export", "demo", "trained")
TRAINED = Path(__file__).parents[2] / _WEIGHTS  # what `--checkpoint demo` opens, in diffusers' layout

__all__ = ["CONFIGS", "PHONEMES", "TRAINED", "make_pipeline", "scale_weights", "trained", "write_checkpoint"]


def trained() -> Path:
    """The folder of the demo checkpoint: in the project's folder, beside this file or where `pip install` was run.

    Its weights are in no wheel, which is what serving machines install. Raises CheckpointError if they are not here.
    """
    source = source_folder()
    for folder in (TRAINED, *([] if source is None else [source / _WEIGHTS])):
        if (folder / "model_index.json").is_file():
            return folder
    raise CheckpointError(
        "the demo's weights are in the project's folder, not in its wheels: run the command in that folder, "
        "or install from it"
    )


def __getattr__(name: str) -> Any:
    # late, because the sounds need NumPy alone and torch takes seconds to import
    if name in __all__:
        return getattr(import_module("export.demo.checkpoint"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
