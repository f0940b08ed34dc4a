"""The picture shows the sound: frequencies, times, silence; and says early what it lacks."""

import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import MissingDependencyError
from runtime.install import install_command
from runtime.sound.mel import hz_to_mel
from runtime.sound.plot import MEL_BINS, MOST_COLUMNS, check_plot, mel_levels_db, plot_spectrogram
from tests.unit.helpers import raises_line

RATE_HZ = 16_000


def chirp(seconds: float, from_hz: float, to_hz: float) -> np.ndarray:
    at = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    sound: np.ndarray = 0.5 * np.sin(2 * np.pi * (from_hz + (to_hz - from_hz) * at / (2 * seconds)) * at)
    return sound.astype(np.float32)


def test_a_rising_chirp_rises_at_its_frequencies() -> None:
    rng = np.random.default_rng()
    low, high = rng.uniform(300, 900), rng.uniform(3000, 6000)
    levels = mel_levels_db(chirp(2.0, low, high), RATE_HZ)
    at = (np.arange(levels.shape[1]) + 0.5) / levels.shape[1]
    inner = slice(levels.shape[1] // 10, -levels.shape[1] // 10)
    expected = hz_to_mel(low + (high - low) * at) / hz_to_mel(np.asarray([RATE_HZ / 2])) * MEL_BINS
    np.testing.assert_allclose(levels.argmax(axis=0)[inner], expected[inner], atol=2.0)


@pytest.mark.parametrize("seconds", [0.05, 1.0, 200.0])
def test_any_length_is_a_picture_of_modest_size(seconds: float, tmp_path: Path) -> None:
    sound = np.random.default_rng().normal(0, 0.1, round(seconds * RATE_HZ)).astype(np.float32)
    assert mel_levels_db(sound, RATE_HZ).shape[1] <= MOST_COLUMNS + 2
    plot_spectrogram(sound, RATE_HZ, tmp_path / "noise.png", "noise " * 50)
    assert (tmp_path / "noise.png").read_bytes().startswith(b"\x89PNG")


def test_silence_is_drawn_without_a_warning(tmp_path: Path) -> None:
    plot_spectrogram(np.zeros(RATE_HZ, np.float32), RATE_HZ, tmp_path / "silence.png")
    assert (tmp_path / "silence.png").stat().st_size > 1000


def test_the_axes_are_seconds_and_hertz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    plot_spectrogram(chirp(3.0, 100, 1000), RATE_HZ, tmp_path / "x.png", "a rising chirp")
    axes = drawn[0].axes[0]
    assert axes.get_xlim() == (0, 3.0)
    assert axes.get_title(loc="left") == "a rising chirp"
    np.testing.assert_allclose(axes.get_ylim(), hz_to_mel(np.asarray([0.0, RATE_HZ / 2])))
    np.testing.assert_allclose(axes.get_yticks(), hz_to_mel(np.asarray([0.0, 250, 500, 1000, 2000, 4000, 8000])))


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with raises_line(MissingDependencyError, f"matplotlib is not installed: {install_command('plot')}"):
        check_plot()
