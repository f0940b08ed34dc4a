"""A spectrogram as a picture: for those who cannot listen."""

import textwrap
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.errors import MissingDependencyError
from runtime.install import install_command
from runtime.sound.mel import hz_to_mel, mel_filters

MEL_BINS, WINDOW_S, MOST_COLUMNS = 128, 0.064, 1500
RANGE_DB = 80.0  # below the loudest point
TICKS_HZ = (0, 250, 500, 1000, 2000, 4000, 8000, 16000)


def check_plot() -> None:
    """Raise MissingDependencyError unless pictures can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"matplotlib is not installed: {install_command('plot')}") from error


def plot_spectrogram(audio: npt.NDArray[np.float32], sample_rate_hz: int, path: Path, title: str = "") -> None:
    """Write the log-mel spectrogram of a waveform, (samples,) in [-1, 1], to `path` as PNG.

    Raises MissingDependencyError without matplotlib.
    """
    check_plot()
    from matplotlib.figure import Figure  # not pyplot: no display, and no state that others share

    levels = mel_levels_db(audio, sample_rate_hz)
    nyquist = sample_rate_hz / 2
    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    low, high = hz_to_mel(np.asarray([0.0, nyquist]))
    top = float(levels.max())
    image = axes.imshow(
        levels,
        origin="lower",
        aspect="auto",
        extent=(0, len(audio) / sample_rate_hz, low, high),
        cmap="magma",
        vmin=top - RANGE_DB,
        vmax=top,
        interpolation="nearest",
    )
    ticks = [hz for hz in TICKS_HZ if hz <= nyquist]
    axes.set_yticks(
        hz_to_mel(np.asarray(ticks, float)), [f"{hz / 1000:g} k" if hz >= 1000 else f"{hz}" for hz in ticks]
    )
    axes.set_xlabel("seconds")
    axes.set_ylabel("Hz (mel scale)")
    axes.set_title(textwrap.shorten(title, 90, placeholder=" ..."), loc="left")
    figure.colorbar(image, ax=axes, label="dB", pad=0.01)
    figure.savefig(path, format="png")


def mel_levels_db(audio: npt.NDArray[np.float32], sample_rate_hz: int) -> npt.NDArray[np.float64]:
    """(samples,) to the mean power in each mel band, (MEL_BINS, columns) in dB; at most about `MOST_COLUMNS`."""
    window = round(WINDOW_S * sample_rate_hz) // 2 * 2
    hop = max(window // 8, -(-len(audio) // MOST_COLUMNS))
    padded = np.pad(np.asarray(audio, np.float64), window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window))) ** 2
    filters = mel_filters(sample_rate_hz, window, MEL_BINS, 0.0, sample_rate_hz / 2)
    levels: npt.NDArray[np.float64] = 10 * np.log10(np.maximum(power @ filters, 1e-10)).T
    return levels
