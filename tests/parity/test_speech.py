"""Speech checkpoints against the reference: ids, waveforms, and GPT2 over hundreds of steps."""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from transformers import GPT2Model, VitsTokenizer

from export.__main__ import main
from export.checkpoint import Checkpoint
from export.parity import relative_error
from runtime import AudioLDM2Pipeline
from runtime.bundle import FileSpec, SpeechSpec
from runtime.conditioning import PromptEncoder
from runtime.errors import InputError, MissingDependencyError
from runtime.speech import Vocabulary
from runtime.speech import VitsTokenizer as OurTokenizer
from tests.checkpoints import SPEECH
from tests.parity.test_pipeline import AUDIBLE, SEEN, random_text, rng, run_reference
from tests.unit.helpers import raises_line

__all__ = ["rng"]  # the fixture

TEXTS = (
    "wish you have a good day",
    "Dr. Smith paid $3.50 for 2 of them -- didn't he?",
    "",
    "  \n ",
    "...",
    "One line.\nAnother line;\n\nand a third",
    "naïve café, Straße, 你好",
    "what a <unk> day_in_the_<pad>sun",
    "A B C",
)


def random_line(rng: np.random.Generator) -> str:
    letters = [chr(code) for code in range(32, 127)] + list(" " * 20 + "éßțə—你\n\t_")
    return "".join(rng.choice(letters, int(rng.integers(1, 80))))
