"""A spectrogram as a picture: for those who cannot listen. All pictures have one scale, so that two can be compared."""

import io
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.errors import MissingDependencyError
from runtime.install import install_command
from runtime.sound.mel import hz_to_mel, mel_to_hz
from runtime.sound.title import fitted_title
from runtime.sound.whole_file import write_whole

logger = logging.getLogger(__name__)

Levels = npt.NDArray[np.float64]

MEL_BANDS, WINDOW_S, MOST_COLUMNS = 256, 0.064, 1500
FINER = 4  # bins of the transform within one of the window's: each mel band has some of its own, down to the lowest
LOWEST_DBFS = -100.0
COLUMNS_AT_ONCE = 128  # a few megabytes, however long the audio
TICKS_HZ = (0, 250, 500, 1000, 2000, 4000, 8000, 16000)


def check_plot() -> None:
    """Raise MissingDependencyError unless pictures can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"matplotlib is not installed: {install_command('plot')}") from error


def try_plot(audio: npt.NDArray[np.float32], sample_rate_hz: int, path: Path, title: str = "") -> Path | None:
    """Draw as `plot_spectrogram` does; returns the path, or None where that failed, with a warning.

    For a picture beside a sound that is already written: nothing that goes wrong here is worth an error.
    """
    try:
        plot_spectrogram(audio, sample_rate_hz, path, title)
    except Exception as error:  # matplotlib's fonts, caches and backends fail in their own ways
        logger.warning("the spectrogram was not drawn: %s", " ".join(str(error).split()) or type(error).__name__)
        return None
    return path


def plot_spectrogram(audio: npt.NDArray[np.float32], sample_rate_hz: int, path: Path, title: str = "") -> None:
    """Write the spectrogram of a waveform, shape (samples,) in [-1, 1], to `path` as PNG, whole or not at all.

    Colours are levels in dBFS from -100 to 0, where 0 is a sine of full scale. Characters of the title that no
    installed font has are drawn as a square. Raises MissingDependencyError without matplotlib and InputError if the
    file cannot be written.
    """
    check_plot()
    from matplotlib.figure import Figure  # not pyplot: no display, and no state that others share

    nyquist_hz = sample_rate_hz / 2
    low, high = hz_to_mel(np.asarray([0.0, nyquist_hz]))
    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        mel_levels_dbfs(audio, sample_rate_hz),
        origin="lower",
        aspect="auto",
        extent=(0, max(len(audio), 1) / sample_rate_hz, low, high),
        cmap="magma",
        vmin=LOWEST_DBFS,
        vmax=0.0,
        interpolation="bilinear",
    )
    ticks = [hz for hz in TICKS_HZ if hz <= nyquist_hz]
    axes.set_yticks(
        hz_to_mel(np.asarray(ticks, float)), [f"{hz / 1000:g} k" if hz >= 1000 else f"{hz}" for hz in ticks]
    )
    axes.set_xlabel("seconds")
    axes.set_ylabel("Hz (mel scale)")
    text, families = fitted_title(title)
    axes.set_title(text, loc="left", fontfamily=families, parse_math=False)  # a "$" is a dollar
    figure.colorbar(image, ax=axes, label="dBFS", pad=0.01)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_whole(path, picture.getvalue())


def mel_levels_dbfs(audio: npt.NDArray[np.float32], sample_rate_hz: int) -> Levels:
    """The level of the loudest component in each mel band over time: (samples,) to (MEL_BANDS, columns), in dBFS.

    A sine of full scale is at 0 dBFS whatever its pitch. A band's mean would depend on how many bins of the transform
    fall into it, which draws stripes where bands are narrow. There are at most `MOST_COLUMNS` columns; those of long
    audio are the loudest of what they stand for.
    """
    window = np.hanning(round(WINDOW_S * sample_rate_hz))
    size = FINER * len(window)
    frames = _frames(np.asarray(audio, np.float64), len(window))
    nyquist_hz = sample_rate_hz / 2
    edges_hz = mel_to_hz(np.linspace(0.0, hz_to_mel(np.asarray([nyquist_hz]))[0], MEL_BANDS + 1))
    firsts = np.ceil(edges_hz[:-1] / nyquist_hz * (size // 2)).astype(int)  # each band's first bin
    pieces = [
        np.maximum.reduceat(np.abs(np.fft.rfft(frames[start : start + COLUMNS_AT_ONCE] * window, size)), firsts, axis=1)
        for start in range(0, len(frames), COLUMNS_AT_ONCE)
    ]
    amplitudes = np.concatenate(pieces) * (2 / window.sum())  # (frames, bands)
    together = -(-len(amplitudes) // MOST_COLUMNS)
    columns = np.maximum.reduceat(amplitudes, np.arange(0, len(amplitudes), together), axis=0)
    levels: Levels = 20 * np.log10(np.maximum(columns, 1e-10)).T
    return levels


def _frames(audio: Levels, window: int) -> Levels:
    """Views of the audio, (frames, window), that miss no sample: an eighth of a window apart, half for long audio."""
    hop = min(max(window // 8, -(-len(audio) // MOST_COLUMNS)), window // 2)
    padded = np.pad(audio, window // 2)
    return np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
