"""Calls whose clients come back for the result: what is known of each, for a bounded time and size."""

import secrets
import time
from concurrent.futures import Future
from typing import Any

from runtime.errors import AudioLDM2Error
from runtime.output import AudioOutput
from runtime.server.fields import Fields
from runtime.server.service import Service
from runtime.server.ticket import Listener, Ticket

KEPT_S = 600.0  # after it is done
MOST_BYTES = 256 << 20  # of all waveforms that are kept


class NoSuchJobError(AudioLDM2Error):
    """There is no job of this id, or none any more."""


class NotDoneError(AudioLDM2Error):
    """The job has no result yet."""


class Job(Listener):
    """A call, how far it is, and the form in which its result is wanted."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.id = secrets.token_urlsafe(16)
        self.created_s = time.time()  # since 1970
        self.done_s: float | None = None  # of the monotonic clock
        self.completed = 0  # steps
        self.ticket: Ticket

    def step(self, completed: int) -> None:
        """So many steps are done."""
        self.completed = completed

    def watch(self, ticket: Ticket) -> None:
        """Take this as its call."""
        self.ticket = ticket
        ticket.result.add_done_callback(self._done)

    def _done(self, _: "Future[AudioOutput]") -> None:
        self.done_s = time.monotonic()

    @property
    def output(self) -> AudioOutput | None:
        """The result, if there is one."""
        result = self.ticket.result
        return result.result() if result.done() and not result.cancelled() and result.exception() is None else None


class Jobs:
    """The jobs of one service, all used by one thread.

    One that is done is kept for `kept_s`, or until there is no room for newer ones in `most_bytes` of waveforms. How
    many there are that are not done is bounded by the service's queue.
    """

    def __init__(self, service: Service, kept_s: float = KEPT_S, most_bytes: int = MOST_BYTES) -> None:
        self._service, self._kept_s, self._most_bytes = service, kept_s, most_bytes
        self._jobs: dict[str, Job] = {}  # in the order of their coming

    def add(self, job: Job) -> None:
        """Keep a job whose call was submitted."""
        self._forget()
        self._jobs[job.id] = job

    def find(self, job_id: str) -> Job:
        """The job of this id. Raises NoSuchJobError."""
        self._forget()
        if job_id not in self._jobs:
            raise NoSuchJobError("there is no such job: it never was, was deleted, or its time is over")
        return self._jobs[job_id]

    def delete(self, job_id: str) -> None:
        """Cancel the job and forget it. Raises NoSuchJobError."""
        self._service.cancel(self.find(job_id).ticket)
        del self._jobs[job_id]

    def state(self, job: Job) -> dict[str, Any]:
        """What is known of it, for JSON."""
        ticket, waiting = job.ticket, self._service.ahead_of(job.ticket)
        states = "done" if job.output is not None else "failed" if ticket.result.done() else "running"
        return {
            "id": job.id,
            "object": "job",
            "created": int(job.created_s),
            "state": states if waiting is None else "queued",
            "ahead": waiting,
            "step": job.completed,
            "steps": ticket.steps,
        }

    def _forget(self) -> None:
        """Drop the oldest of those that are done, as long as one is too old or all together are too large."""
        done = sorted((job for job in self._jobs.values() if job.done_s is not None), key=lambda job: job.done_s or 0)
        held = sum(job.output.audios.nbytes for job in done if job.output is not None)
        for job in done:
            if time.monotonic() - (job.done_s or 0) <= self._kept_s and held <= self._most_bytes:
                return
            held -= 0 if job.output is None else job.output.audios.nbytes
            del self._jobs[job.id]
