"""What clients do wrong, on purpose or not, for minutes on end: every request is answered, and no sound is wrong."""

import http.client
import json
import os
import random
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.build import build, open_checkpoint
from runtime.server.fields import Generate, Inputs, Parameters, Speech
from tests.cli.serving import SHORT, Server, same, samples, serving, worker_of

FLAGS = ("--warm-up", "0.64", "--max-steps", "4", "--max-duration", "1", "--max-queue", "200")


@pytest.fixture(scope="module")
def server(bundle: Callable[[str], Path]) -> Iterator[Server]:
    with serving(bundle("plain"), *FLAGS) as running:
        yield running
        status, error = running.stop()
        assert status == 0
        assert "Traceback" not in error


def sent(server: Server, data: bytes, answers: int = 1) -> bytes:
    """What comes back for these bytes, up to so many answers or the end."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(data)
        found = b""
        while found.count(b"HTTP/1.1 ") < answers or not found.endswith(b"}"):
            piece = connection.recv(1 << 16)
            if not piece:
                break
            found += piece
    return found


BODY = json.dumps({"input": "rain", "seed": 1, **SHORT}).encode()
HEAD = b"POST /v1/audio/generate HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY)


def test_old_and_odd_http(server: Server) -> None:
    assert sent(server, b"GET /health HTTP/1.0\r\n\r\n").endswith(b'{"status":"ok"}')
    both = sent(server, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /ready HTTP/1.1\r\nHost: a\r\n\r\n", 2)
    assert both.index(b'"ok"') < both.index(b'"ready":true')  # pipelined: in order
    plain, pipelined = (sent(server, data, n) for data, n in ((HEAD + BODY, 1), (HEAD + BODY + HEAD + BODY, 2)))
    assert plain.count(b"RIFF") == 1
    assert pipelined.count(b"RIFF") == 2
    for wrong in (b"\x00\x01\x02\r\n\r\n", b"GET /health\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a" * 100_000):
        assert sent(server, wrong).startswith(b"HTTP/1.1 400 ")
    chunked = b"POST /v1/audio/generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    endless = chunked + b"".join(b"10000\r\n" + b" " * 0x10000 + b"\r\n" for _ in range(40))
    with suppress(ConnectionError):  # it may be refused while we are still sending
        assert sent(server, endless).startswith(b"HTTP/1.1 413 ")
    assert server.generate(input="rain")[0] == 200


def test_connections_that_do_nothing(server: Server) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
    half = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    for connection in half:
        connection.sendall(HEAD + BODY[:5])
    assert server.generate(input="rain")[0] == 200
    for connection in (*idle, *half):
        connection.close()
    assert server.generate(input="rain")[0] == 200


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.floats(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    st.sampled_from(["wav", "mp3", "sse", "audio", "ddim", "plain", "\x00", "a\nb", 1e308, 2**64, -1, 0]),
)


def bodies(kind: type, **usual: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies of which a few fields are junk, among them some that there are not."""
    names = st.sampled_from([*kind.__struct_fields__, "nothing"])
    return st.dictionaries(names, junk, max_size=3).map(lambda wrong: {**usual, **wrong})


PATHS = st.one_of(
    st.tuples(st.just("/v1/audio/generate"), bodies(Generate, input="rain", **SHORT)),
    st.tuples(st.just("/v1/audio/speech"), bodies(Speech, input="rain", **SHORT)),
    st.tuples(st.just("/"), bodies(Inputs, inputs="rain", parameters=SHORT)),
    st.tuples(st.just("/"), bodies(Parameters, **SHORT).map(lambda more: {"inputs": "rain", "parameters": more})),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PATHS)
def test_junk_in_fields_is_refused_in_one_line(server: Server, asked: tuple[str, dict[str, Any]]) -> None:
    path, body = asked
    status, _, answer = server.ask("POST", path, json.dumps(body).encode("utf-8", "surrogatepass"))
    assert status in (200, 400, 404, 504), answer
    if status != 200:
        message = json.loads(answer)["error"]["message"]
        assert message
        assert "\n" not in message


def test_a_bundle_that_vanishes_while_it_is_served(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle("plain"), tmp_path / "gone"))
    with serving(folder, "--warm-up", "0.64") as server:
        shutil.rmtree(folder)
        assert server.generate(input="rain")[0] == 200  # it is in memory
        os.kill(worker_of(server), signal.SIGKILL)
        answers = [server.generate(input="rain") for _ in range(2)]
        assert {status for status, _, _ in answers} == {500}
        assert "does not exist" in json.loads(answers[-1][2])["error"]["message"]
        assert server.ask("GET", "/ready")[0] == 503
        assert server.ask("GET", "/health")[0] == 200
        shutil.copytree(bundle("plain"), folder)
        end = time.monotonic() + 30
        while server.ask("GET", "/ready")[0] != 200:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert server.generate(input="rain")[0] == 200
        assert server.stop()[0] == 0


class Soak:
    """Clients of many kinds on one server, who note what they got."""

    def __init__(self, server: Server, seed: int, prompts: Sequence[str]) -> None:
        self.server, self.random, self.prompts = server, random.Random(seed), prompts
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.sounds: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def expected(self, seeds: range) -> None:
        """What each seed gives alone."""
        for seed in seeds:
            self.sounds[seed] = samples(self.server.generate(**self.fields(seed))[2])
            assert same(self.sounds[seed], self.sounds[seed])  # also that it can be heard

    def fields(self, seed: int) -> dict[str, Any]:
        """Of few shapes, so that some requests run together."""
        length = (0.64, 0.32)[seed % 2]
        return {"input": self.prompts[seed % len(self.prompts)], "seed": seed, "audio_length": length}

    def one(self, _: int) -> None:
        """A request of some kind: 10 % leave, 5 % are malformed, some are streamed."""
        with self._lock:
            kind, seed = self.random.random(), self.random.choice(list(self.sounds))
        if kind < 0.10:
            self._leave(seed)
        elif kind < 0.15:
            self._count("malformed", self.server.ask("POST", "/v1/audio/generate", b'{"input": 5')[0] == 400)
        else:
            more = {"stream_format": "audio"} if kind > 0.8 else {}
            status, _, body = self.server.generate(**self.fields(seed), **more)
            right = status == 200 and same(samples(body), self.sounds[seed])
            self._count(str(status), right or status == 429, body)

    def _leave(self, seed: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        connection.request("POST", "/v1/audio/generate", json.dumps({**SHORT, **self.fields(seed)}))
        time.sleep(0.02)
        assert connection.sock is not None
        connection.sock.close()
        self._count("left", True)

    def _count(self, kind: str, right: bool, body: bytes = b"") -> None:
        with self._lock:
            self.statuses[kind] += 1
            if not right:
                self.wrong.append(f"{kind}: {body[:200]!r}")


def held(pid: int) -> tuple[int, int]:
    """Open files and threads of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), len(list(Path(f"/proc/{pid}/task").iterdir()))


def resident_kib(pid: int) -> int:
    """Memory of a process that is in use."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


def test_a_soak(server: Server) -> None:
    soak_of(server, 300, 1.0, [f"sound {i}" for i in range(8)])


@pytest.mark.slow
def test_a_long_soak_of_the_demo(tmp_path: Path) -> None:
    build(open_checkpoint("demo"), tmp_path / "demo", report=lambda _: None)
    with serving(tmp_path / "demo", *FLAGS) as server:
        soak_of(server, 20_000, 60.0, ["a siren", "a dog barking", "an engine"])
        status, error = server.stop()
        assert status == 0
        assert "Traceback" not in error


def soak_of(server: Server, requests: int, rest_s: float, prompts: Sequence[str]) -> None:
    """Requests of all kinds at once, with a worker killed now and then; what is left is what there was before."""
    soak, pid = Soak(server, random.randrange(2**31), prompts), server.process.pid
    soak.expected(range(8))
    before, memory = held(pid), []
    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(soak.one, i) for i in range(requests)]
        killed_s = time.monotonic()
        while not all(call.done() for call in calls):
            time.sleep(0.2)
            memory.append(resident_kib(pid))
            if time.monotonic() - killed_s > rest_s:
                os.kill(worker_of(server), signal.SIGKILL)
                killed_s = time.monotonic() + (1e9 if requests < 1000 else 0)  # a short one kills once
        for call in calls:
            call.result(1)
    print(dict(soak.statuses), f"memory by quarter {np.array_split(memory, 4)[1].mean():.0f}", end=" ")
    print(f"{np.array_split(memory, 4)[3].mean():.0f} KiB")
    assert soak.wrong == []
    assert soak.statuses["200"] > requests / 2
    assert sum(soak.statuses.values()) == requests
    assert server.generate(input="rain")[0] == 200
    time.sleep(0.5)
    files, threads = held(pid)
    assert files <= before[0] + 4
    assert threads <= before[1] + 10  # the pool of the event loop grows to what was needed at once
    if requests > 1000:
        second, last = (float(np.mean(np.array_split(memory, 4)[i])) for i in (1, 3))
        assert last <= 1.03 * second
