"""The service on a Ray cluster of two replicas: what reaches a client, also when replicas and workers are killed."""

import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from runtime import AudioLDM2Pipeline
from runtime.server.cli import KEYS_VARIABLE
from tests.cli.serving import KEY, SHORT, alone, same, samples
from tests.unit.helpers import ROOT

pytestmark = pytest.mark.slow  # the extra `ray` is not in `dev`: 340 MB, and it changes what uvicorn runs on

LONG: dict[str, Any] = {"input": "rain", "num_inference_steps": 60, "audio_length": 2.56, "seed": 1}
MARK = "TRT_AUDIOLDM2_TESTED_CLUSTER"  # in the environment of the cluster's processes
TRIES = 3  # a request, and two more after a 5xx or a lost connection
CONFIG = ROOT / "runtime" / "server" / "ray.yaml"


class Cluster:
    """A running cluster, and requests to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.temporary = folder, Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # for paths of sockets
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.mark = f"{MARK}={self.temporary}"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",  # else Ray makes a token, and leaves it in the home of whoever runs this
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            KEYS_VARIABLE: KEY,
            MARK: str(self.temporary),
        }
        self.log = (self.temporary / "driver.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.ray_cluster", str(self.temporary / "r")],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def deploy(self, replicas: int, **settings: Any) -> str:
        """How the deployment of the shipped config file, changed only where it has to be, ended."""
        config = yaml.safe_load(CONFIG.read_text("utf-8"))
        config["http_options"] = {"host": "127.0.0.1", "port": self.port}
        (application,) = config["applications"]
        application["args"] |= {"engines": str(self.folder), "warm_up": 0.64, **settings}
        (deployment,) = application["deployments"]
        del deployment["autoscaling_config"]
        deployment["num_replicas"] = replicas
        path = self.temporary / "config.yaml"
        path.write_text(yaml.safe_dump(config), "utf-8")
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(path, file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("status "):
                return line.removeprefix("status ").strip()
        raise AssertionError((self.temporary / "driver.log").read_text())

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Authorization": f"Bearer {KEY}", **(headers or {})})
        answer = connection.getresponse()
        found = answer.status, [(name.lower(), value) for name, value in answer.getheaders()], answer.read()
        connection.close()
        return found

    def generate(self, **fields: Any) -> tuple[int, dict[str, str], bytes]:
        status, headers, body = self.ask("POST", "/v1/audio/generate", {**SHORT, **fields})
        return status, dict(headers), body

    def workers(self) -> dict[int, int]:
        """Process ids of the workers of this cluster, with those of their replicas."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if b"runtime.server.child" not in (process / "cmdline").read_bytes():
                    continue
                if self.mark.encode() in (process / "environ").read_bytes():
                    found[int(process.name)] = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:  # it has ended
                continue
        return found

    def stop(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.stdout.close()
            self.log.close()
            shutil.rmtree(self.temporary, ignore_errors=True)


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster(bundle: Callable[[str], Path]) -> Iterator[Cluster]:
    running = Cluster(bundle("plain"))
    try:
        status = running.deploy(2)
        assert status.startswith("RUNNING"), status
        yield running
    finally:
        running.stop()
    until(lambda: not running.workers())


@pytest.fixture(scope="module")
def pipe(bundle: Callable[[str], Path]) -> AudioLDM2Pipeline:
    return AudioLDM2Pipeline.from_pretrained(bundle("plain"), "cpu")


def test_a_sound_is_the_pipelines_from_both_replicas(cluster: Cluster, pipe: AudioLDM2Pipeline) -> None:
    """Each has a worker of its own, and is warm when Ray says that the application runs."""
    assert len(set(cluster.workers().values())) == 2
    expected = alone(pipe, "a dog", 5)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: cluster.generate(input="a dog", seed=5), range(16)))
    for status, headers, body in answers:
        assert status == 200, body
        assert headers["server-timing"].startswith("queue;dur=")
        assert same(samples(body), expected)


def test_what_ray_passes_on(cluster: Cluster) -> None:
    """Errors in our form, keys, one request id, no jobs, our names."""
    status, headers, body = cluster.ask("POST", "/v1/audio/generate", {"inputt": 1}, {"X-Request-Id": "mine"})
    assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_value")
    assert [value for name, value in headers if name == "x-request-id"] == ["mine"]
    assert cluster.ask("GET", "/v1/models", headers={"Authorization": "Bearer no"})[0] == 401
    assert json.loads(cluster.ask("GET", "/v1/models")[2])["data"][0]["id"] == "plain"
    status, _, body = cluster.ask("POST", "/v1/audio/generate", {"input": "rain"}, {"Prefer": "respond-async"})
    assert status == 400
    assert "respond-async" in json.loads(body)["error"]["message"]
    assert cluster.generate(**LONG, timeout_s=0.2)[0] == 504


def test_events_come_as_they_happen(cluster: Cluster) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=60)
    body = {**LONG, "stream_format": "sse"}
    connection.request("POST", "/v1/audio/generate", json.dumps(body).encode(), {"Authorization": f"Bearer {KEY}"})
    answer = connection.getresponse()
    heard = [(time.monotonic(), json.loads(line[6:])["type"]) for line in answer if line.startswith(b"data: ")]
    connection.close()
    assert heard[-1][1] == "audio.done"
    steps = [when for when, kind in heard if kind == "audio.progress"]
    assert len(steps) == 60
    assert steps[-1] - steps[0] > 0.3  # not all at the end


def test_clients_that_leave_free_the_workers(cluster: Cluster) -> None:
    start = time.monotonic()
    assert cluster.generate(**LONG)[0] == 200
    whole_s = time.monotonic() - start
    for _ in range(4):  # a call runs in each replica, and one waits there
        connection = http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=60)
        body = json.dumps({**LONG, "num_inference_steps": 200, "audio_length": 10}).encode()
        connection.request("POST", "/v1/audio/generate", body, {"Authorization": f"Bearer {KEY}"})
        time.sleep(0.1)
        assert connection.sock is not None
        connection.sock.close()
        connection.close()
    start = time.monotonic()
    assert cluster.generate(input="rain")[0] == 200
    assert time.monotonic() - start < whole_s + 1


def with_retries(cluster: Cluster, prompt: str, seed: int) -> tuple[np.ndarray, int]:
    """The sound of a request, and how many were sent until it came."""
    told: object = None
    for number in range(1, TRIES + 1):
        try:
            status, _, body = cluster.generate(input=prompt, seed=seed, num_inference_steps=10)
        except (OSError, http.client.HTTPException) as error:
            told = error
        else:
            if status == 200:
                return samples(body), number
            assert status >= 500, body
            told = status, body
        time.sleep(0.5)
    raise AssertionError(f"{prompt} {seed}: {told!r}")


@pytest.mark.parametrize("whole", [False, True])
def test_a_kill_under_load_loses_nothing_but_a_retry(cluster: Cluster, pipe: AudioLDM2Pipeline, whole: bool) -> None:
    """Of a worker: its replica repeats the call, and no client hears of it. Of a whole replica: clients try again."""
    prompts = ["rain", "a dog", "a low bell", "siren"]
    before = cluster.workers()
    worker, replica = next(iter(before.items()))
    timer = threading.Timer(0.7, os.kill, (replica if whole else worker, signal.SIGKILL))
    timer.start()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda number: with_retries(cluster, prompts[number % 4], number), range(30)))
    timer.join()
    for number, (sound, tries) in enumerate(found):
        assert same(sound, alone(pipe, prompts[number % 4], number, num_inference_steps=10))
        assert whole or tries == 1
    until(lambda: len(cluster.workers()) == 2)
    after = cluster.workers()
    assert worker not in after
    assert (replica in after.values()) is not whole


def test_a_replica_that_goes_finishes_what_it_began(cluster: Cluster, pipe: AudioLDM2Pipeline) -> None:
    """From two replicas to one under load; none needs a second try."""
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(cluster.generate, **{**LONG, "seed": number}) for number in range(8)]
        time.sleep(0.3)
        assert cluster.deploy(1).startswith("RUNNING")
        for answer in asked:
            assert answer.result()[0] == 200, answer.result()[2]
    until(lambda: len(cluster.workers()) == 1)


def test_a_replica_whose_worker_cannot_start_again_is_replaced(cluster: Cluster, tmp_path: Path) -> None:
    """The others answer meanwhile; no client needs more than its tries."""
    folder = tmp_path / "plain"
    shutil.copytree(cluster.folder, folder)
    assert cluster.deploy(2, engines=str(folder)).startswith("RUNNING")
    until(lambda: len(cluster.workers()) == 2)
    worker, replica = next(iter(cluster.workers().items()))
    (folder / "manifest.json").rename(folder / "away")
    os.kill(worker, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{replica}").exists())
    assert cluster.generate(input="rain")[0] == 200
    (folder / "away").rename(folder / "manifest.json")
    until(lambda: len(cluster.workers()) == 2)


def test_what_keeps_a_replica_from_starting_is_told(cluster: Cluster) -> None:
    for settings, words in (
        ({"engines": str(cluster.folder / "nowhere")}, "does not exist"),
        ({"precision": "fp7"}, "fp7"),
        ({"max_bach": 2}, "max_bach"),
        ({"engines": "engines/demo"}, "engines"),
    ):
        status = cluster.deploy(1, **settings)
        assert status.startswith(("DEPLOY_FAILED", "UNHEALTHY")), status
        assert words in status
