"""The picture shows the sound: frequencies, times, levels, silence. It never costs the sound."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError, MissingDependencyError
from runtime.install import install_command
from runtime.sound.mel import hz_to_mel
from runtime.sound.plot import MEL_BANDS, MOST_COLUMNS, check_plot, mel_levels_dbfs, plot_spectrogram, try_plot
from tests.unit.helpers import raises_line

RATE_HZ = 16_000


def chirp(seconds: float, from_hz: float, to_hz: float) -> np.ndarray:
    at = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    sound: np.ndarray = 0.5 * np.sin(2 * np.pi * (from_hz + (to_hz - from_hz) * at / (2 * seconds)) * at)
    return sound.astype(np.float32)


def test_a_rising_chirp_rises_at_its_frequencies() -> None:
    rng = np.random.default_rng()
    low, high = rng.uniform(300, 900), rng.uniform(3000, 6000)
    levels = mel_levels_dbfs(chirp(2.0, low, high), RATE_HZ)
    at = (np.arange(levels.shape[1]) + 0.5) / levels.shape[1]
    inner = slice(levels.shape[1] // 10, -levels.shape[1] // 10)
    expected = hz_to_mel(low + (high - low) * at) / hz_to_mel(np.asarray([RATE_HZ / 2])) * MEL_BANDS
    np.testing.assert_allclose(levels.argmax(axis=0)[inner], expected[inner], atol=2.0)


def tone(hz: float, amplitude: float = 1.0, seconds: float = 0.5, rate_hz: int = RATE_HZ) -> np.ndarray:
    at = np.arange(round(seconds * rate_hz)) / rate_hz
    phase = np.random.default_rng().uniform(0, 2 * np.pi)
    return (amplitude * np.sin(2 * np.pi * hz * at + phase)).astype(np.float32)


def middle(levels: np.ndarray) -> np.ndarray:
    """The bands of a column far from both ends."""
    column: np.ndarray = levels[:, levels.shape[1] // 2]
    return column


@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
@pytest.mark.parametrize("share", [0.006, 0.05, 0.3, 0.9])
def test_a_sine_has_its_level_at_every_pitch(share: float, rate_hz: int) -> None:
    hz = share * rate_hz / 2 * np.random.default_rng().uniform(0.95, 1.05)
    assert middle(mel_levels_dbfs(tone(hz, rate_hz=rate_hz), rate_hz)).max() == pytest.approx(0.0, abs=0.2)
    quiet = tone(hz, amplitude=0.01, rate_hz=rate_hz)
    assert middle(mel_levels_dbfs(quiet, rate_hz)).max() == pytest.approx(-40.0, abs=0.2)


def test_low_pitches_are_told_apart_by_their_own_bands() -> None:
    low, high = (middle(mel_levels_dbfs(tone(hz), RATE_HZ)) for hz in (60.0, 100.0))
    band_hz = 1000 / 15 * hz_to_mel(np.asarray([RATE_HZ / 2]))[0] / MEL_BANDS  # Slaney's scale is linear here
    assert low.argmax() == pytest.approx(60 / band_hz - 0.5, abs=1.0)
    assert high.argmax() == pytest.approx(100 / band_hz - 0.5, abs=1.0)
    assert high.argmax() - low.argmax() >= 2


def test_low_bands_are_smooth_and_none_repeats_its_neighbour() -> None:
    levels = middle(mel_levels_dbfs(tone(np.random.default_rng().uniform(80, 200)), RATE_HZ))
    lobe = levels[max(levels.argmax() - 4, 0) : levels.argmax() + 5]
    assert (np.abs(np.diff(lobe)) > 1e-6).all()  # no bin of the transform is shown twice
    noise = np.random.default_rng().normal(0, 0.1, 12 * RATE_HZ).astype(np.float32)
    bands = mel_levels_dbfs(noise, RATE_HZ).mean(axis=1)[2:-2]
    assert np.abs(np.diff(bands)).max() < 1.6  # no stripes, such as of bands that hold more bins than the next


def test_two_pictures_have_one_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    for amplitude in (1.0, 0.001, 0.0):
        plot_spectrogram(tone(440, amplitude), RATE_HZ, tmp_path / "x.png")
    assert {figure.axes[0].images[0].get_clim() for figure in drawn} == {(-100.0, 0.0)}
    assert {figure.axes[1].get_ylabel() for figure in drawn} == {"dBFS"}


def test_no_click_is_lost_in_long_audio() -> None:
    seconds = 120
    audio = np.zeros(seconds * RATE_HZ, np.float32)
    at = np.random.default_rng().integers(0, len(audio), 8)
    audio[at] = 1.0
    levels = mel_levels_dbfs(audio, RATE_HZ).max(axis=0)
    for column in at * len(levels) // len(audio):
        assert levels[max(column - 1, 0) : column + 2].max() > -70


@pytest.mark.parametrize("samples", [0, 1, 2, 100, 1023])
def test_very_short_audio_is_a_picture(samples: int, tmp_path: Path) -> None:
    sound = np.random.default_rng().normal(0, 0.1, samples).astype(np.float32)
    plot_spectrogram(sound, RATE_HZ, tmp_path / "short.png")
    assert (tmp_path / "short.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "title",
    [
        "5 $ or 6 $, $x^$, $\\frac{$ \\$ _^{}%&#~",
        "字幕と音 🎵 👩\u200d🚀 e\u0301 ب \ud83d \U000e0041\ufffe",
        "bell\x07\x00\x1b[31m a\nb\u2028c\td",
        " ",
        "字" * 200,
    ],
)
def test_any_title_is_drawn_without_a_warning(title: str, tmp_path: Path) -> None:
    plot_spectrogram(tone(440), RATE_HZ, tmp_path / "x.png", title)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("fault", ["folder in its place", "no folder", "full disk", "library"])
def test_a_picture_that_cannot_be_made_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    from matplotlib.figure import Figure

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device") if fault == "full disk" else RuntimeError("two\nlines")

    path = tmp_path / "x.png"
    if fault == "folder in its place":
        path.mkdir()
    elif fault == "no folder":
        path = tmp_path / "missing/x.png"
    else:
        monkeypatch.setattr(*(("os.fsync", fail) if fault == "full disk" else (Figure, "savefig", fail)))
    before = sorted(tmp_path.rglob("*"))
    assert try_plot(tone(440), RATE_HZ, path, "a tone") is None
    (record,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    line = record.getMessage()
    assert len(line.splitlines()) == 1
    expected = {"folder in its place": "is a folder", "no folder": "does not exist", "full disk": "no space left"}
    assert expected.get(fault, "two lines") in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_picture_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "x.png"
    assert try_plot(tone(440), RATE_HZ, path) == path
    earlier = path.read_bytes()
    monkeypatch.setattr("os.fsync", fail)
    with raises_line(InputError, "x.png", "no space left on device"):
        plot_spectrogram(tone(880), RATE_HZ, path)
    assert {found.name: found.read_bytes() for found in tmp_path.iterdir()} == {"x.png": earlier}


@pytest.mark.parametrize("seconds", [0.05, 1.0, 200.0])
def test_any_length_is_a_picture_of_modest_size(seconds: float, tmp_path: Path) -> None:
    sound = np.random.default_rng().normal(0, 0.1, round(seconds * RATE_HZ)).astype(np.float32)
    assert mel_levels_dbfs(sound, RATE_HZ).shape[1] <= MOST_COLUMNS + 2
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
