"""A sound that is sent to the service in a form, and what comes back."""

import base64
import io
import json
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from runtime import AudioLDM2Pipeline
from runtime.sound.finish import Finish
from runtime.sound.saving import Sound
from tests.cli.serving import Server, samples, serving

RATE = 16_000
FEW = {"input": "rain", "num_inference_steps": "4", "seed": "5"}


@pytest.fixture(scope="module")
def server(bundle: Callable[[str], Path]) -> Iterator[Server]:
    with serving(bundle("plain"), "--warm-up", "0.64", "--max-duration", "3", "--max-steps", "20") as running:
        yield running


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    rng = np.random.default_rng()
    tone = np.sin(2 * np.pi * rng.uniform(200, 2000) * np.arange(int(1.2 * RATE)) / RATE)
    return (0.3 * tone + 0.05 * rng.standard_normal(len(tone))).astype(np.float32)


def file_of(wave: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = "FLOAT") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def ask(
    server: Server, sound: bytes | None, *more: tuple[str, str], headers: dict[str, str] | None = None, **fields: str
) -> tuple[int, dict[str, str], bytes]:
    """Send a form as a browser does."""
    edge, parts = uuid.uuid4().hex, []
    for name, value in (*fields.items(), *more):
        parts.append(f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    if sound is not None:
        head = f'--{edge}\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n'
        parts.append(head.encode() + b"Content-Type: audio/wav\r\n\r\n" + sound + b"\r\n")
    body = b"".join(parts) + f"--{edge}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    return server.ask("POST", "/v1/audio/edit", body, kind | (headers or {}))


@pytest.mark.parametrize("kind", ["wav", "pcm", "flac", "mp3", "opus"])
def test_it_is_finished_as_the_program_finishes_it(
    kind: str, server: Server, wave: np.ndarray, bundle: Callable[[str], Path]
) -> None:
    rate = 48_000
    finish = {"fade": "[0.1, 0.3]", "loudness": "-30", "sample_rate": str(rate)}
    status, headers, body = ask(server, file_of(wave), **FEW, **finish, strength="0.5", response_format=kind)
    assert (status, headers.get("x-sample-rate")) == (200, str(rate)), body
    made = AudioLDM2Pipeline.from_pretrained(bundle("plain"))(
        "rain", audio=wave, sampling_rate=RATE, num_inference_steps=4, seed=5, strength=0.5
    )
    wanted = Finish((0.1, 0.3), -30.0, rate)(Sound(made.audios[0], RATE)).waveform
    if kind in ("wav", "pcm"):
        found = samples(body) if kind == "wav" else np.frombuffer(body, "<i2")
        assert np.abs(found - wanted * 32767).max() < 3
        return
    found, read_rate = soundfile.read(io.BytesIO(body), dtype="float32")
    assert read_rate == rate
    assert abs(len(found) - len(wanted)) < 5000  # a lossy format has whole blocks


def test_several_are_finished_each(server: Server) -> None:
    fields = {"input": "rain", "num_inference_steps": 2, "audio_length": 0.64, "num_waveforms_per_prompt": 2}
    body = json.dumps(fields | {"sample_rate": 8000, "fade": 0.1}).encode()
    for accept, stream in (("application/json", None), ("application/json", "sse"), ("application/zip", None)):
        own = body if stream is None else json.dumps(json.loads(body) | {"stream_format": stream}).encode()
        status, headers, answer = server.ask("POST", "/v1/audio/generate", own, {"Accept": accept})
        assert (status, headers["x-sample-rate"]) == (200, "8000"), answer
        if accept == "application/zip":
            with zipfile.ZipFile(io.BytesIO(answer)) as archive:
                sounds = [samples(archive.read(name)) for name in archive.namelist()]
        else:
            told = json.loads(answer.decode().split("data: ")[-1]) if stream else json.loads(answer)
            assert told["sampling_rate"] == 8000
            assert told["duration"] == pytest.approx(0.64)
            sounds = [samples(base64.b64decode(each["b64_json"])) for each in told["data"]]
        assert [len(sound) for sound in sounds] == [5120, 5120]
        for sound in sounds:
            assert max(abs(int(sound[0])), abs(int(sound[-1]))) < 0.01 * np.abs(sound).max()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"fade": -1}, "fade"),
        ({"fade": [0.4, 0.4]}, "fade takes 0.8 s, the sound has 0.64 s"),
        ({"loudness": 3}, "loudness"),
        ({"loudness": -20, "audio_length": 0.2}, "loudness is of 0.4 s and more"),
        ({"sample_rate": 0}, "sample_rate"),
        ({"sample_rate": 44_100, "response_format": "opus"}, "44100 Hz"),
        ({"sample_rate": 8000, "stream_format": "audio"}, "of a whole sound"),
    ],
    ids=str,
)
def test_what_cannot_be_finished(fields: dict[str, Any], words: str, server: Server) -> None:
    body = {"input": "rain", "num_inference_steps": 2, "audio_length": 0.64} | fields
    status, _, answer = server.ask("POST", "/v1/audio/generate", json.dumps(body).encode())
    message = json.loads(answer)["error"]["message"]
    assert status == 400, message
    assert words in message


@pytest.mark.parametrize(
    ("fields", "call"),
    [
        ({"strength": "0.5"}, {"strength": 0.5}),
        ({"inpaint_seconds": "[[0.3, 0.6]]"}, {"inpaint_seconds": [(0.3, 0.6)]}),
        ({"extend_s": "0.7", "inpaint_hz": "[0, 8000]"}, {"extend_s": 0.7, "inpaint_hz": (0, 8000)}),
        ({"extend_s": "[0.2, 0.4]", "scheduler": "ddim"}, {"extend_s": (0.2, 0.4)}),
        ({"loop": "true", "strength": "0.9"}, {"loop": True, "strength": 0.9}),
        ({"encoding": "sample", "window_s": "0.64"}, {"encoding": "sample", "window_s": 0.64}),
    ],
    ids=str,
)
def test_it_is_the_pipelines_own(
    fields: dict[str, str], call: dict[str, Any], server: Server, wave: np.ndarray, bundle: Callable[[str], Path]
) -> None:
    status, headers, body = ask(server, file_of(wave), **FEW, **fields)
    assert status == 200, body
    pipe = AudioLDM2Pipeline.from_pretrained(bundle("plain"))
    made = pipe("rain", audio=wave, sampling_rate=RATE, num_inference_steps=4, seed=5, **call).audios[0]
    assert float(headers["x-audio-duration"]) == pytest.approx(len(made) / RATE, abs=1e-3)
    found = samples(body)
    assert len(found) == len(made)
    scale = max(1.0, float(np.abs(made).max()))
    assert np.abs(found - made / scale * 32767).max() < 3


def test_words_in_brackets_are_words(server: Server, wave: np.ndarray) -> None:
    for words in ("[music]", '["music"]', " [0, 1"):
        status, _, body = ask(server, file_of(wave), **{**FEW, "input": words}, negative_prompt=words)
        assert status == 200, body


def test_files_of_other_kinds(server: Server, wave: np.ndarray) -> None:
    for kind, rate, subtype in (("FLAC", 44_100, "PCM_16"), ("OGG", 48_000, None), ("MP3", 32_000, None)):
        status, headers, body = ask(server, file_of(np.stack([wave, wave], 1), rate, kind, subtype), **FEW)
        assert status == 200, body
        assert float(headers["x-audio-duration"]) == pytest.approx(len(wave) / rate, abs=0.05)


def test_progress_jobs_chunks_and_several(server: Server, wave: np.ndarray) -> None:
    sound = file_of(wave)
    status, _, body = ask(server, sound, **FEW, strength="0.5", stream_format="sse")
    assert status == 200
    events = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: ")]
    assert [e["step"] for e in events if e["type"] == "audio.progress"] == [1, 2]
    assert events[-1]["type"] == "audio.done"
    status, _, whole = ask(server, sound, **FEW, strength="0.5")
    status, _, streamed = ask(server, sound, **FEW, strength="0.5", stream_format="audio")
    assert status == 200
    assert len(samples(streamed)) == len(samples(whole)) == len(wave)
    status, _, body = ask(server, sound, **FEW, headers={"Prefer": "respond-async"})
    assert (status, json.loads(body)["object"]) == (202, "job")
    status, _, body = ask(server, sound, **FEW, num_waveforms_per_prompt="2")
    assert len(json.loads(body)["data"]) == 2


@pytest.mark.parametrize(
    ("sound", "fields", "words"),
    [
        (None, {}, "audio is missing"),
        (b"", {}, "audio is missing"),
        (b"no sound", {}, "no sound file"),
        (True, {"strength": "much"}, "strength"),
        (True, {"strength": "2"}, "strength"),
        (True, {"strength": "nan"}, "strength"),
        (True, {"inpaint_seconds": "[[0.3"}, "JSON"),
        (True, {"inpaint_seconds": "[[0.5, 0.3]]"}, "start before"),
        (True, {"inpaint_seconds": "0.5"}, "form"),
        (True, {"extend_s": "9"}, "allows up to 3 s"),
        (True, {"extend_s": "1", "strength": "0.5"}, "strength has to be 1"),
        (True, {"colour": "blue"}, "colour"),
        (True, {"audio_length": "2"}, "audio has its own length"),
        (True, {"input": " "}, "blank"),
        (True, {"stream_format": "audio", "extend_s": "1"}, "stream_format"),
        (True, {"num_inference_steps": "21"}, "20"),
        (True, {"audio_url": "http://127.0.0.1/"}, "audio_url"),
    ],
    ids=str,
)
def test_what_is_refused(
    sound: bytes | bool | None, fields: dict[str, str], words: str, server: Server, wave: np.ndarray
) -> None:
    status, _, body = ask(server, file_of(wave) if sound is True else sound, **{**FEW, **fields})  # type: ignore[arg-type]
    message = json.loads(body)["error"]["message"]
    assert status == 400, message
    assert words in message
    assert "\n" not in message


def test_forms_that_are_none(server: Server, wave: np.ndarray) -> None:
    sound = file_of(wave)
    for body, kind in (
        (b"{}", "application/json"),
        (b"junk", "multipart/form-data"),
        (b"junk", "multipart/form-data; boundary=x"),
        (b"--x\r\n\r\n\r\n--x--", "multipart/form-data; boundary=x"),
    ):
        status, _, answer = server.ask("POST", "/v1/audio/edit", body, {"Content-Type": kind})
        assert status == 400, answer
        assert "\n" not in json.loads(answer)["error"]["message"]
    assert ask(server, sound, ("seed", "6"), **FEW)[0] == 400  # a field twice
    assert ask(server, sound * 500, **FEW)[0] == 413
    silent = file_of(np.zeros(16_000, np.float32))
    assert "silent" in json.loads(ask(server, silent, **FEW)[2])["error"]["message"]


def test_it_is_described(server: Server) -> None:
    described = json.loads(server.ask("GET", "/openapi.json")[2])
    content = described["paths"]["/v1/audio/edit"]["post"]["requestBody"]["content"]
    assert list(content) == ["multipart/form-data"]
    fields = described["components"]["schemas"]["Edit"]["properties"]
    assert {"audio", "strength", "inpaint_seconds", "extend_s", "input"} <= fields.keys()
    assert b"inpaint_seconds" in server.ask("GET", "/docs")[2]
    assert json.loads(server.ask("GET", "/v1/models")[2])["data"][0]["edits"] is True
