import io
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from runtime.errors import InputError
from runtime.sound.files import check_output, picture_beside, write_audio
from tests.unit.helpers import raises_line

RATE_HZ = 16_000
PCM_STEP = 1 / 32_768


def audible(peak: float = 0.8, samples: int = 4_000) -> np.ndarray:
    noise = np.random.default_rng().standard_normal(samples).astype(np.float32)
    return noise * np.float32(peak / np.abs(noise).max())


def read(path: Path) -> np.ndarray:
    samples, rate_hz = soundfile.read(io.BytesIO(path.read_bytes()), dtype="float32")  # it takes no bytes as a name
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
        ("a.FLAC", False, "FLAC", "PCM_16", PCM_STEP),
        ("two words.and dots.wav", False, "WAV", "PCM_16", PCM_STEP),
        ("line\nend and \udcff no text.wav", False, "WAV", "PCM_16", PCM_STEP),
        ("~.wav", False, "WAV", "PCM_16", PCM_STEP),
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
    info = soundfile.info(io.BytesIO((tmp_path / name).read_bytes()))
    assert (info.format, info.subtype, info.channels) == (format_, subtype, 1)
    np.testing.assert_allclose(read(tmp_path / name), waveform, rtol=0, atol=tolerance)
    assert warnings(caplog) == []
    assert [path.name for path in tmp_path.iterdir()] == [name]


def tones(seconds: float) -> np.ndarray:
    """Two tones of random pitch: what a lossy format keeps."""
    rng = np.random.default_rng()
    at = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    first, second = (0.3 * np.sin(2 * np.pi * rng.uniform(200, 3000) * at + rng.uniform(0, 6)) for _ in range(2))
    return (first + second).astype(np.float32)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


LOSSY = [("a.ogg", "OGG", "VORBIS"), ("a.Opus", "OGG", "OPUS"), ("a.mp3", "MP3", "MPEG_LAYER_III")]


@pytest.mark.parametrize(("name", "format_", "subtype"), LOSSY)
@pytest.mark.parametrize("seconds", [0.005, 2.56])
def test_lossy_formats_keep_length_and_sound(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, format_: str, subtype: str, seconds: float
) -> None:
    waveform = tones(seconds)
    write_audio(tmp_path / name, waveform, RATE_HZ)
    info = soundfile.info(tmp_path / name)
    assert (info.format, info.subtype, info.channels) == (format_, subtype, 1)
    found = read(tmp_path / name)
    assert len(found) == len(waveform)
    if seconds > 1:
        assert relative_error(found, waveform) < 0.3  # 0.2 at most of 180 draws; another sound is off by 1 and more
    assert warnings(caplog) == []
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_many_minutes_of_vorbis_do_not_crash_the_library(tmp_path: Path) -> None:
    """In a process of its own: libsndfile 1.2.2 overflows its stack when it is given all samples at once."""
    program = (
        "import sys, numpy as np; from pathlib import Path; from runtime.sound.files import write_audio;"
        "write_audio(Path(sys.argv[1]), np.random.default_rng().normal(0, 0.1, 3_000_000).astype(np.float32), 16_000)"
    )
    run = subprocess.run([sys.executable, "-c", program, tmp_path / "long.ogg"], timeout=300)
    assert run.returncode == 0
    assert soundfile.info(tmp_path / "long.ogg").frames == 3_000_000


@pytest.mark.parametrize("name", ["a.opus", "a.mp3"])
def test_a_rate_that_the_format_lacks_is_known_before_the_work(tmp_path: Path, name: str) -> None:
    check_output(tmp_path / name, sample_rate_hz=RATE_HZ)
    with raises_line(InputError, name, "17000 Hz", "only supports sample rates of 8000"):
        check_output(tmp_path / name, sample_rate_hz=17_000)
    with raises_line(InputError, name, "17000 Hz"):
        write_audio(tmp_path / name, tones(0.1), 17_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lacks", ["container", "codec"])
def test_a_library_without_the_format_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str) -> None:
    if lacks == "container":  # libsndfile before 1.1
        formats = {name: text for name, text in soundfile.available_formats().items() if name != "MP3"}
        monkeypatch.setattr(soundfile, "available_formats", lambda: formats)
    else:
        monkeypatch.setattr(soundfile, "available_subtypes", lambda container: {"PCM_16": "Signed 16 bit PCM"})
    with raises_line(InputError, "a.mp3", "libsndfile", ".wav or .flac"):
        check_output(tmp_path / "a.mp3")
    check_output(tmp_path / "a.wav")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("as_float", [False, True])
def test_no_number_is_not_written(tmp_path: Path, bad: float, as_float: bool) -> None:
    waveform = audible()
    waveform[np.random.default_rng().integers(len(waveform))] = bad
    with raises_line(InputError, "a.wav", "NaN or Inf"):
        write_audio(tmp_path / "a.wav", waveform, RATE_HZ, as_float=as_float)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("as_float", "subtype"), [(False, "PCM_16"), (True, "FLOAT")])
def test_standard_output_gets_a_whole_wav(
    capfdbinary: pytest.CaptureFixture[bytes], as_float: bool, subtype: str
) -> None:
    waveform = audible(samples=100_000)  # more than a pipe or a buffer holds
    check_output("-", as_float=as_float)
    write_audio("-", waveform, RATE_HZ, as_float=as_float)
    data, words = capfdbinary.readouterr()
    info = soundfile.info(io.BytesIO(data))
    assert (info.format, info.subtype, info.frames, info.samplerate) == ("WAV", subtype, 100_000, RATE_HZ)
    assert int.from_bytes(data[4:8], "little") == len(data) - 8  # the size that a reader of a stream goes by
    found = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    np.testing.assert_allclose(found, waveform, rtol=0, atol=0.0 if as_float else PCM_STEP)
    assert words == b""


PIPED = (
    "import sys, numpy as np; from runtime.sound.files import write_audio; from runtime.errors import InputError\n"
    "try: write_audio('-', np.random.default_rng().normal(0, 0.1, 100_000).astype(np.float32), 16_000)\n"
    "except InputError as error: print(error, file=sys.stderr); sys.exit(1)\n"
)


@pytest.mark.parametrize(
    ("redirect", "reason"),
    [("| head -c 10 > /dev/null", "broken pipe"), (">&-", "is closed"), ("> /dev/full", "no space left on device")],
)
def test_standard_output_that_takes_nothing_is_one_line(redirect: str, reason: str) -> None:
    shell = f'set -o pipefail; "$0" -c "$1" {redirect}'
    run = subprocess.run(["bash", "-c", shell, sys.executable, PIPED], capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()  # none from the interpreter's end either
    assert line.startswith("standard output")
    assert reason in line


def test_a_terminal_gets_no_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with raises_line(InputError, "terminal"):
        check_output("-")


def test_a_pictures_name_is_the_sounds() -> None:
    assert picture_beside("out/rain.opus") == Path("out/rain.png")
    assert picture_beside(Path("two words.1.wav")) == Path("two words.1.png")
    with raises_line(InputError, "--plot", "--output -"):
        picture_beside("-")


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
        ("a.aiff", False, ".wav, .flac, .ogg, .opus or .mp3"),
        ("a", False, "the extension must be"),
        (".wav", False, "the extension must be"),
        ("a.wav.", False, "the extension must be"),
        ("-", False, "the extension must be"),  # as a Path: a file of this name
        ("a.flac", True, "floating point"),
        ("a.OGG", True, "floating point"),
        ("a.opus", True, "floating point"),
        ("a.mp3", True, "floating point"),
        ("missing/a.wav", False, "does not exist"),
        ("folder.wav", False, "is a folder"),
        ("half\nline/a.wav", False, "half\\nline"),
    ],
)
def test_impossible_output(tmp_path: Path, name: str, as_float: bool, fragment: str) -> None:
    (tmp_path / "folder.wav").mkdir()
    before = sorted(tmp_path.rglob("*"))
    path = Path(name) if name == "-" else tmp_path / name
    with raises_line(InputError, "output", fragment):
        check_output(path, as_float=as_float)
    with raises_line(InputError, "output", fragment):
        write_audio(path, audible(), RATE_HZ, as_float=as_float)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["", "a.wav/", "a.wav/.", "folder/"])
def test_a_string_that_names_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with raises_line(InputError, f"output '{name}' is not the name of a file"):
        check_output(name)
