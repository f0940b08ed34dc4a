"""Where backends keep what they compiled."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The part of the user's cache folder that is ours; it may not exist yet."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "trt-audioldm2"
