"""The judge: a network that says which of the demo's classes a sound belongs to.

It was trained on rendered sounds alone, never on a model's output. It judges what is heard, not how faithfully: level,
slight noise, smearing and missing treble do not matter to it.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import torch
from safetensors.torch import save_file

from bench.judge.network import Network
from export.demo.sounds import CLASSES, SAMPLE_RATE_HZ
from export.demo.training.mel import log_mel
from runtime.errors import InputError
from runtime.sound.resample import resample

WEIGHTS = Path(__file__).parents[1] / "judge.safetensors"
RETRAIN = "python -m bench.judge --out bench/judge.safetensors"
SHORTEST_S = 2.0
ROWS = 64  # at once

Floats = npt.NDArray[np.float32]


class Judge:
    """A network and the names of its classes."""

    def __init__(self, network: Network, classes: tuple[str, ...]) -> None:
        self.network, self.classes = network.eval(), classes

    def recognise(self, audios: Floats, sample_rate_hz: int) -> Floats:
        """The probability of each class, (rows, classes), for waveforms of (rows, samples).

        Raises InputError for clips that are shorter than `SHORTEST_S`, not finite, or not of that shape.
        """
        return self._run(lambda mel: self.network(mel).softmax(dim=1), audios, sample_rate_hz)

    def features(self, audios: Floats, sample_rate_hz: int) -> Floats:
        """The features that the last layer decides by, (rows, 64), for waveforms of (rows, samples).

        Raises InputError as `recognise` does.
        """
        return self._run(self.network.features, audios, sample_rate_hz)

    @torch.no_grad()
    def _run(self, function: Callable[[torch.Tensor], torch.Tensor], audios: Floats, sample_rate_hz: int) -> Floats:
        _check(audios, sample_rate_hz)
        heard = np.stack([resample(audio, sample_rate_hz, SAMPLE_RATE_HZ) for audio in audios])
        parts = torch.from_numpy(heard.astype(np.float32)).split(ROWS)
        found: Floats = torch.cat([function(log_mel(part)) for part in parts]).numpy()
        return found


def load_judge(file: Path = WEIGHTS) -> Judge:
    """The judge that ships, or the one in `file`. Raises InputError if it is missing or knows other classes."""
    if not file.is_file():
        raise InputError(f"no judge at {file}; train one: {RETRAIN}")
    with safetensors.safe_open(file, "pt") as stored:
        classes = tuple(json.loads(stored.metadata()["classes"]))
        state = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118  not a mapping
    if classes != CLASSES:
        changed = ", ".join(sorted(set(classes) ^ set(CLASSES))) or "their order"
        raise InputError(f"the judge at {file} knows other classes than there are ({changed}); train it: {RETRAIN}")
    network = Network(len(classes))
    network.load_state_dict(state)
    return Judge(network, classes)


def save_judge(judge: Judge, file: Path, **notes: object) -> None:
    """Write a judge to `file`: its weights in FP16, with its classes and the notes as metadata."""
    state = {name: tensor.half().contiguous() for name, tensor in judge.network.state_dict().items()}
    metadata = {"classes": json.dumps(judge.classes), **{key: str(value) for key, value in notes.items()}}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file, metadata=metadata)


def _check(audios: Floats, sample_rate_hz: int) -> None:
    if audios.ndim != 2 or not len(audios):
        raise InputError(f"audios have shape {audios.shape}, not (rows, samples)")
    if audios.shape[1] < SHORTEST_S * sample_rate_hz:
        raise InputError(f"clips last {audios.shape[1] / sample_rate_hz:.2f} s; the judge needs {SHORTEST_S:g} s")
    if not np.isfinite(audios).all():
        raise InputError("audios hold NaN or Inf")
