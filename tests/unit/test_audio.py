import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from runtime.errors import InputError
from runtime.sound.files import check_output, write_audio
from tests.unit.helpers import raises_line

RATE_HZ = 16_000
PCM_STEP = 1 / 32_768


def audible(peak: float = 0.8, samples: int = 4_000) -> np.ndarray:
    noise = np.random.default_rng().standard_normal(samples).astype(np.float32)
    return noise * np.float32(peak / np.abs(noise).max())


def read(path: Path) -> np.ndarray:
    samples, rate_hz = soundfile.read(path, dtype="float32")
    assert rate_hz == RATE_HZ
    return np.asarray(samples)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("name", "as_float", "format_", "subtype", "tolerance"),
    [
        ("a.wav", False, "WAV", "PCM_16", PCM_STEP),
        ("a.WAV", False, "WAV", "PCM_16", PCM_STEP),
        ("a.wav", True, "WAV", "FLOAT", 0.0),
        ("a.flac", False, "FLAC", "PCM_16", PCM_STEP),
        ("." + "n" * 245 + ".wav", False, "WAV", "PCM_16", PCM_STEP),
    ],
)
def test_round_trip(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    as_float: bool,
    format_: str,
    subtype: str,
    tolerance: float,
) -> None:
    waveform = audible()
    write_audio(tmp_path / name, waveform, RATE_HZ, as_float=as_float)
    info = soundfile.info(tmp_path / name)
    assert (info.format, info.subtype, info.channels) == (format_, subtype, 1)
    np.testing.assert_allclose(read(tmp_path / name), waveform, rtol=0, atol=tolerance)
    assert warnings(caplog) == []
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_file_has_the_users_permissions(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", audible(), RATE_HZ)
    (tmp_path / "other").touch()
    assert (tmp_path / "a.wav").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
@pytest.mark.parametrize("sign", [1, -1])
def test_loud_audio_is_scaled_not_clipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, sign: int
) -> None:
    waveform = audible(peak=0.9)
    waveform[7] = 2.5 * sign
    before = waveform.copy()
    write_audio(tmp_path / name, waveform, RATE_HZ)
    np.testing.assert_allclose(read(tmp_path / name), waveform / 2.5, rtol=0, atol=PCM_STEP)
    np.testing.assert_array_equal(waveform, before)
    (line,) = warnings(caplog)
    assert "2.50" in line
    assert "0.400" in line


def test_float_keeps_what_is_loud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    waveform = audible(peak=2.5)
    write_audio(tmp_path / "a.wav", waveform, RATE_HZ, as_float=True)
    np.testing.assert_array_equal(read(tmp_path / "a.wav"), waveform)
    assert warnings(caplog) == []


def test_full_scale_is_not_loud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_audio(tmp_path / "a.wav", audible(peak=1.0), RATE_HZ)
    assert warnings(caplog) == []


@pytest.mark.parametrize("as_float", [False, True])
@pytest.mark.parametrize("peak", [0.0, 5e-5])
def test_silence_is_reported_and_not_amplified(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, peak: float, as_float: bool
) -> None:
    waveform = audible(peak) if peak else np.zeros(4_000, np.float32)
    write_audio(tmp_path / "a.wav", waveform, RATE_HZ, as_float=as_float)
    (line,) = warnings(caplog)
    assert "silent" in line
    np.testing.assert_allclose(read(tmp_path / "a.wav"), waveform, rtol=0, atol=PCM_STEP)


def test_quiet_is_not_silent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_audio(tmp_path / "a.wav", audible(peak=2e-4), RATE_HZ)
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("name", "as_float", "fragment"),
    [
        ("a.mp3", False, ".wav or .flac"),
        ("a", False, ".wav or .flac"),
        (".wav", False, ".wav or .flac"),
        ("a.flac", True, "floating point"),
        ("missing/a.wav", False, "does not exist"),
        ("file/a.wav", False, "does not exist"),
        ("folder.wav", False, "is a folder"),
        ("n" * 300 + ".wav", False, "cannot be used"),
        ("nul\0byte.wav", False, "cannot be used"),
    ],
)
def test_impossible_output(tmp_path: Path, name: str, as_float: bool, fragment: str) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder.wav").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with raises_line(InputError, "output", fragment):
        write_audio(tmp_path / name, audible(), RATE_HZ, as_float=as_float)
    assert sorted(tmp_path.rglob("*")) == before


def test_folder_that_takes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkstemp(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", mkstemp)
    with raises_line(InputError, str(tmp_path / "a.wav"), "could not be written", "Read-only"):
        write_audio(tmp_path / "a.wav", audible(), RATE_HZ)


@pytest.mark.parametrize("denied", ["folder", "file"])
def test_output_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"earlier")
    refused = tmp_path if denied == "folder" else path
    monkeypatch.setattr("os.access", lambda asked, _: asked != refused)  # the superuser is never denied
    with raises_line(InputError, str(path), "not writable"):
        check_output(path)


@pytest.mark.parametrize(
    "failure",
    [OSError(28, "No space left on device"), soundfile.LibsndfileError(2, "while writing: "), KeyboardInterrupt()],
    ids=["disk full", "libsndfile", "interrupt"],
)
@pytest.mark.parametrize("earlier", [None, b"earlier"])
def test_failure_midway_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, earlier: bytes | None
) -> None:
    path = tmp_path / "a.wav"
    if earlier is not None:
        path.write_bytes(earlier)

    def write(partial: str, *_: object, **__: object) -> None:
        Path(partial).write_bytes(b"RIFF half")
        raise failure

    monkeypatch.setattr(soundfile, "write", write)
    if isinstance(failure, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            write_audio(path, audible(), RATE_HZ)
    else:
        with raises_line(InputError, str(path), "could not be written"):
            write_audio(path, audible(), RATE_HZ)
    left = {found.name: found.read_bytes() for found in tmp_path.iterdir()}
    assert left == ({} if earlier is None else {"a.wav": earlier})


def test_earlier_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"earlier")
    waveform = audible()
    write_audio(tmp_path / "a.wav", waveform, RATE_HZ)
    np.testing.assert_allclose(read(tmp_path / "a.wav"), waveform, rtol=0, atol=PCM_STEP)
