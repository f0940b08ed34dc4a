"""The vocoder in windows: any length at bounded memory, the same samples as one run over the whole."""

import numpy as np

from runtime.backends.device import Array, Device, HostDevice
from runtime.backends.engine import Engine
from runtime.bundle.manifest import AudioSpec
from runtime.errors import EngineError


def vocode(vocoder: Engine, mel: Array, audio: AudioSpec, device: Device | None = None) -> Array:
    """Mel (rows, frames, mel_bins) to waveforms (rows, samples).

    Each window is run with the neighbouring frames that its samples depend on, and only its own samples are kept. The
    first and the last window end where the mel ends, so that the model pads with zeros there and nowhere else. Raises
    EngineError if the vocoder makes another number of samples than its frames have.
    """
    device = device or HostDevice()
    frames, hop, context = mel.shape[1], audio.hop_samples, audio.vocoder_context_frames
    pieces = []
    for start in range(0, frames, audio.vocoder_window_frames):
        stop = min(start + audio.vocoder_window_frames, frames)
        first, last = max(start - context, 0), min(stop + context, frames)
        window = mel[:, first:last].copy()
        waveform = device.watch("vocoder", vocoder.run({"mel": window})["waveform"])
        if not 0 <= waveform.shape[1] - window.shape[1] * hop < hop:
            raise EngineError(
                f"vocoder made {waveform.shape[1]} samples of {window.shape[1]} frames: the manifest says {hop} a frame"
            )
        end = None if stop == frames else (stop - first) * hop  # the last one may give more than `hop` a frame
        pieces.append(waveform[:, (start - first) * hop : end].copy())  # the engine reuses its output
    return np.concatenate(pieces, axis=1)
