"""Connections that waste no place: clients who never finish a request, read no answer or are gone are cut."""

import asyncio
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 30.0  # for the line and headers of a request, from its first byte or from the start of the connection
UNREAD_S = 60  # for a client to take what it was sent
SILENT_S = 60  # before the kernel asks whether a silent client is still there


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, with a limit on the time that the head of a request may take."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The time begins."""
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        """A whole head ends it, the first byte of the next one begins it again."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._stop()
        super().connection_lost(exc)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def watch_over(listener: socket.socket) -> None:
    """Have the kernel cut connections of this listener whose clients do not read, or are gone without a word."""
    options: list[Any] = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_USER_TIMEOUT", 1000 * UNREAD_S), ("TCP_KEEPIDLE", SILENT_S)):
        if hasattr(socket, name):  # Linux
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    for option in options:
        listener.setsockopt(*option)


def allow_many_files() -> None:
    """As many open connections as the system lets this process have: its first limit is often 1024."""
    try:
        import resource  # not on Windows
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
