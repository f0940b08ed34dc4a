"""What the application does for each path."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive

from runtime.errors import InputError
from runtime.output import AudioOutput
from runtime.server.answers import (
    PCM_BYTES,
    described,
    encoded,
    finished,
    headers_after,
    headers_before,
    pcm,
    sound_bytes,
    stages,
    wav_header,
    zipped,
)
from runtime.server.fields import FORMATS, IN_CHUNKS, Fields, Generate, Inputs, Speech, read_body
from runtime.server.forms import read_edit
from runtime.server.jobs import Job, Jobs, NotDoneError
from runtime.server.metrics import CONTENT_TYPE, Metrics
from runtime.server.model import Model
from runtime.server.openapi import describe, page
from runtime.server.requests import error_body, error_words
from runtime.server.service import Service
from runtime.server.streams import Events, Stream, event, unless_gone
from runtime.server.ticket import DrainingError, Listener, Ticket
from runtime.sound.finish import PLAIN
from runtime.wording import one_line, readable

T = TypeVar("T")
BODY_S = 30.0  # for a body to come
CLOSE = {"Connection": "close"}
SAFE = {  # what a page without scripts may load
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class Handlers:
    """One method a path. They run on the event loop, and leave it for whatever takes longer than a millisecond."""

    def __init__(
        self,
        service: Service,
        model: Model,
        metrics: Metrics,
        *,
        api_keys: Sequence[str],
        cors_origins: Sequence[str],
        jobs: bool,
    ) -> None:
        self._service, self._model, self._metrics = service, model, metrics
        self._keys, self._origins = tuple(key.encode() for key in api_keys), frozenset(cors_origins)
        self._jobs, self._takes_jobs = Jobs(service), jobs

    async def health(self, _: Request) -> Response:
        """The process is alive."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """Whether calls are taken: it is warm, and not shutting down."""
        ready = self._service.is_ready
        return JSONResponse({"ready": ready, "waiting": self._service.waiting}, 200 if ready else 503)

    async def metrics(self, _: Request) -> Response:
        """Figures for Prometheus."""
        return Response(self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, _: Request) -> Response:
        """The API's description for programs."""
        return JSONResponse(describe(bool(self._keys)))

    async def docs(self, _: Request) -> Response:
        """The same to read."""
        return HTMLResponse(page(describe(bool(self._keys))), headers=SAFE)

    async def models(self, request: Request) -> Response:
        """The one model, in OpenAI's form."""
        self._admit(request)
        return JSONResponse({"object": "list", "data": [self._model.described()]})

    async def one_model(self, request: Request) -> Response:
        """The same, by its name."""
        self._admit(request)
        self._check_model(request.path_params["model"])
        return JSONResponse(self._model.described())

    async def generate(self, request: Request) -> Response:
        """Text to sound: one file, or several waveforms as JSON or in a zip."""
        self._admit(request)
        fields = read_body(await self._body(request), Generate)
        return await self._answer(request, fields, several=True)

    async def speech(self, request: Request) -> Response:
        """The same for OpenAI's clients, who expect one file: the best of several waveforms."""
        self._admit(request)
        return await self._answer(request, read_body(await self._body(request), Speech), several=False)

    async def inputs(self, request: Request) -> Response:
        """The same for Hugging Face's clients."""
        self._admit(request)
        self._check_model(request.path_params.get("model"))
        fields = read_body(await self._body(request), Inputs).generate(speaks=self._model.speaks)
        return await self._answer(request, fields, several=False)

    async def edit(self, request: Request) -> Response:
        """A sound that is sent in a form, with what is to become of it."""
        self._admit(request)
        sound, fields = await read_edit(request, await self._body(request, self._model.limits.max_upload_bytes))
        self._check_model(fields.model)
        arguments = await asyncio.to_thread(self._model.edit_arguments, fields, sound)
        return await self._made(request, fields, arguments, several=True)

    async def job(self, request: Request) -> Response:
        """How far a job is."""
        self._admit(request)
        job = self._jobs.find(request.path_params["job"])
        return JSONResponse(self._state(job))

    async def delete_job(self, request: Request) -> Response:
        """Cancel a job and forget it."""
        self._admit(request)
        self._jobs.delete(request.path_params["job"])
        return JSONResponse({"id": request.path_params["job"], "object": "job", "deleted": True})

    async def job_result(self, request: Request) -> Response:
        """A job's sound, as a plain request would have got it."""
        self._admit(request)
        job = self._jobs.find(request.path_params["job"])
        output = job.output
        if output is None:
            raise NotDoneError("the job has no result: see its state")
        return await asyncio.to_thread(self._whole, request, job.fields, job.ticket, output, several=True)

    async def _answer(self, request: Request, fields: Fields, *, several: bool) -> Response:
        self._check_model(fields.model)
        return await self._made(request, fields, self._model.arguments(fields), several=several)

    async def _made(self, request: Request, fields: Fields, arguments: dict[str, Any], *, several: bool) -> Response:
        """The answer to a call of these arguments, in the form that the request wants."""
        if "respond-async" in request.headers.get("prefer", "").lower():
            if not self._takes_jobs:
                raise InputError("Prefer: respond-async is refused here: no other process would find the job again")
            job = Job(fields)
            job.watch(await self._submit(fields, arguments, job))
            self._jobs.add(job)
            headers = {"Location": f"/v1/jobs/{job.id}", "Preference-Applied": "respond-async"}
            return JSONResponse(self._state(job), 202, headers)
        if fields.stream_format is not None:
            return await self._stream(request, fields, arguments)
        ticket = await self._submit(fields, arguments)
        output = await self._unless_gone(asyncio.wrap_future(ticket.result), ticket, request.receive)
        self._note(request, ticket, output)
        return await asyncio.to_thread(self._whole, request, fields, ticket, output, several=several)

    def _whole(
        self, request: Request, fields: Fields, ticket: Ticket, output: AudioOutput, *, several: bool
    ) -> Response:
        """A sound that is done: one file, or all waveforms in the form that the client takes."""
        output = finished(output, ticket.finish)
        headers, kind = headers_after(output, ticket), fields.response_format
        if len(output.audios) == 1 or not several:
            body = sound_bytes(output.audios[0], output.sampling_rate, kind)
            return Response(body, media_type=FORMATS[kind], headers=headers)
        if "application/zip" in request.headers.get("accept", ""):
            return Response(zipped(output, kind), media_type="application/zip", headers=headers)
        return JSONResponse(self._described(request, fields, ticket, output), headers=headers)

    async def _stream(self, request: Request, fields: Fields, arguments: dict[str, Any]) -> Response:
        """An answer that begins before the sound is done: at its first samples, or at once for events."""
        in_chunks = fields.stream_format == "audio" or isinstance(fields, Speech)
        if in_chunks and arguments.get("num_waveforms_per_prompt", 1) > 1:
            raise InputError("a sound that is sent as it is made is one waveform: leave out num_waveforms_per_prompt")
        events = Events(wants_audio=in_chunks and fields.response_format in IN_CHUNKS)
        if events.wants_audio and fields.finish != PLAIN:
            raise InputError("fade, loudness and sample_rate are of a whole sound: leave out stream_format, or them")
        ticket = await self._submit(fields, arguments, events)
        rate = self._model.manifest.audio.sample_rate_hz
        headers = {**headers_before(ticket.request, fields.sample_rate or rate), "Cache-Control": "no-store"}
        if fields.stream_format == "sse":
            kind, parts = "text/event-stream", self._events(request, fields, ticket, events)
        else:
            kind, parts = FORMATS[fields.response_format], self._chunks(request, ticket, events)
            first = await self._unless_gone(anext(parts), ticket, request.receive)  # until here an error has a status
            head = wav_header(ticket.request.samples, rate) if fields.response_format == "wav" else b""
            headers["Content-Length"] = str(len(head) + ticket.request.samples * PCM_BYTES)
            parts = _joined(head + first, parts)
        return Stream(parts, self._service, ticket, media_type=kind, headers=headers)

    async def _chunks(self, request: Request, ticket: Ticket, events: Events) -> AsyncIterator[bytes]:
        """The samples of a call, as they are made. Raises what the call raises."""
        async for kind, value in events.of(ticket):
            if kind == "audio":
                yield pcm(value[0])
        self._note(request, ticket, ticket.result.result())

    async def _events(self, request: Request, fields: Fields, ticket: Ticket, events: Events) -> AsyncIterator[bytes]:
        """What happens to a call, and at last its result or error."""
        told = request.state.told
        try:
            yield self._place(request, ticket)
            async for kind, value in events.of(ticket):
                if kind == "step":
                    yield event("audio.progress", step=value, steps=ticket.steps)
                elif kind == "audio":
                    yield event("speech.audio.delta", audio=encoded(pcm(value[0])))
                elif kind == "alive":
                    yield self._place(request, ticket)
            output = ticket.result.result()
            self._note(request, ticket, output)
            output = await asyncio.to_thread(finished, output, ticket.finish)
            if not isinstance(fields, Speech):
                yield event("audio.done", **await asyncio.to_thread(self._described, request, fields, ticket, output))
                return
            if not events.wants_audio:
                sound = await asyncio.to_thread(
                    sound_bytes, output.audios[0], output.sampling_rate, fields.response_format
                )
                yield event("speech.audio.delta", audio=encoded(sound))
            yield event("speech.audio.done")
        except Exception as error:
            told["error"] = one_line(error)
            yield event("error", error=error_body(*error_words(error)))

    async def _submit(self, fields: Fields, arguments: dict[str, Any], listener: Listener | None = None) -> Ticket:
        """Queue a call. Raises what `Service.submit` raises."""
        return await asyncio.to_thread(self._service.submit, arguments, fields.timeout_s, listener, fields.finish)

    def _place(self, request: Request, ticket: Ticket) -> bytes:
        """Where a call is in the queue; for one that runs, a comment that keeps the connection open."""
        ahead = self._service.ahead_of(ticket)
        if ahead is None:
            return b": running\n\n"
        return event("audio.queued", request_id=request.state.told["request_id"], waiting=ahead)

    def _described(self, request: Request, fields: Fields, ticket: Ticket, output: AudioOutput) -> dict[str, Any]:
        own = {"request_id": request.state.told["request_id"], "model": self._model.name}
        return own | described(output, ticket, fields.response_format)

    def _state(self, job: Job) -> dict[str, Any]:
        """What is known of a job, with where its result is, or its error."""
        state, result = self._jobs.state(job), job.ticket.result
        if state["state"] == "done":
            state["result"] = f"/v1/jobs/{job.id}/result"
        elif state["state"] == "failed":
            error = DrainingError() if result.cancelled() else result.exception()
            assert isinstance(error, Exception)
            state["error"] = error_body(*error_words(error))
        return state

    async def _unless_gone(self, wanted: Awaitable[T], ticket: Ticket, receive: Receive) -> T:
        """What comes. Where the client goes away first, or its time passes, the call is cancelled.

        Raises ClientDisconnect, DeadlineError, DrainingError, or what is raised in its place.
        """
        try:
            return await unless_gone(wanted, receive, ticket.left_s)
        except (ClientDisconnect, TimeoutError, asyncio.CancelledError) as error:
            self._service.cancel(ticket)
            if isinstance(error, ClientDisconnect):
                raise
            # cancelled by the server, whose time to finish is over
            raise (ticket.deadline_error() if isinstance(error, TimeoutError) else DrainingError()) from error

    def _note(self, request: Request, ticket: Ticket, output: AudioOutput) -> None:
        """A call is done: for the log and the metrics."""
        timings = stages(output, ticket)
        self._metrics.call(ticket, output)
        request.state.told |= {
            "seed": output.seeds[0],
            "steps": ticket.steps,
            "batch": ticket.batch,
            "timings": {name: round(seconds, 4) for name, seconds in timings.items()},
        }

    async def _body(self, request: Request, most: int | None = None) -> bytes:
        """The body; one that is too large, or comes too slowly, is refused as soon as that is known."""
        body, most = bytearray(), most or self._model.limits.max_body_bytes
        try:
            async with asyncio.timeout(BODY_S):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > most:
                        raise HTTPException(413, f"the body has more than {most} bytes")
        except TimeoutError as error:
            raise HTTPException(408, f"the body did not come within {BODY_S:g} s", CLOSE) from error
        return bytes(body)

    def _check_model(self, name: str | None) -> None:
        if name not in (None, self._model.name):
            raise HTTPException(404, f"there is no model '{readable(name or '')}': here is {self._model.name}")

    def _admit(self, request: Request) -> None:
        """Raises HTTPException for a wrong key, and for a page of another site that has the user's browser ask."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if self._keys and True not in [hmac.compare_digest(given, key) for key in self._keys]:
            raise HTTPException(401, "a key is needed: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if site == "cross-site" and not self._origins & {origin, "*"}:
            raise HTTPException(403, "pages of other sites may not ask here: see --cors-origin")


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for part in rest:
        yield part
