"""Audio that a call is given: what of it is kept, what is made anew, and on which rows of latents."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.arguments import Arguments
from runtime.bundle.manifest import AudioSpec
from runtime.checks import listed, number, real_array, shown
from runtime.errors import InputError
from runtime.sound.files import SILENCE_PEAK
from runtime.sound.mel import hz_to_mel, mel_to_hz
from runtime.sound.reading import LONGEST_S, read_waveform
from runtime.sound.splice import splice

Floats = npt.NDArray[np.float32]
Range = tuple[int, int]
PEAK = 0.5  # that the model's training audio was scaled to
ENCODINGS = ("mode", "sample")
VARIATION, ANEW = 0.8, 1.0  # default strengths: the reference library's of image-to-image and of inpainting
_NEED_AUDIO = ("sampling_rate", "strength", "inpaint_seconds", "inpaint_hz", "inpaint_mask", "extend_s")


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A checked edit. The canvas is the stretch that is rendered: all of the audio, or what is near to the ranges.

    Samples are counted in `audio`; the canvas may begin before it and end after it, by less than a row of latents.
    """

    audio: Floats  # (samples,) at the model's rate, with silence where something is added
    given: Range  # the part of `audio` that came from the user
    canvas: Range  # a whole number of latent rows, one of which begins where what is encoded does
    gain: float  # the model sees (audio - mean) * gain
    mean: float
    strength: float  # 1: nothing of the audio is left where it is made anew
    sampled: bool  # latents are drawn from the encoder's distribution, instead of its mode
    mask: Floats | None = None  # (1 or rows, 1 or channels, height, width): 1 is made anew, 0 is kept; None: all is
    fills: tuple[Range, ...] = ()  # samples that are made anew, in order; all others come back as they were given

    @property
    def encoded(self) -> Range:
        """The samples that are encoded: those of the canvas that came from the user."""
        return max(self.canvas[0], self.given[0]), min(self.canvas[1], self.given[1])

    @property
    def samples(self) -> int:
        """How many samples of what is rendered are wanted."""
        return self.canvas[1] - self.canvas[0] if self.fills else len(self.audio)

    def waveform(self, row_samples: int) -> Floats:
        """What the model sees of them, (samples,), with silence up to a whole number of latent rows."""
        start, stop = self.encoded
        seen = (self.audio[start:stop] - np.float32(self.mean)) * np.float32(self.gain)
        return np.pad(seen, (0, -len(seen) % row_samples))

    def finished(self, made: Floats) -> Floats:
        """The result: made (rows, canvas samples), put where it belongs in the audio if a part of that is kept."""
        if not self.fills:
            return made
        level = made / np.float32(self.gain) + np.float32(self.mean)
        return splice(self.audio, level, self.canvas[0], self.fills)


def check_edit(audio: AudioSpec, given: Arguments) -> Edit | None:
    """What is to become of the audio of a call; None where it has none. Raises InputError."""
    if given.audio is None:
        for name in (name for name in _NEED_AUDIO if getattr(given, name) is not None):
            raise InputError(f"{name} needs audio")
        return None
    for name, what in (("latents", "audio stands in their place"), ("audio_length_in_s", "audio has its own length")):
        if getattr(given, name) is not None:
            raise InputError(f"{name} cannot be given together with audio: {what}")
    if given.encoding not in ENCODINGS:
        raise InputError(f"encoding has to be {' or '.join(ENCODINGS)}, got {shown(given.encoding)}")
    before, after = _extension(audio, given.extend_s)
    strength = _strength(given, extends=before + after > 0)
    found = read_waveform(given.audio, given.sampling_rate, audio.sample_rate_hz)
    mean = float(found.mean(dtype=np.float64))
    peak = float(np.abs(found - np.float32(mean)).max())
    if peak < SILENCE_PEAK:
        raise InputError(f"audio is silent: its peak is {peak:.1e}, so there is nothing to go by")
    whole = np.pad(found, (before, after))
    kept = (before, before + len(found))
    edit = Edit(
        audio=whole,
        given=kept,
        canvas=(0, -(-len(whole) // audio.row_samples) * audio.row_samples),
        gain=PEAK / peak,
        mean=mean,
        strength=strength,
        sampled=given.encoding == "sample",
    )
    return _masked(edit, audio, given)


def _masked(edit: Edit, audio: AudioSpec, given: Arguments) -> Edit:
    """The same edit with what is made anew, where that is not all."""
    if given.inpaint_mask is not None:
        if any(value is not None for value in (given.inpaint_seconds, given.inpaint_hz, given.extend_s)):
            raise InputError("inpaint_mask stands in place of inpaint_seconds, inpaint_hz and extend_s")
        return _by_array(edit, audio, given.inpaint_mask)
    fills = _ranges(edit, audio, given.inpaint_seconds)
    start, stop = edit.given
    fills = [*([(0, start)] if start else []), *fills, *([(stop, len(edit.audio))] if stop < len(edit.audio) else [])]
    columns = _columns(audio, given.inpaint_hz)
    if columns is not None and not fills:
        fills = [(0, len(edit.audio))]
    if not fills:
        return edit
    if columns is None and fills == [(0, len(edit.audio))]:
        raise InputError("inpaint_seconds covers all of the audio: nothing of it would be kept, so leave audio out")
    canvas = _canvas(edit, audio, fills)
    height = (canvas[1] - canvas[0]) // audio.row_samples
    mask = np.zeros((1, 1, height, audio.latent_width), np.float32)
    for first, last in fills:
        rows = slice((first - canvas[0]) // audio.row_samples, -(-(last - canvas[0]) // audio.row_samples))
        mask[:, :, rows, slice(None) if columns is None else columns] = 1
    return replace(edit, canvas=canvas, mask=mask, fills=tuple(fills))


def _by_array(edit: Edit, audio: AudioSpec, value: Any) -> Edit:
    mask, height = real_array("inpaint_mask", value), edit.canvas[1] // audio.row_samples
    shape = (height, audio.latent_width)
    if mask.ndim not in (2, 4) or mask.shape[-2:] != shape:
        raise InputError(f"inpaint_mask has shape {mask.shape}, this audio needs {shape}, or latents' shape")
    if mask.min(initial=0) < 0 or mask.max(initial=0) > 1:
        raise InputError("inpaint_mask has to hold values from 0, kept, to 1, made anew")
    mask = mask.reshape(1, 1, *shape) if mask.ndim == 2 else mask
    if mask.shape[1] not in (1, audio.latent_channels):
        raise InputError(f"inpaint_mask has {mask.shape[1]} channels, latents have {audio.latent_channels}")
    changed = np.flatnonzero(np.diff(np.pad(mask.max(axis=(0, 1, 3)) > 0, 1).astype(int)))  # starts and ends in turns
    ends = np.minimum(changed * audio.row_samples, len(edit.audio)).tolist()
    if not ends:
        raise InputError("inpaint_mask is 0 everywhere: nothing would be made anew")
    return replace(edit, mask=mask, fills=tuple(zip(ends[::2], ends[1::2], strict=True)))


def _strength(given: Arguments, *, extends: bool) -> float:
    masked = extends or any(
        value is not None for value in (given.inpaint_seconds, given.inpaint_hz, given.inpaint_mask)
    )
    if given.strength is None:
        return ANEW if masked else VARIATION
    strength = number("strength", given.strength, 0.0, 1.0)
    if extends and strength < 1:
        raise InputError(f"strength has to be 1 with extend_s, which starts from nothing, got {strength:g}")
    if masked and strength == 0:
        raise InputError("strength 0 makes nothing anew: it has no meaning with a range")
    return strength


def _extension(audio: AudioSpec, value: Any) -> Range:
    """Samples to add at the start and at the end."""
    if value is None:
        return 0, 0
    pair = listed(value)
    if pair is not None and len(pair) != 2:
        raise InputError(
            f"extend_s has to be a number, at the end, or two, (at the start, at the end), got {shown(value)}"
        )
    before, after = (
        int(number("extend_s", seconds, 0.0, LONGEST_S) * audio.sample_rate_hz) for seconds in pair or (0.0, value)
    )
    if before + after == 0:
        raise InputError(f"extend_s adds nothing: got {shown(value)}")
    return before, after


def _ranges(edit: Edit, audio: AudioSpec, value: Any) -> list[Range]:
    """The ranges of `inpaint_seconds`, in order, in samples of the edit's audio."""
    if value is None:
        return []
    pairs = listed(value) or ()
    if len(pairs) == 2 and all(listed(item) is None for item in pairs):
        pairs = (pairs,)  # one range, not in a list
    whole = (edit.given[1] - edit.given[0]) / audio.sample_rate_hz
    ranges = []
    for pair in pairs:
        ends = listed(pair)
        if ends is None or len(ends) != 2:
            raise InputError(f"inpaint_seconds has to be pairs of numbers, (start, stop), got {shown(pair)}")
        start, stop = (number("inpaint_seconds", end, 0.0, LONGEST_S) for end in ends)
        if not start < stop:
            raise InputError(f"inpaint_seconds: {start:g} to {stop:g} s is no range: it has to start before it stops")
        if start >= whole or stop > whole + 0.5 / audio.sample_rate_hz:
            raise InputError(
                f"inpaint_seconds: {start:g} to {stop:g} s is outside of the audio, which has {whole:.3f} s"
            )
        first, last = (edit.given[0] + round(end * audio.sample_rate_hz) for end in (start, stop))
        if first == last:
            raise InputError(f"inpaint_seconds: {start:g} to {stop:g} s is shorter than a sample")
        ranges.append((first, min(last, edit.given[1])))
    if not ranges:
        raise InputError(f"inpaint_seconds has to be a list of pairs, (start, stop), got {shown(value)}")
    ranges.sort()
    for (_, end), (start, _) in pairwise(ranges):
        if start < end:
            raise InputError(
                f"inpaint_seconds: two ranges overlap at {(start - edit.given[0]) / audio.sample_rate_hz:g} s"
            )
    return ranges


def _columns(audio: AudioSpec, value: Any) -> slice | None:
    """The latent columns of a range of frequencies: those that hold a mel bin whose centre is in it."""
    if value is None:
        return None
    pair: Sequence[Any] = listed(value) or ()
    if len(pair) != 2 or audio.mel is None:
        raise InputError(f"inpaint_hz has to be two numbers, (low, high), got {shown(value)}")
    low, high = (number("inpaint_hz", end, 0.0, audio.sample_rate_hz / 2) for end in pair)
    ends = hz_to_mel(np.asarray([audio.mel.min_frequency_hz, audio.mel.max_frequency_hz]))
    centres = mel_to_hz(np.linspace(ends[0], ends[1], audio.mel_bins + 2))[1:-1]
    inside = np.flatnonzero((centres >= low) & (centres <= high)) // audio.vae_scale_factor
    if not len(inside):
        raise InputError(f"inpaint_hz: {low:g} to {high:g} Hz holds no band of the model's")
    return slice(int(inside[0]), int(inside[-1]) + 1)


def _canvas(edit: Edit, audio: AudioSpec, fills: Sequence[Range]) -> Range:
    """What is rendered around the ranges: as much as the model was trained on, or half of that beside long ones.

    It begins so that what is encoded begins with a row of latents.
    """
    row, usual, whole = audio.row_samples, audio.default_latent_height * audio.row_samples, len(edit.audio)
    filled = fills[-1][1] - fills[0][0]
    length = min(max(usual, filled + usual // 2), whole)
    start = min(max(fills[0][0] - (length - filled) // 2, 0), whole - length)
    first = max(start, edit.given[0])  # what is encoded begins here
    begin = first - -(-(first - start) // row) * row
    return begin, begin + -(-(start + length - begin) // row) * row
