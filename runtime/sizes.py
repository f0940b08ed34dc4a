"""How long a call's sound is, what latents it has, and how the model sees them."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from runtime.arguments import Arguments
from runtime.backends.device import Array
from runtime.bundle.manifest import AudioSpec, EngineSpec, Manifest
from runtime.checks import number, real_array, shown
from runtime.diffusion.canvas import Canvas
from runtime.edit import Edit
from runtime.errors import InputError

LONGEST_S = 1e6  # far more than fits in memory, which is checked later with the numbers: sizes must not overflow first
OVERLAP = 4  # neighbouring windows share a quarter: by the judge, joins and timbre as good as a half (bench/LOG.md)
TOGETHER = 4  # windows that the UNet gets at once, at most
TOGETHER_BYTES = 64 << 20  # of activations that they may take


def sample_count(audio: AudioSpec, duration_s: Any) -> int:
    """How many samples a duration is: as the reference, cut to whole ones, but of what the user meant by it.

    A float32 or float16 is short of the decimal that it was made from: 0.64 becomes 0.639999986. It stands for the
    shortest decimal that it may come from, or for a whole number of samples if it may come from that.
    """
    if duration_s is None:
        return audio.default_latent_height * audio.row_samples
    seconds = number("audio_length_in_s", duration_s)
    narrow = isinstance(duration_s, np.floating) and not isinstance(duration_s, float)
    seconds = float(str(duration_s)) if narrow else seconds
    number("audio_length_in_s", seconds, audio.row_samples / audio.sample_rate_hz, LONGEST_S)
    if isinstance(duration_s, Decimal | Fraction):
        return int(Fraction(duration_s) * audio.sample_rate_hz)
    whole = round(seconds * audio.sample_rate_hz)
    if narrow and type(duration_s)(whole / audio.sample_rate_hz) == duration_s:
        return whole
    return int(seconds * audio.sample_rate_hz)


def latent_shape(audio: AudioSpec, rows: int, samples: int) -> tuple[int, int, int, int]:
    """Latents that cover all the samples: the reference rounds down to mel frames first and may return less audio."""
    height = -(-samples // audio.row_samples)
    return (rows, audio.latent_channels, height, audio.latent_width)


def own_latents(latents: Any, shape: tuple[int, int, int, int]) -> Array:
    """The first noise that a user gives. Raises InputError for any but finite real numbers of this shape."""
    array = real_array("latents", latents)
    if array.shape != shape:
        raise InputError(
            f"latents has shape {array.shape}, this call needs {shape}: (waveforms, channels, height, width)"
        )
    return array


def canvas_of(
    manifest: Manifest, shape: tuple[int, int, int, int], given: Arguments, edit: Edit | None, *, guided: bool
) -> Canvas | None:
    """The canvas of a call with latents of this shape; None where the model sees them at once, as they are."""
    if not isinstance(given.loop, bool):
        raise InputError(f"loop has to be True or False, got {shown(given.loop)}")
    audio, (rows, _, height, _) = manifest.audio, shape
    window = height
    if given.window_s is not None:
        shortest_s = 2 * audio.row_samples / audio.sample_rate_hz
        seconds = number("window_s", given.window_s, shortest_s, LONGEST_S)
        window = min(int(seconds * audio.sample_rate_hz) // audio.row_samples, height)
    elif edit is not None and edit.mask is not None:
        window = min(audio.default_latent_height, height)
    canvas = Canvas(height, window, window // OVERLAP, loop=given.loop)
    if given.loop:
        if edit is not None and edit.mask is not None:
            raise InputError("loop joins the ends of all that is made: leave out what is to be kept or added")
        if given.audio_callback is not None or given.feature_cache_interval != 1:
            raise InputError("loop cannot be together with audio_callback or feature_cache_interval")
    if edit is not None and edit.fills and given.audio_callback is not None:
        raise InputError("audio_callback would hear the sound before what is kept is put back: leave it out")
    if canvas.plain:
        return None
    return replace(canvas, together=_windows_together(manifest.engines["unet"], window, 2 * rows if guided else rows))


def _windows_together(unet: EngineSpec, window: int, rows: int) -> int:
    """How many windows the UNet gets at once, where each is so many rows of a batch: it changes no sound.

    Small models are faster so, and GPUs are busier; large ones gain nothing on a CPU, and would need more memory.
    """
    each = rows * sum(c * window**power for power, c in enumerate(unet.activation_bytes or ()))
    by_memory = TOGETHER if each == 0 else int(TOGETHER_BYTES // each)
    most = unet.inputs["sample"].max_shape[0]
    by_shape = TOGETHER if most is None else most // rows
    return max(1, min(TOGETHER, by_memory, by_shape))
