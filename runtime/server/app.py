"""HTTP: one application object over a `Service`, for uvicorn and whatever else runs ASGI applications."""

import asyncio
import hmac
import logging
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive

from runtime.errors import AudioLDM2Error, InputError
from runtime.output import AudioOutput
from runtime.server.fields import FORMATS, Generate, LimitError, Limits, read_body
from runtime.server.service import DeadlineError, DrainingError, QueueFullError, Service, Ticket
from runtime.sound.files import sound_file, within_full_scale
from runtime.wording import one_line, readable

logger = logging.getLogger(__name__)

CLIENT_GONE = 499  # nginx's status for a client that did not wait: it goes to the log alone
ERRORS = {  # by the class of an error: status, and OpenAI's names for what is wrong
    InputError: (400, "invalid_request_error", "invalid_value"),
    LimitError: (400, "invalid_request_error", "over_limit"),
    QueueFullError: (429, "rate_limit_error", "queue_full"),
    DrainingError: (503, "server_error", "shutting_down"),
    DeadlineError: (504, "server_error", "deadline_passed"),
}
CODES = {401: "invalid_api_key", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def create_app(
    service: Service, *, model: str, limits: Limits | None = None, api_keys: Sequence[str] = ()
) -> Starlette:
    """The application. `model` is the name that it tells and takes; with keys, /v1 answers only to those who have one.

    It starts nothing: who makes the service starts it. When the application ends, so does the service.
    """
    handlers = _Handlers(service, model, limits or Limits(), tuple(key.encode() for key in api_keys))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    return Starlette(
        routes=[
            Route("/health", handlers.health),
            Route("/ready", handlers.ready),
            Route("/v1/models", handlers.models),
            Route("/v1/audio/generate", handlers.generate, methods=["POST"]),
        ],
        exception_handlers={
            AudioLDM2Error: _error,
            ClientDisconnect: _client_gone,
            Exception: _error,  # one that nobody foresaw: who runs the application logs where it came from
            HTTPException: _http_error,
        },
        lifespan=lifespan,
    )


class _Handlers:
    def __init__(self, service: Service, model: str, limits: Limits, keys: tuple[bytes, ...]) -> None:
        self._service, self._model, self._limits, self._keys = service, model, limits, keys

    async def health(self, _: Request) -> Response:
        """The process is alive."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """Whether calls are taken: it is warm, and not shutting down."""
        ready = self._service.is_ready
        return JSONResponse({"ready": ready, "waiting": self._service.waiting}, 200 if ready else 503)

    async def models(self, request: Request) -> Response:
        """The one model, in OpenAI's form."""
        self._check_key(request)
        return JSONResponse({"object": "list", "data": [{"id": self._model, "object": "model", "owned_by": "local"}]})

    async def generate(self, request: Request) -> Response:
        """Text to one sound file."""
        self._check_key(request)
        fields = read_body(await _body(request, self._limits.max_body_bytes))
        if fields.model not in (None, self._model):
            raise HTTPException(404, f"there is no model '{readable(fields.model or '')}': here is {self._model}")
        arguments = fields.arguments(self._limits)
        ticket = await asyncio.to_thread(self._service.submit, arguments, fields.timeout_s)
        output = await self._result(ticket, request.receive)
        return await asyncio.to_thread(_answer, fields, ticket, output)

    async def _result(self, ticket: Ticket, receive: Receive) -> AudioOutput:
        """The ticket's result. Where the client goes away first, or its time passes, the ticket is cancelled.

        Raises ClientDisconnect, DeadlineError, or what the call raised.
        """
        result: asyncio.Future[AudioOutput] = asyncio.wrap_future(ticket.result)
        gone: asyncio.Future[None] = asyncio.ensure_future(_until_gone(receive))
        both: tuple[asyncio.Future[Any], ...] = result, gone
        try:
            done, _ = await asyncio.wait(both, timeout=ticket.left_s, return_when=asyncio.FIRST_COMPLETED)
            if result in done:
                return result.result()
            self._service.cancel(ticket)
            raise ClientDisconnect if done else ticket.deadline_error()
        except asyncio.CancelledError as error:  # by the server, whose time to finish is over
            self._service.cancel(ticket)
            raise DrainingError() from error
        finally:
            gone.cancel()

    def _check_key(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if self._keys and True not in [hmac.compare_digest(given, key) for key in self._keys]:
            raise HTTPException(401, "a key is needed: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})


async def _body(request: Request, most: int) -> bytes:
    """The body; one that is too large is refused as soon as that is known."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise HTTPException(413, f"the body has more than {most} bytes")
    return bytes(body)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _answer(fields: Generate, ticket: Ticket, output: AudioOutput) -> Response:
    audio, rate = output.audios[0], output.sampling_rate
    if fields.response_format == "pcm":  # 16 bits, little-endian, one channel
        body = (within_full_scale(audio) * 32767).round().astype("<i2").tobytes()
    else:
        body = sound_file(f"sound.{fields.response_format}", audio, rate)
    stages = {"queue": ticket.queued_s, **output.timings}
    headers = {
        "X-Request-Id": secrets.token_hex(8),
        "X-Seed": str(output.seeds[0]),
        "X-Sample-Rate": str(rate),
        "X-Audio-Duration": f"{len(audio) / rate:.3f}",
        "Server-Timing": ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in stages.items()),
    }
    return Response(body, media_type=FORMATS[fields.response_format], headers=headers)


def _client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = "invalid_request_error"
    return _refusal(error.status_code, error.detail, kind, CODES.get(error.status_code), error.headers)


def _error(_: Request, error: Exception) -> Response:
    status, kind, code = ERRORS.get(type(error), (500, "server_error", "failed"))
    if status == 500:
        logger.error("a call failed: %s", one_line(error))
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, QueueFullError) else None
    return _refusal(status, one_line(error), kind, code, headers)


def _refusal(
    status: int, message: str, kind: str, code: str | None, headers: Mapping[str, str] | None = None
) -> Response:
    """An error in OpenAI's form."""
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": code}}, status, headers)
