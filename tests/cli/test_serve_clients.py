"""The service as its clients see it: OpenAI's and Hugging Face's packages, streams, jobs, several waveforms."""

import base64
import io
import json
import os
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient

from runtime import AudioLDM2Pipeline
from tests.cli.serving import KEY, SHORT, Server, alone, same, samples, serving, worker_of

EXTRA: dict[str, Any] = {"num_inference_steps": 2, "audio_length": 0.64}


@pytest.fixture(scope="module")
def server(bundle: Callable[[str], Path]) -> Iterator[Server]:
    with serving(bundle("plain"), "--warm-up", "0.64", "--api-key", "another", "--api-key", KEY) as running:
        yield running
        status, error = running.stop()
        assert status == 0
        assert "Traceback" not in error


@pytest.fixture(scope="module")
def pipe(bundle: Callable[[str], Path]) -> AudioLDM2Pipeline:
    return AudioLDM2Pipeline.from_pretrained(bundle("plain"), "cpu")


def events(body: bytes) -> list[dict[str, Any]]:
    """What server-sent events hold; comments are left out."""
    parts = [part for part in body.decode().split("\n\n") if part and not part.startswith(":")]
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def pcm(body: bytes) -> np.ndarray:
    return np.frombuffer(body, "<i2").astype(np.int64)


def test_openais_client(server: Server, pipe: AudioLDM2Pipeline) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY, max_retries=0)
    more = {"extra_body": {**EXTRA, "seed": 5}}
    answer = client.audio.speech.create(model="plain", voice="alloy", input="rain", response_format="wav", **more)
    assert same(samples(answer.content), alone(pipe, "rain", 5))
    kind = client.audio.speech.with_raw_response.create(model="plain", voice="alloy", input="rain", **more)
    assert kind.headers["content-type"] == "audio/mpeg"
    with client.audio.speech.with_streaming_response.create(
        model="plain", voice="alloy", input="rain", response_format="pcm", **more
    ) as stream:
        assert same(pcm(b"".join(stream.iter_bytes())), alone(pipe, "rain", 5))
    assert [model.id for model in client.models.list()] == ["plain"]
    assert client.models.retrieve("plain").id == "plain"
    with pytest.raises(openai.NotFoundError, match="no model 'tts-1'"):
        client.audio.speech.create(model="tts-1", voice="alloy", input="rain")
    with pytest.raises(openai.BadRequestError, match="speed has to be 1"):
        client.audio.speech.create(model="plain", voice="alloy", input="rain", speed=2.0)
    wrong = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="no", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()


def test_hugging_faces_client(server: Server, pipe: AudioLDM2Pipeline) -> None:
    for address in (f"http://127.0.0.1:{server.port}/", f"http://127.0.0.1:{server.port}/models/plain"):
        client = InferenceClient(model=address, token=KEY)
        sound = client.text_to_speech("rain", extra_body={**EXTRA, "seed": 7})
        assert same(samples(sound), alone(pipe, "rain", 7))
    lost = InferenceClient(model=f"http://127.0.0.1:{server.port}/models/other", token=KEY)
    with pytest.raises(Exception, match="404"):
        lost.text_to_speech("rain")
    with pytest.raises(Exception, match="top_k"):
        client.text_to_speech("rain", top_k=5)


def test_progress_as_events(server: Server, pipe: AudioLDM2Pipeline) -> None:
    status, headers, body = server.generate(input="rain", seed=3, num_inference_steps=5, stream_format="sse")
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    *steps, done = events(body)
    assert [(each["type"], each["step"], each["steps"]) for each in steps if each["type"] == "audio.progress"] == [
        ("audio.progress", step, 5) for step in range(1, 6)
    ]
    assert (done["type"], done["sampling_rate"], done["duration"], done["model"]) == (
        "audio.done",
        16000,
        0.64,
        "plain",
    )
    assert done["request_id"] == headers["x-request-id"]
    (sound,) = done["data"]
    assert (sound["seed"], sound["score"]) == (3, None)
    assert same(samples(base64.b64decode(sound["b64_json"])), alone(pipe, "rain", 3, num_inference_steps=5))


def test_steps_of_a_scheduler_that_warms_up(server: Server) -> None:
    """PNDM calls its model more often than it has steps, and so do second-order ones."""
    for scheduler in ("PNDMScheduler", "HeunDiscreteScheduler"):
        body = server.generate(input="rain", scheduler=scheduler, num_inference_steps=4, stream_format="sse")[2]
        assert [each["step"] for each in events(body) if each["type"] == "audio.progress"] == [1, 2, 3, 4], scheduler


def test_an_error_in_a_stream(server: Server) -> None:
    body = server.generate(input="rain", stream_format="sse", num_inference_steps=150, timeout_s=0.2)[2]
    last = events(body)[-1]
    assert (last["type"], last["error"]["code"]) == ("error", "deadline_passed")
    fields = {"stream_format": "audio", "num_inference_steps": 150, "timeout_s": 0.2}
    assert server.generate(input="rain", **fields)[0] == 504  # nothing was sent yet
    assert server.generate(input="rain", stream_format="audio", response_format="mp3")[0] == 400
    assert server.generate(input="rain", stream_format="audio", num_waveforms_per_prompt=2)[0] == 400


@pytest.mark.parametrize("kind", ["wav", "pcm"])
def test_a_sound_that_is_sent_as_it_is_made(kind: str, server: Server, pipe: AudioLDM2Pipeline) -> None:
    """The first bytes come before the last are made; all together are the file that a plain answer is."""
    connection = server.connection()
    fields = {"input": "rain", "seed": 2, **SHORT, "audio_length": 20.0, "response_format": kind}
    body = json.dumps({**fields, "stream_format": "audio"}).encode()
    connection.request("POST", "/v1/audio/generate", body, {"Authorization": f"Bearer {KEY}"})
    answer = connection.getresponse()
    assert int(answer.headers["Content-Length"]) == 2 * 20 * 16000 + (44 if kind == "wav" else 0)
    first = answer.read(1000)
    first_s = time.monotonic()
    rest = answer.read()
    assert time.monotonic() - first_s > 0.02
    connection.close()
    whole = server.generate(**{**fields, "audio_length": 20.0})[2]
    found, expected = (pcm(first + rest), pcm(whole)) if kind == "pcm" else (samples(first + rest), samples(whole))
    assert same(found, expected)


def test_several_waveforms(server: Server, pipe: AudioLDM2Pipeline) -> None:
    fields = {"input": "rain", "seed": 3, "num_waveforms_per_prompt": 3}
    output = pipe("rain", seed=3, num_inference_steps=2, audio_length_in_s=0.64, num_waveforms_per_prompt=3)
    expected = [
        np.round(audio / max(1.0, float(np.abs(audio).max())) * 32767).astype(np.int64) for audio in output.audios
    ]
    status, headers, body = server.generate(**fields)
    assert (status, headers["content-type"]) == (200, "application/json")
    found = json.loads(body)["data"]
    assert [each["score"] for each in found] == pytest.approx(np.round(output.scores, 4).tolist(), abs=2e-4)
    assert [float(score) for score in headers["x-scores"].split(",")] == [each["score"] for each in found]
    for each, audio in zip(found, expected, strict=True):
        assert same(samples(base64.b64decode(each["b64_json"])), audio)
    more = {"Accept": "application/zip"}
    status, headers, body = server.ask("POST", "/v1/audio/generate", {**SHORT, **fields}, more)
    assert (status, headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.namelist() == ["sound-1.wav", "sound-2.wav", "sound-3.wav"]
        assert same(samples(archive.read("sound-2.wav")), expected[1])
    best = server.ask("POST", "/v1/audio/speech", {**SHORT, **fields, "response_format": "wav"})[2]
    assert same(samples(best), expected[0])
    assert server.generate(**{**fields, "num_waveforms_per_prompt": 5})[0] == 400


def test_a_job(server: Server, pipe: AudioLDM2Pipeline) -> None:
    prefer = {"Prefer": "respond-async"}
    fields = {**SHORT, "input": "rain", "seed": 4, "num_inference_steps": 60}
    status, headers, body = server.ask("POST", "/v1/audio/generate", fields, prefer)
    job = json.loads(body)
    assert (status, headers["location"]) == (202, f"/v1/jobs/{job['id']}")
    assert headers["preference-applied"] == "respond-async"
    assert (job["object"], job["steps"]) == ("job", 60)
    second = json.loads(server.ask("POST", "/v1/audio/generate", {**fields, "seed": 9}, prefer)[2])
    assert second["state"] == "queued"
    assert server.ask("GET", f"/v1/jobs/{second['id']}/result")[0] == 409
    seen = []
    while not seen or seen[-1]["state"] in ("queued", "running"):
        seen.append(json.loads(server.ask("GET", f"/v1/jobs/{job['id']}")[2]))
        time.sleep(0.01)
    assert seen[-1]["state"] == "done"
    assert seen[-1]["step"] == 60
    assert [each["step"] for each in seen] == sorted(each["step"] for each in seen)
    assert len({each["step"] for each in seen}) > 3
    for _ in range(2):  # it is kept
        sound = server.ask("GET", seen[-1]["result"])[2]
        assert same(samples(sound), alone(pipe, "rain", 4, num_inference_steps=60))
    assert server.ask("DELETE", f"/v1/jobs/{second['id']}")[0] == 200
    for path in (second["id"], "nothing", f"{second['id']}/result"):
        assert server.ask("GET", f"/v1/jobs/{path}")[0] == 404
    start = time.monotonic()
    assert server.generate(input="rain")[0] == 200  # the one that was deleted does not run on
    assert time.monotonic() - start < 5
    late = json.loads(server.ask("POST", "/v1/audio/generate", {**fields, "timeout_s": 0.05}, prefer)[2])
    time.sleep(1.0)
    state = json.loads(server.ask("GET", f"/v1/jobs/{late['id']}")[2])
    assert (state["state"], state["error"]["code"]) == ("failed", "deadline_passed")
    assert server.ask("GET", f"/v1/jobs/{job['id']}", headers={"Authorization": ""})[0] == 401


def test_a_worker_that_is_killed_is_replaced_and_its_call_runs_again(server: Server, pipe: AudioLDM2Pipeline) -> None:
    fields = {"input": "a dog", "seed": 6, "num_inference_steps": 100}
    first = worker_of(server)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.generate, **fields)
        time.sleep(0.3)
        os.kill(first, signal.SIGKILL)
        status, _, body = running.result()
    assert status == 200, body
    assert same(samples(body), alone(pipe, "a dog", 6, num_inference_steps=100))
    second = worker_of(server)
    assert second != first
    os.kill(second, signal.SIGSEGV)  # while it does nothing
    end = time.monotonic() + 20
    while time.monotonic() < end and server.ask("GET", "/ready")[0] != 503:
        time.sleep(0.005)
    while time.monotonic() < end and server.ask("GET", "/ready")[0] != 200:
        time.sleep(0.05)
    assert server.generate(input="rain")[0] == 200
    assert b"audioldm2_worker_deaths 2.0" in server.ask("GET", "/metrics")[2]


def test_figures_and_ids(server: Server) -> None:
    given = {"X-Request-Id": "mine-1"}
    assert server.ask("POST", "/v1/audio/generate", {**SHORT, "input": "rain"}, given)[1]["x-request-id"] == "mine-1"
    assert server.ask("GET", "/health", headers={"X-Request-Id": "a b\x7f"})[1]["x-request-id"] != "a b\x7f"
    assert "x-request-id" in server.generate(input="")[1]
    text = server.ask("GET", "/metrics")[2].decode()
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures['audioldm2_requests_total{handler="generate",status="200"}']) >= 1
    assert float(figures['audioldm2_requests_total{handler="generate",status="400"}']) >= 1
    assert float(figures['audioldm2_stage_seconds_count{stage="denoise"}']) >= 1
    assert float(figures["audioldm2_ready"]) == 1


def test_pages_of_other_sites_may_not_ask(server: Server) -> None:
    for site, status in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
        more = {"Sec-Fetch-Site": site, "Origin": "https://example.org"}
        assert server.ask("POST", "/v1/audio/generate", {**SHORT, "input": "rain"}, more)[0] == status
    assert "access-control-allow-origin" not in server.ask("GET", "/health", headers={"Origin": "https://a.org"})[1]


def test_the_log_in_json_and_keys_from_a_file(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"one\n\n{KEY}\n")
    flags = ("--log-format", "json", "--log-level", "info", "--api-key-file", str(keys))
    flags += ("--cors-origin", "https://a.org", "--warm-up", "0.64")
    with serving(bundle("plain"), *flags) as server:
        assert server.generate(input="rain", seed=5)[0] == 200
        assert server.ask("GET", "/v1/models", headers={"Authorization": "Bearer two"})[0] == 401
        more = {"Sec-Fetch-Site": "cross-site", "Origin": "https://a.org"}
        status, headers, _ = server.ask("GET", "/v1/models", headers=more)
        assert (status, headers["access-control-allow-origin"]) == (200, "https://a.org")
        status, error = server.stop()
    assert status == 0
    lines = [json.loads(line) for line in error.splitlines()]
    first = next(line for line in lines if line.get("path") == "/v1/audio/generate")
    assert (first["status"], first["seed"], first["steps"], first["batch"]) == (200, 5, 2, 1)
    assert set(first["timings"]) >= {"queue", "denoise", "vocode"}
    assert len(first["request_id"]) == 16
    assert KEY not in error
