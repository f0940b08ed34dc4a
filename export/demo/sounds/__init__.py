"""Labelled sounds to train a small text-to-audio model on, made from what a Debian machine has.

Most classes are synthesised here in NumPy. Instruments are rendered by fluidsynth (LGPL-2.1-or-later) from the FluidR3
GM sound font (MIT), speech by espeak-ng (GPL-3.0-or-later). Both are programs that are run, not code that is taken
over, and nothing of them is in this repository: whoever makes the data renders it.
"""

from export.demo.sounds.clip import CLASSES, SYNTHESISED_CLASSES, Clip, draw, generator
from export.demo.sounds.settings import SAMPLE_RATE_HZ, SPLITS, Split

__all__ = ["CLASSES", "SAMPLE_RATE_HZ", "SPLITS", "SYNTHESISED_CLASSES", "Clip", "Split", "draw", "generator"]
