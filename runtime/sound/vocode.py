"""The vocoder in windows: any length at bounded memory, the same samples as one run over the whole."""

from collections.abc import Callable, Iterator

import numpy as np

from runtime.backends.device import Array, Device, HostDevice
from runtime.backends.engine import Engine
from runtime.backends.joined import joined
from runtime.bundle.manifest import AudioSpec
from runtime.errors import EngineError

STREAMED_FRAMES = 128  # mel frames a window whose sound is wanted before the rest: 1.28 s of it at the published sizes


def vocode(vocoder: Engine, mel: Array, audio: AudioSpec, device: Device | None = None) -> Array:
    """Mel (rows, frames, mel_bins) to waveforms (rows, samples): see `windows`."""
    parts = list(windows(vocoder, mel, audio, device or HostDevice(), audio.vocoder_window_frames))
    return joined(parts, axis=1)


def vocode_aloud(
    vocoder: Engine, mel: Array, audio: AudioSpec, device: Device, samples: int, callback: Callable[[Array], object]
) -> Array:
    """Waveforms (rows, samples) on the host, of which `callback` hears each part as soon as it is made."""
    parts: list[Array] = []
    missing = samples
    for piece in windows(vocoder, mel, audio, device, STREAMED_FRAMES):
        parts.append(device.to_host(piece[:, :missing]))
        device.verify()
        callback(parts[-1])
        missing -= parts[-1].shape[1]
    return np.concatenate(parts, axis=1)


def frames_at_once(frames: int, audio: AudioSpec, window_frames: int) -> int:
    """How many of a mel's frames the vocoder gets in each run: a window with what is around it, or all."""
    return min(frames, window_frames + 2 * audio.vocoder_context_frames)


def windows(vocoder: Engine, mel: Array, audio: AudioSpec, device: Device, window_frames: int) -> Iterator[Array]:
    """The waveforms of mel (rows, frames, mel_bins), piece by piece: each (rows, samples).

    Every sample depends on its frame and on `context` frames on either side of it. A mel that is longer than a window
    with that context is run in windows of one length, so that a backend compiles one shape: each keeps the samples that
    it has the context for, and the last one is moved back until it ends with the mel. So the model pads with zeros
    where the mel begins and ends, and nowhere else. Raises EngineError if the vocoder makes another number of samples
    than its frames have.
    """
    frames, hop, context = mel.shape[1], audio.hop_samples, audio.vocoder_context_frames
    length = frames_at_once(frames, audio, window_frames)
    done = 0  # counts the frames whose samples there are
    while done < frames:
        first = min(max(done - context, 0), frames - length)
        last = first + length
        waveform = device.watch("vocoder", vocoder.run({"mel": mel[:, first:last].copy()})["waveform"])
        if not 0 <= waveform.shape[1] - length * hop < hop:
            raise EngineError(
                f"vocoder made {waveform.shape[1]} samples of {length} frames: the manifest says {hop} a frame"
            )
        ready = frames if last == frames else last - context
        end = None if last == frames else (ready - first) * hop  # at its end the model may give more than `hop` a frame
        yield waveform[:, (done - first) * hop : end]
        done = ready
