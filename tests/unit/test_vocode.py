"""Windows against the whole, over a vocoder whose every frame of context weighs as much as the middle."""

from collections.abc import Mapping

import msgspec
import numpy as np
import pytest

from export.parity import relative_error
from runtime.backends.engine import Array
from runtime.backends.fake import FakeEngine
from runtime.backends.specs import TensorSpec
from runtime.bundle.manifest import AudioSpec
from runtime.errors import EngineError, NumericsError
from runtime.sound.vocode import vocode
from tests.unit.helpers import AUDIO, raises_line

EXTRA = 32  # samples beyond `hop` a frame, as the published vocoder has them


def make_vocoder(audio: AudioSpec, lengths: list[int] | None = None) -> FakeEngine:
    """A zero-padded moving sum over `context` frames on either side, held for `hop` samples."""
    context = audio.vocoder_context_frames

    def run(mel: Array) -> Mapping[str, Array]:
        if lengths is not None:
            lengths.append(mel.shape[1])
        padded = np.pad(mel.sum(axis=2), ((0, 0), (context, context)))
        sums = np.lib.stride_tricks.sliding_window_view(padded, 2 * context + 1, axis=1).sum(axis=2)  # (rows, frames)
        held = np.repeat(sums, audio.hop_samples, axis=1)
        return {"waveform": np.concatenate([held, held[:, -1:] + np.arange(EXTRA)], axis=1).astype(np.float32)}

    mel = TensorSpec(dtype="float32", axes=("b", "f", "m"), min_shape=(1, 1, 64), max_shape=(None, None, 64))
    waveform = TensorSpec(dtype="float32", axes=("b", "s"), min_shape=(1, 1), max_shape=(None, None))
    return FakeEngine("vocoder", {"mel": mel}, {"waveform": waveform}, run)


CONTEXT, WINDOW_FRAMES = AUDIO.vocoder_context_frames, AUDIO.vocoder_window_frames


@pytest.mark.parametrize(
    "frames",
    [1, 10, CONTEXT, WINDOW_FRAMES - 1]
    + [WINDOW_FRAMES + extra for extra in (0, 1, CONTEXT - 1, CONTEXT, CONTEXT + 1)]
    + [WINDOW_FRAMES + 2 * CONTEXT + extra for extra in (-1, 0, 1)]
    + [2 * WINDOW_FRAMES - 1, 2 * WINDOW_FRAMES, 2 * WINDOW_FRAMES + 1, 3 * WINDOW_FRAMES + 500],
)
def test_windows_equal_the_whole(frames: int) -> None:
    lengths: list[int] = []
    mel = np.random.default_rng().standard_normal((2, frames, 64), np.float32)
    whole = make_vocoder(AUDIO).run({"mel": mel})["waveform"].copy()
    windows = vocode(make_vocoder(AUDIO, lengths), mel, AUDIO)
    assert relative_error(windows, whole) <= 1e-6
    longest = WINDOW_FRAMES + 2 * CONTEXT
    assert set(lengths) == {min(frames, longest)}  # one shape, so that a backend compiles one program
    assert len(lengths) <= -(-frames // WINDOW_FRAMES)


@pytest.mark.parametrize("hop", [1, 80, 159, 161, 320])
def test_a_vocoder_of_another_hop_is_found(hop: int) -> None:
    """Else a sound of the wrong speed would be cut to the right length, or a short one returned."""
    mel = np.random.default_rng().standard_normal((1, 200, 64), np.float32)
    other = msgspec.structs.replace(AUDIO, hop_samples=hop)
    with raises_line(
        EngineError, "vocoder", f"{200 * AUDIO.hop_samples + EXTRA} samples of 200 frames", f"{hop} a frame"
    ):
        vocode(make_vocoder(AUDIO), mel, other)


def test_a_window_that_fails_is_named() -> None:
    mel = np.zeros((1, 2 * WINDOW_FRAMES, 64), np.float32)
    mel[0, -1] = np.nan
    with pytest.raises(NumericsError, match="vocoder"):
        vocode(make_vocoder(AUDIO), mel, AUDIO)
