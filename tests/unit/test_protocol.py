"""Clients who waste connections, against the server's protocol over a small application, with short limits."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn

from runtime.server import handlers, protocol
from runtime.server.app import create_app
from runtime.server.service import Service
from tests.unit.helpers import make_manifest

LIMIT_S = 0.5


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], int]]:
    """Runs an application in a thread and returns its port."""
    monkeypatch.setattr(protocol, "HEAD_S", LIMIT_S)
    monkeypatch.setattr(protocol, "UNREAD_S", 1)
    monkeypatch.setattr(handlers, "BODY_S", LIMIT_S)
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(app: Any) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        protocol.watch_over(listener)
        server = uvicorn.Server(uvicorn.Config(app, http=protocol.Protocol, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        running.append((server, thread))
        return int(listener.getsockname()[1])

    yield start
    for server, thread in running:
        server.should_exit = server.force_exit = True
        thread.join(10)
        assert not thread.is_alive()


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def seconds_until_cut(connection: socket.socket, trickle: bytes = b"") -> float:
    """How long it stays open while a byte is sent now and then."""
    start = time.monotonic()
    connection.settimeout(0.05)
    while time.monotonic() - start < 10:
        try:
            if trickle:
                connection.send(trickle)
            if connection.recv(100) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - start


@pytest.mark.parametrize("first", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: a\r\n"])
@pytest.mark.parametrize("trickle", [b"", b"x"])
def test_a_head_that_does_not_end(first: bytes, trickle: bytes, serve: Callable[[Any], int]) -> None:
    with socket.create_connection(("127.0.0.1", serve(hello))) as connection:
        connection.send(first)
        assert LIMIT_S / 2 < seconds_until_cut(connection, trickle) < LIMIT_S + 1


def test_the_head_of_a_second_request_too(serve: Callable[[Any], int]) -> None:
    with socket.create_connection(("127.0.0.1", serve(hello))) as connection:
        for _ in range(2):  # longer than the limit in all: whole requests are no waste
            connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = b""
            while not answer.endswith(b"ok"):
                answer += connection.recv(1000)
            time.sleep(0.6 * LIMIT_S)
        connection.send(b"GET /")
        assert seconds_until_cut(connection, b"x") < LIMIT_S + 1


def test_an_answer_that_nobody_reads(serve: Callable[[Any], int]) -> None:
    over = threading.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.ensure_future(receive_gone(receive))
        while not gone.done():
            await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
        over.set()

    async def receive_gone(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    with socket.create_connection(("127.0.0.1", serve(endless))) as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert over.wait(15)


@pytest.mark.parametrize(
    ("head", "piece"), [(b"Content-Length: 999", b"{"), (b"Transfer-Encoding: chunked", b"1\r\n{\r\n")]
)
def test_a_body_that_does_not_end(head: bytes, piece: bytes, serve: Callable[[Any], int]) -> None:
    service = cast(Service, SimpleNamespace(waiting=0, running=0, deaths=0, is_ready=True))
    port = serve(create_app(service, make_manifest(), model="some"))
    head = b"POST /v1/audio/generate HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.send(head + piece)
        start, answer = time.monotonic(), b""
        while part := connection.recv(1000):
            answer += part
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"did not come within" in answer
        assert LIMIT_S / 2 < time.monotonic() - start < LIMIT_S + 2
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.send(head)
        start = time.monotonic()
        with suppress(ConnectionError):  # it is cut while we send on, perhaps before we have read why
            while True:
                connection.send(piece)
                time.sleep(0.02)
        assert LIMIT_S / 2 < time.monotonic() - start < LIMIT_S + 2
