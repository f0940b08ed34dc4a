"""The vocoder in windows: any length at bounded memory, the same samples as one run over the whole."""

import numpy as np

from runtime.backends.device import Array, Device, HostDevice
from runtime.backends.engine import Engine
from runtime.bundle.manifest import AudioSpec
from runtime.errors import EngineError


def vocode(vocoder: Engine, mel: Array, audio: AudioSpec, device: Device | None = None) -> Array:
    """Mel (rows, frames, mel_bins) to waveforms (rows, samples).

    Every sample depends on its frame and on `context` frames on either side of it. A mel that is longer than a window
    with that context is run in windows of one length, so that a backend compiles one shape: each keeps the samples that
    it has the context for, and the last one is moved back until it ends with the mel. So the model pads with zeros
    where the mel begins and ends, and nowhere else. Raises EngineError if the vocoder makes another number of samples
    than its frames have.
    """
    device = device or HostDevice()
    frames, hop, context = mel.shape[1], audio.hop_samples, audio.vocoder_context_frames
    length = min(frames, audio.vocoder_window_frames + 2 * context)
    pieces, done = [], 0  # `done` counts the frames whose samples there are
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
        pieces.append(waveform[:, (done - first) * hop : end])
        done = ready
    return np.concatenate(pieces, axis=1)
