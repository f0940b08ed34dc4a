"""A bounded queue of calls, and the worker that runs them: those that agree run as one."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from runtime.arguments import StopDenoising
from runtime.errors import AudioLDM2Error
from runtime.joining import batch_key, join, split
from runtime.output import AudioOutput
from runtime.pipeline import AudioLDM2Pipeline
from runtime.request import Request
from runtime.wording import one_line

logger = logging.getLogger(__name__)

FIRST_GUESS_S = 5.0  # of a call's time, for who is turned away before one was measured
WEIGHT = 0.2  # of the newest call in the mean of their times


class QueueFullError(AudioLDM2Error):
    """As many calls wait as may. `retry_after_s` is when some of them are likely to be done."""

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__(f"{waiting} calls are waiting, which is as many as may: try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class DrainingError(AudioLDM2Error):
    """The service ends: it finishes what it has, and takes nothing new."""

    def __init__(self) -> None:
        super().__init__("the service is shutting down")


class DeadlineError(AudioLDM2Error):
    """The call was not done in the time that it was given."""


class Ticket:
    """A call that waits or runs. `result` ends in an AudioOutput or an error, or is cancelled with the ticket."""

    def __init__(self, arguments: Mapping[str, Any], pipeline: AudioLDM2Pipeline, timeout_s: float | None) -> None:
        self.request: Request = pipeline.check(**arguments, callback=self._step)
        self.key: Hashable | None = batch_key(self.request)
        self.result: Future[AudioOutput] = Future()
        self.arrived_s = time.monotonic()
        self.queued_s = 0.0  # how long it waited, once it runs
        self._timeout_s = timeout_s
        self._cancelled = False

    def cancel(self) -> None:
        """Nobody wants the result any more: a call that runs ends before its next step, if it runs alone."""
        self._cancelled = True

    @property
    def left_s(self) -> float | None:
        """How much of its time is left, at least 0; None if it has no end."""
        return None if self._timeout_s is None else max(0.0, self.arrived_s + self._timeout_s - time.monotonic())

    @property
    def late(self) -> bool:
        """Whether its time has passed."""
        return self.left_s == 0

    def deadline_error(self) -> DeadlineError:
        """What a caller is told whose time has passed."""
        return DeadlineError(f"the call was not done within {self._timeout_s:g} s")

    def is_over(self) -> bool:
        """Whether it need not run, or run on: it was cancelled, or is late. Then its result is settled here."""
        if self._cancelled:
            self.result.cancel()
        elif self.late and not self.result.done():
            self.result.set_exception(self.deadline_error())
        return self.result.done()

    def _step(self, *_: object) -> None:
        if self._cancelled or self.late:
            raise StopDenoising


class Service:
    """Takes calls from any thread and runs them in a thread of its own, the oldest first.

    Up to `max_batch` calls that agree (see runtime.joining) run as one, each as if it ran alone. The oldest call always
    runs next; younger ones that fit to it come along, and it waits for them up to `batch_wait_s`. Up to `max_queue`
    calls wait. The pipeline is the worker's own from `start` on.
    """

    def __init__(
        self, pipeline: AudioLDM2Pipeline, *, max_batch: int = 1, max_queue: int = 64, batch_wait_s: float = 0.0
    ) -> None:
        self._pipeline = pipeline
        self._max_batch, self._max_queue, self._batch_wait_s = max_batch, max_queue, batch_wait_s
        self._waiting: deque[Ticket] = deque()
        self._running: list[Ticket] = []
        self._changed = threading.Condition()  # guards all above and below; told at each change
        self._ready, self._draining = False, False
        self._mean_call_s: float | None = None
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self._warm_up: tuple[float | None, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether it is warm, and takes calls."""
        return self._ready and not self._draining

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    def start(self, warm_up: Sequence[float | None] = (None,)) -> None:
        """Start the worker, which first loads and compiles what calls of these durations need; None: the default."""
        self._warm_up = tuple(warm_up)
        self._thread.start()

    def submit(self, arguments: Mapping[str, Any], timeout_s: float | None = None) -> Ticket:
        """Queue a call of the arguments of `AudioLDM2Pipeline.__call__`, but for `callback`.

        Raises InputError for a wrong one, QueueFullError, or DrainingError.
        """
        ticket = Ticket(arguments, self._pipeline, timeout_s)
        with self._changed:
            if self._draining:
                raise DrainingError()
            if len(self._waiting) >= self._max_queue:
                raise QueueFullError(len(self._waiting), self._retry_after_s())
            self._waiting.append(ticket)
            self._changed.notify_all()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Take a call out of the queue at once, or end it before its next step where it runs alone."""
        ticket.cancel()
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                ticket.is_over()

    def drain(self, seconds: float | None = None) -> bool:
        """Take nothing new from now on. Returns whether all calls were done in the time; 0 does not wait."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._waiting and not self._running, seconds)

    def close(self) -> None:
        """End now: calls that wait get DrainingError, one that runs ends before its next step. Frees the engines."""
        with self._changed:
            self._draining = True
            for ticket in self._waiting:
                ticket.result.set_exception(DrainingError())
            self._waiting.clear()
            for ticket in self._running:
                ticket.cancel()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._pipeline.close()

    def _work(self) -> None:
        try:
            for duration in self._warm_up:
                self._pipeline("warm-up", audio_length_in_s=duration, num_inference_steps=2)
        except Exception as error:  # each call will say so too
            logger.error("the warm-up failed: %s", one_line(error))
        self._ready = True
        while batch := self._next_batch():
            start = time.monotonic()
            for ticket in batch:
                ticket.queued_s = start - ticket.arrived_s
            self._run(batch)
            self._note(time.monotonic() - start)

    def _next_batch(self) -> list[Ticket]:
        """Wait for the next calls to run as one; none when the service ends."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._draining)
                self._drop_what_is_over()
                if not self._waiting:
                    if self._draining:
                        return []
                    continue
                oldest = self._waiting[0]
                missing_s = oldest.arrived_s + self._batch_wait_s - time.monotonic()
                batch = self._fitting(oldest)
                if len(batch) < self._max_batch and missing_s > 0 and oldest.key is not None and not self._draining:
                    self._changed.wait(missing_s)
                    continue
                self._waiting = deque(ticket for ticket in self._waiting if ticket not in batch)
                self._running = batch
                return batch

    def _fitting(self, oldest: Ticket) -> list[Ticket]:
        """The oldest call and the first of those that can run with it."""
        others = (ticket for ticket in self._waiting if ticket is not oldest and ticket.key == oldest.key)
        return [oldest, *others][: self._max_batch] if oldest.key is not None else [oldest]

    def _drop_what_is_over(self) -> None:
        self._waiting = deque(ticket for ticket in self._waiting if not ticket.is_over())

    def _run(self, batch: list[Ticket]) -> None:
        """Settle every ticket. Where calls fail as one each is tried alone, so that only the one at fault is lost."""
        requests = [ticket.request for ticket in batch]
        try:
            if len(batch) == 1:
                outputs = [self._pipeline.render(requests[0])]
            else:
                outputs = split(self._pipeline.render(join(requests)), requests)
        except Exception as error:  # whatever a library raises: the service stays up
            if len(batch) == 1:
                logger.debug("a call failed:", exc_info=error)
                if not batch[0].is_over():
                    batch[0].result.set_exception(error)
                return
        else:
            for ticket, output in zip(batch, outputs, strict=True):
                if not ticket.is_over():
                    ticket.result.set_result(output)
            return
        for ticket in batch:  # here nothing holds the error any more, and with it the arrays of the call that failed
            self._run([ticket])

    def _note(self, seconds: float) -> None:
        """A batch is done, in so much time."""
        with self._changed:
            self._running = []
            mean = self._mean_call_s
            self._mean_call_s = seconds if mean is None else (1 - WEIGHT) * mean + WEIGHT * seconds
            self._changed.notify_all()

    def _retry_after_s(self) -> int:
        """When a place is likely to be free: after the batch that runs."""
        return max(1, math.ceil(self._mean_call_s or FIRST_GUESS_S))
