"""Another sample rate for one waveform."""

import numpy as np
import numpy.typing as npt
import soxr

Floats = npt.NDArray[np.float32]


def resample(audio: Floats, from_hz: int, to_hz: int) -> Floats:
    """Resample one waveform, (samples,), without aliasing, at soxr's HQ setting as `librosa.resample` does.

    The new length is rounded up. Nothing is added above half of the lower rate: what was not there is not there.
    """
    if from_hz == to_hz:
        return audio
    wanted = -(-len(audio) * to_hz // from_hz)
    resampled = soxr.resample(audio, from_hz, to_hz, quality="HQ")[:wanted]
    return np.pad(resampled, (0, wanted - len(resampled)))
