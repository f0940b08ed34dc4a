"""What every request gets: an id, a line in the log, a place in the metrics, and an answer whatever happens."""

import logging
import re
import secrets
import time
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.errors import InputError, MissingDependencyError
from runtime.server.fields import LimitError
from runtime.server.jobs import NoSuchJobError, NotDoneError
from runtime.server.metrics import Metrics
from runtime.server.ticket import DeadlineError, DrainingError, QueueFullError
from runtime.server.worker import WorkerDiedError
from runtime.wording import one_line

logger = logging.getLogger(__name__)

CLIENT_GONE = 499  # nginx's status for a client that did not wait: it goes to the log alone
ERRORS = {  # by the class of an error: status, and OpenAI's names for what is wrong
    InputError: (400, "invalid_request_error", "invalid_value"),
    LimitError: (400, "invalid_request_error", "over_limit"),
    NoSuchJobError: (404, "invalid_request_error", "not_found"),
    NotDoneError: (409, "invalid_request_error", "not_done"),
    QueueFullError: (429, "rate_limit_error", "queue_full"),
    WorkerDiedError: (500, "server_error", "worker_died"),
    MissingDependencyError: (501, "server_error", "not_installed"),
    DrainingError: (503, "server_error", "shutting_down"),
    DeadlineError: (504, "server_error", "deadline_passed"),
}
CODES = {
    401: "invalid_api_key",
    403: "cross_site",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_too_slow",
    413: "body_too_large",
}
OWN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # what is taken of a client as the id of its request


class Requests:
    """ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if OWN_ID.fullmatch(given) else secrets.token_hex(8)
        told = {"request_id": request_id, "method": scope["method"], "path": scope["path"], "status": CLIENT_GONE}
        scope["state"] = {**scope.get("state", {}), "told": told}
        begun, start = False, time.monotonic()

        async def send_with_id(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun, told["status"] = True, message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:  # one that nobody foresaw
            logger.error("%s: %s", request_id, one_line(error), extra={"fields": told})
            logger.debug("%s came from:", request_id, exc_info=error)
            if begun:
                return  # without an end: the server cuts the connection, so that nobody takes it for a whole answer
            await refusal(error)(scope, receive, send_with_id)
        finally:
            told["seconds"] = round(time.monotonic() - start, 4)
            handler = getattr(scope.get("endpoint"), "__name__", "none")
            self._metrics.request(handler, told["status"], told["seconds"])
            logger.info("%(method)s %(path)s %(status)s in %(seconds)s s", told, extra={"fields": told})


def client_gone(_: Request, __: Exception) -> Response:
    """Nobody reads it."""
    return Response(status_code=CLIENT_GONE)


def http_refusal(request: Request, error: Exception) -> Response:
    """An error of the web framework, or one in its form."""
    assert isinstance(error, HTTPException)
    code, headers = CODES.get(error.status_code), error.headers
    if error.status_code == 405:  # what a path takes may be told by several routes
        routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
        headers = {"Allow": ", ".join(sorted(set().union(*(route.methods for route in routes))))}
    return _refusal(error.status_code, error.detail, "invalid_request_error", code, headers)


def own_refusal(request: Request, error: Exception) -> Response:
    """One of our errors."""
    if status_of(error) == 500:
        fields = {"fields": request.state.told}
        logger.error("%s: %s", request.state.told["request_id"], one_line(error), extra=fields)
    return refusal(error)


def refusal(error: Exception) -> Response:
    """What a client gets for an error."""
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, QueueFullError) else None
    return _refusal(status_of(error), *error_words(error), headers)


def status_of(error: Exception) -> int:
    """The status of an error."""
    return ERRORS.get(type(error), (500, "", ""))[0]


def error_words(error: Exception) -> tuple[str, str, str]:
    """Message, type and code of an error, in OpenAI's words."""
    _, kind, code = ERRORS.get(type(error), (500, "server_error", "failed"))
    return one_line(error), kind, code


def error_body(message: str, kind: str, code: str | None) -> dict[str, object]:
    """An error in OpenAI's form."""
    return {"message": message, "type": kind, "param": None, "code": code}


def _refusal(
    status: int, message: str, kind: str, code: str | None, headers: Mapping[str, str] | None = None
) -> Response:
    return JSONResponse({"error": error_body(message, kind, code)}, status, headers)
