"""Answers that begin before the sound is done: chunks of it, or events that tell how far it is."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runtime.backends.device import Array
from runtime.server.service import Service
from runtime.server.ticket import Listener, Ticket

T = TypeVar("T")
ALIVE_S = 5.0  # between two signs of life


class Events(Listener):
    """What is told of a call, in order: ("step", how many are done), ("audio", new samples) and ("alive", None)."""

    def __init__(self, *, wants_audio: bool) -> None:
        self.wants_audio = wants_audio
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    def step(self, completed: int) -> None:
        """So many steps are done."""
        self._put("step", completed)

    def audio(self, part: Array) -> None:
        """The next samples of each waveform."""
        self._put("audio", part)

    async def of(self, ticket: Ticket) -> AsyncIterator[tuple[str, Any]]:
        """The events until the call is settled. Raises DeadlineError when its time is over."""
        ticket.result.add_done_callback(lambda _: self._put("end", None))
        while True:
            try:
                left_s = ALIVE_S if ticket.left_s is None else min(ALIVE_S, ticket.left_s)
                told = await asyncio.wait_for(self._queue.get(), left_s)
            except TimeoutError:
                if ticket.late:
                    raise ticket.deadline_error() from None
                told = ("alive", None)
            if told[0] == "end":
                return
            yield told

    def _put(self, kind: str, value: Any) -> None:
        """From any thread. When the loop has ended, nobody listens."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (kind, value))


class Stream(Response):
    """An answer of parts that are sent as they come. A client who leaves ends it, and cancels the call.

    Starlette's own notices a client who left by what it sends, which may be long after.
    """

    def __init__(
        self,
        parts: AsyncIterator[bytes],
        service: Service,
        ticket: Ticket,
        *,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(media_type=media_type, headers=headers)
        if "Content-Length" not in headers:
            del self.headers["Content-Length"]  # the one of an empty body, which it sets by itself
        self._parts, self._service, self._ticket = parts, service, ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send it all."""
        try:
            with suppress(ClientDisconnect):
                await unless_gone(self._send(send), receive)
        finally:
            self._service.cancel(self._ticket)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def unless_gone(wanted: Awaitable[T], receive: Receive, timeout_s: float | None = None) -> T:
    """What comes. It is cancelled where the client goes away first, or the time passes.

    Raises ClientDisconnect, TimeoutError, or what is raised in its place.
    """
    coming, gone = asyncio.ensure_future(wanted), asyncio.ensure_future(_until_gone(receive))
    both: tuple[asyncio.Future[Any], ...] = coming, gone
    try:
        done, _ = await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if coming in done:
            return coming.result()
        raise ClientDisconnect if done else TimeoutError
    finally:
        coming.cancel()
        gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def event(kind: str, **values: Any) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps({'type': kind, **values})}\n\n".encode()
