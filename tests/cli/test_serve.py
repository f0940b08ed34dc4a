"""The service as a program: real requests over the loopback to a small random checkpoint."""

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from runtime import AudioLDM2Pipeline
from tests.cli.serving import KEY, Server, alone, same, samples, serving, worker_of
from tests.unit.helpers import ROOT

LONG: dict[str, Any] = {"input": "rain", "num_inference_steps": 120, "audio_length": 2.56, "seed": 1}


@pytest.fixture(scope="module")
def server(bundle: Callable[[str], Path]) -> Iterator[Server]:
    flags = ("--max-batch", "3", "--max-queue", "4", "--warm-up", "0.64", "--api-key", KEY, "--max-duration", "6")
    with serving(bundle("plain"), *flags) as running:
        yield running
        assert running.stop() == (0, "")


@pytest.fixture(scope="module")
def pipe(bundle: Callable[[str], Path]) -> AudioLDM2Pipeline:
    return AudioLDM2Pipeline.from_pretrained(bundle("plain"), "cpu")


def test_a_sound_is_the_pipelines(server: Server, pipe: AudioLDM2Pipeline) -> None:
    seed = int(np.random.default_rng().integers(2**31))
    status, headers, body = server.generate(input="a dog", negative_prompt="music", seed=seed)
    assert status == 200, body
    assert headers["content-type"] == "audio/wav"
    assert (headers["x-seed"], headers["x-sample-rate"], headers["x-audio-duration"]) == (str(seed), "16000", "0.640")
    stages = [part.split(";")[0] for part in headers["server-timing"].split(", ")]
    assert stages == ["queue", "load", "encode", "denoise", "decode", "vocode"]
    assert same(samples(body), alone(pipe, "a dog", seed, negative_prompt="music"))


def test_the_references_names_and_a_drawn_seed(server: Server, pipe: AudioLDM2Pipeline) -> None:
    body = {"prompt": "rain", "audio_length_in_s": 0.64, "num_inference_steps": 2, "guidance_scale": 2.0}
    status, headers, sound = server.ask("POST", "/v1/audio/generate", body)
    assert status == 200, sound
    assert same(samples(sound), alone(pipe, "rain", int(headers["x-seed"]), guidance_scale=2.0))


@pytest.mark.parametrize(
    ("name", "kind"), [("flac", "audio/flac"), ("mp3", "audio/mpeg"), ("opus", "audio/ogg"), ("pcm", "audio/pcm")]
)
def test_formats(server: Server, pipe: AudioLDM2Pipeline, name: str, kind: str) -> None:
    status, headers, body = server.generate(input="rain", seed=3, response_format=name)
    assert (status, headers["content-type"]) == (200, kind)
    expected = alone(pipe, "rain", 3)
    if name == "pcm":
        assert same(np.frombuffer(body, "<i2").astype(np.int64), expected)
    elif name == "flac":
        assert same(samples(body), expected)
    else:
        heard = soundfile.read(io.BytesIO(body))[0]
        assert heard.size > 0
        assert np.sqrt((heard**2).mean()) > 0.2 * np.sqrt((expected**2).mean()) / 32767


def test_many_at_once_get_what_they_get_alone(server: Server, pipe: AudioLDM2Pipeline) -> None:
    """More than one batch, some of which fit together; a call that is turned away comes again."""
    prompts = ["rain", "a dog", "a low bell", "siren", "wind", "a cat", "footsteps", "an engine"]

    def ask(number: int) -> np.ndarray:
        while True:
            status, headers, body = server.generate(input=prompts[number], seed=number, guidance_scale=2.0 + number % 2)
            if status == 200:
                return samples(body)
            assert status == 429, body
            assert int(headers["retry-after"]) >= 1
            time.sleep(0.05)

    with ThreadPoolExecutor(len(prompts)) as pool:
        found = list(pool.map(ask, range(len(prompts))))
    for number, sound in enumerate(found):
        assert same(sound, alone(pipe, prompts[number], number, guidance_scale=2.0 + number % 2))


@pytest.mark.parametrize(
    ("body", "status", "fragments"),
    [
        (b"", 400, ["the body is not right"]),
        (b"{", 400, ["the body is not right"]),
        (b"[" * 100_000, 400, ["the body is not right"]),
        (b'{"input": "\xff"}', 400, ["the body is not right"]),
        (b'{"input": "\\ud800"}', 400, []),
        (b'{"input": "rain", "seed": NaN}', 400, ["the body is not right"]),
        (b'{"input": "rain", "audio_length": 1e999}', 400, []),
        ([], 400, ["object", "array"]),
        ({"input": "rain", "sede": 1}, 400, ["sede"]),
        ({"input": 5}, 400, ["input"]),
        ({}, 400, ["input is missing"]),
        ({"input": "  "}, 400, ["blank"]),
        ({"input": "rain", "prompt": "rain"}, 400, ["input and prompt"]),
        ({"input": "x" * 20_000}, 400, ["10000 characters"]),
        ({"input": "rain", "audio_length": 7}, 400, ["7 s", "6 s"]),
        ({"input": "rain", "audio_length": -1}, 400, ["audio_length"]),
        ({"input": "rain", "num_inference_steps": 201}, 400, ["201", "200"]),
        ({"input": "rain", "num_inference_steps": 0}, 400, ["num_inference_steps"]),
        ({"input": "rain", "seed": -1}, 400, ["seed"]),
        ({"input": "rain", "seed": 2**64}, 400, []),
        ({"input": "rain", "scheduler": "eulr"}, 400, ["eulr", "did you mean"]),
        ({"input": "rain", "response_format": "aiff"}, 400, ["response_format", "aiff"]),
        ({"input": "rain", "guidance_scale": 1e30}, 400, ["guidance_scale"]),
        ({"input": "rain", "transcription": "hello"}, 400, ["transcription"]),
        ({"input": "rain", "timeout_s": -1}, 400, ["timeout_s"]),
        ({"input": "rain", "model": "other"}, 404, ["other"]),
        (b"x" * (2 << 20), 413, ["1048576 bytes"]),
    ],
)
def test_wrong_bodies_get_one_line(server: Server, body: object, status: int, fragments: list[str]) -> None:
    found, headers, answer = server.ask("POST", "/v1/audio/generate", body)
    assert found == status, answer
    assert headers["content-type"] == "application/json"
    message = json.loads(answer)["error"]["message"]
    assert "\n" not in message
    assert "Traceback" not in message
    for fragment in fragments:
        assert fragment in message


def test_paths_methods_and_keys(server: Server) -> None:
    assert server.ask("GET", "/health")[0] == 200
    assert json.loads(server.ask("GET", "/ready")[2])["ready"] is True
    models = json.loads(server.ask("GET", "/v1/models")[2])["data"]
    assert [model["id"] for model in models] == ["plain"]
    assert server.generate(input="rain", model="plain")[0] == 200
    assert server.ask("GET", "/v1/audio/generate")[0] == 405
    assert json.loads(server.ask("GET", "/nowhere")[2])["error"]["code"] == "not_found"
    for wrong in ({"Authorization": "Bearer no"}, {"Authorization": ""}, {"Authorization": "Bearer \xe9"}):
        for method, path in (("POST", "/v1/audio/generate"), ("GET", "/v1/models")):
            status, headers, body = server.ask(method, path, b"{}" if method == "POST" else None, wrong)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert KEY not in body.decode()
    assert server.ask("GET", "/health", headers={"Authorization": ""})[0] == 200


def test_a_deadline(server: Server) -> None:
    """Of a call that runs, and of one that waits behind it."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.generate, **LONG, timeout_s=1.0)
        time.sleep(0.2)
        start = time.monotonic()
        waiting = server.generate(input="rain", timeout_s=0.3)
        assert time.monotonic() - start < 0.8
        for status, _, body in (waiting, running.result()):
            assert (status, json.loads(body)["error"]["code"]) == (504, "deadline_passed")
    assert time.monotonic() - start < 3


def leave_in_the_middle(server: Server) -> None:
    """Ask for a long sound and go away while it is made."""
    connection = server.connection()
    headers = {"Authorization": f"Bearer {KEY}"}
    connection.request("POST", "/v1/audio/generate", json.dumps(LONG).encode(), headers)
    time.sleep(0.5)
    assert connection.sock is not None
    connection.sock.close()
    connection.close()


def test_a_client_that_leaves_frees_the_worker(server: Server, pipe: AudioLDM2Pipeline) -> None:
    start = time.monotonic()
    assert server.generate(**LONG)[0] == 200
    whole_s = time.monotonic() - start
    start = time.monotonic()
    leave_in_the_middle(server)
    status, _, body = server.generate(input="a dog", seed=4)
    assert status == 200
    assert time.monotonic() - start < 0.5 + 0.5 * whole_s
    assert same(samples(body), alone(pipe, "a dog", 4))


def test_a_full_queue_says_when_to_come_again(server: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: server.generate(**{**LONG, "guidance_scale": 2 + n}, timeout_s=4), range(8)))
    full = [(headers, json.loads(body)["error"]) for status, headers, body in found if status == 429]
    assert full
    assert all(int(headers["retry-after"]) >= 1 and error["code"] == "queue_full" for headers, error in full)
    assert {status for status, _, _ in found} <= {200, 429, 504}
    assert server.generate(input="rain")[0] == 200


def test_sigterm_finishes_what_was_begun(bundle: Callable[[str], Path]) -> None:
    with serving(bundle("plain")) as server, ThreadPoolExecutor(1) as pool:
        begun = pool.submit(server.generate, **LONG)
        time.sleep(0.5)
        stopped = server.stop()
        status, _, body = begun.result()
        assert (status, stopped) == (200, (0, "")), body
        assert len(samples(body)) == round(2.56 * 16_000)


def test_a_second_signal_ends_it_at_once(bundle: Callable[[str], Path]) -> None:
    with serving(bundle("plain")) as server, ThreadPoolExecutor(1) as pool:
        begun = pool.submit(server.generate, **{**LONG, "audio_length": 20, "num_inference_steps": 200})
        time.sleep(0.5)
        worker = worker_of(server)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None  # it drains
        start = time.monotonic()
        server.stop()
        assert time.monotonic() - start < 2
        with suppress(ConnectionError, http.client.HTTPException):
            assert begun.result()[0] == 503
        time.sleep(0.2)
        assert not Path(f"/proc/{worker}").exists()


def test_when_time_to_drain_is_over_it_ends(bundle: Callable[[str], Path]) -> None:
    with serving(bundle("plain"), "--drain-s", "1") as server, ThreadPoolExecutor(3) as pool:
        longer = {**LONG, "audio_length": 20, "num_inference_steps": 200}
        waiting = [pool.submit(server.generate, **longer) for _ in range(3)]
        time.sleep(0.5)
        start = time.monotonic()
        status, _ = server.stop()
        assert status == 0
        assert time.monotonic() - start < 5
        for answer in waiting:
            assert answer.result()[0] == 503


def test_what_keeps_it_from_starting_is_one_line(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for flags, fragment, status in (
            (["--engines", str(bundle("plain")), "--port", port], "cannot listen on 127.0.0.1", 1),
            (["--engines", str(tmp_path / "nowhere"), "--port", "0"], "does not exist", 1),
            (["--engines", str(bundle("plain")), "--port", "0", "--max-batch", "0"], "--max-batch", 1),
            (["--port", "0", "--warm-up", "2,abc"], "--warm-up", 2),
            (["--prot", "0"], "did you mean --port?", 2),
        ):
            command = [sys.executable, "-m", "runtime.server.cli", *flags]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=os.environ)
            assert done.returncode == status
            assert done.stderr.startswith("error: ")
            assert done.stderr.count("\n") == 1
            assert fragment in done.stderr
