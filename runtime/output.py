"""What a call returns, in the form that was asked for."""

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from runtime.backends.device import Array
from runtime.errors import MissingDependencyError
from runtime.request import Request
from runtime.sound.scoring import best_first


@dataclass(frozen=True)
class AudioOutput:
    """What a call returns. Rows are waveforms; a prompt's own come together, the best first where they were ranked."""

    audios: npt.NDArray[np.float32]  # (rows, samples), nominally -1 to 1; or latents, or a tensor: see output_type
    sampling_rate: int  # Hz
    seeds: tuple[int, ...]  # one for the whole batch, one a prompt, or one a row
    scores: npt.NDArray[np.float32] | None = None  # (rows,), CLAP cosine similarity; None if not ranked
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage


def make_output(
    audios: Array,
    request: Request,
    sampling_rate: int,
    timings: dict[str, float],
    scores: npt.NDArray[np.float32] | None = None,
) -> AudioOutput:
    """The result of a request: waveforms (rows, samples) or latents in their order of rendering.

    Where they come with scores, (rows,), each prompt's own are put in order, the best first.
    Where the request wants no `return_dict` it is a tuple of the audios alone, as the reference's.
    """
    seeds = request.seeds
    if scores is not None:
        order = best_first(scores, request.num_waveforms_per_prompt)
        audios, scores = audios[order], scores[order]
        if len(seeds) == request.rows:
            seeds = tuple(seeds[i] for i in order)
    if request.output_type == "pt":
        audios = as_tensor(audios)
    if not request.return_dict:
        return cast(AudioOutput, (audios,))
    numbers = tuple(seed if isinstance(seed, int) else int(seed.initial_seed()) for seed in seeds)
    return AudioOutput(audios, sampling_rate, numbers, scores, timings)


def as_tensor(array: Array) -> Any:
    """The same memory as a torch tensor. Raises MissingDependencyError where torch is not installed."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("output_type 'pt' needs torch: pip install torch") from error
    return torch.utils.dlpack.from_dlpack(np.ascontiguousarray(array))
