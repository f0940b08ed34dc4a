"""The vocoder in windows: any length at bounded memory, the same samples as one run over the whole."""

import numpy as np

from runtime.backends.device import Array, Device, HostDevice
from runtime.backends.engine import Engine
from runtime.bundle.manifest import AudioSpec

WINDOW_FRAMES = 1024  # 10.24 s of the published checkpoints: see bench/LOG.md for what other lengths cost


def vocode(vocoder: Engine, mel: Array, audio: AudioSpec, device: Device | None = None) -> Array:
    """Mel (rows, frames, mel_bins) to waveforms (rows, samples).

    Every sample depends on its frame and on `context` frames on either side of it. A mel that is longer than a window
    with that context is run in windows of one length, so that a backend compiles one shape: each keeps the samples that
    it has the context for, and the last one is moved back until it ends with the mel. So the model pads with zeros
    where the mel begins and ends, and nowhere else.
    """
    device = device or HostDevice()
    frames, hop, context = mel.shape[1], audio.hop_samples, audio.vocoder_context_frames
    length = min(frames, WINDOW_FRAMES + 2 * context)
    pieces, done = [], 0  # `done` counts the frames whose samples there are
    while done < frames:
        first = min(max(done - context, 0), frames - length)
        last = first + length
        waveform = device.watch("vocoder", vocoder.run({"mel": mel[:, first:last].copy()})["waveform"])
        ready = frames if last == frames else last - context
        end = None if last == frames else (ready - first) * hop  # at its end the model may give more than `hop` a frame
        pieces.append(waveform[:, (done - first) * hop : end])
        done = ready
    return np.concatenate(pieces, axis=1)
