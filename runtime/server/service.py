"""A bounded queue of calls, and the thread that hands them to the worker: those that agree run as one."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.joining import join, split
from runtime.output import AudioOutput
from runtime.server.ticket import DrainingError, Listener, QueueFullError, Telling, Ticket
from runtime.server.worker import Worker, WorkerDiedError
from runtime.sound.finish import PLAIN, Finish
from runtime.wording import one_line

logger = logging.getLogger(__name__)

FIRST_GUESS = 1e-3  # seconds for a row of latents in a step, for who is turned away before a call was measured
WEIGHT = 0.2  # of the newest calls in the mean of their times
PAUSE_S = 2.0  # before a worker that could not be started is tried again, if no call comes before
MOST_DEATHS = 2  # of workers by one call: then it gets an error


class Service:
    """Takes calls from any thread and has its worker run them, the oldest first.

    Up to `max_batch` calls that agree (see runtime.joining) run as one, each as if it ran alone. The oldest call always
    runs next; younger ones that fit to it come along, and it waits for them up to `batch_wait_s`. Up to `max_queue`
    calls wait. A worker that dies is replaced, and what it ran is tried once more, each call alone: one that kills
    workers takes no other with it. The worker is the service's own.
    """

    def __init__(self, worker: Worker, *, max_batch: int = 1, max_queue: int = 64, batch_wait_s: float = 0.0) -> None:
        self._worker = worker
        self._max_batch, self._max_queue, self._batch_wait_s = max_batch, max_queue, batch_wait_s
        self._waiting: deque[Ticket] = deque()
        self._running: list[Ticket] = []
        self._changed = threading.Condition()  # guards all above and below; told at each change
        self._batches = 0  # how many were begun: the number of the one that runs
        self._warm, self._draining, self._closed = False, False, False
        self._row_s: float | None = None  # mean time for a row of latents in a step
        self._thread = threading.Thread(target=self._work, name="service", daemon=True)
        self._warm_up: tuple[float | None, ...] = ()
        self.deaths = 0  # how many workers ended without being told to
        self.failure: Exception | None = None  # why the worker could not be started the last time, until it can
        worker.on_death = self._wake

    @property
    def is_ready(self) -> bool:
        """Whether it is warm, and takes calls."""
        return self._warm and not self._draining

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many calls run, as one."""
        return len(self._running)

    def start(self, warm_up: Sequence[float | None] = (None,)) -> None:
        """Start, and first load and compile what calls of these durations need; None: the default."""
        self._warm_up = tuple(warm_up)
        self._thread.start()

    def submit(
        self,
        arguments: Mapping[str, Any],
        timeout_s: float | None = None,
        listener: Listener | None = None,
        finish: Finish = PLAIN,
    ) -> Ticket:
        """Queue a call of the arguments of `AudioLDM2Pipeline.__call__`, but for its callbacks.

        What `finish` says is left to whoever takes the result; here it is checked that the sound is long enough.

        Raises InputError for a wrong one or one that there is no memory for, QueueFullError, or DrainingError.
        """
        ticket = Ticket(self._worker.check(**arguments), timeout_s, listener, finish)
        with self._changed:
            if self._draining:
                raise DrainingError()
            if len(self._waiting) >= self._max_queue:
                raise QueueFullError(len(self._waiting), self._retry_after_s())
            self._waiting.append(ticket)
            self._changed.notify_all()
        return ticket

    def ahead_of(self, ticket: Ticket) -> int | None:
        """How many calls wait before this one; None if it does not wait."""
        with self._changed:
            return self._waiting.index(ticket) if ticket in self._waiting else None

    def cancel(self, ticket: Ticket) -> None:
        """Take a call out of the queue at once, or end it before its next step where nobody else waits for it."""
        ticket.cancel()
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                ticket.is_over()
                self._changed.notify_all()
            elif ticket in self._running and all(other.is_over() for other in self._running):
                self._worker.stop(self._batches)

    def drain(self, seconds: float | None = None) -> bool:
        """Take nothing new from now on. Returns whether all calls were done in the time; 0 does not wait."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._waiting and not self._running, seconds)

    def close(self) -> None:
        """End now, with DrainingError for all calls that wait or run. Ends the worker."""
        with self._changed:
            self._draining = self._closed = True
            for ticket in (*self._waiting, *self._running):
                ticket.fail(DrainingError())
            self._waiting.clear()
            self._changed.notify_all()
        self._worker.close()
        if self._thread.is_alive():
            self._thread.join()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _work(self) -> None:
        while not self._closed:
            if not self._worker.alive or not self._warm:
                self._start_worker()
            if batch := self._next_batch():
                start = time.monotonic()
                for ticket in batch:
                    ticket.queued_s, ticket.batch = start - ticket.arrived_s, len(batch)
                self._run(batch)
                self._note(time.monotonic() - start, sum(ticket.request.work for ticket in batch))
            elif self._draining:
                return

    def _start_worker(self) -> None:
        """Have a warm worker. While there can be none, whoever calls is told why."""
        self._warm = False
        while not self._closed:
            try:
                if not self._worker.alive:
                    self._worker.launch()
                self._worker.opened()
                self._warm_worker()
            except Exception as error:
                if self._closed:
                    return
                self.failure = error
                logger.error("the pipeline cannot be opened: %s", one_line(error))
                with self._changed:
                    for ticket in (*self._waiting, *self._running):
                        ticket.fail(error)
                    self._waiting.clear()
                    self._changed.wait_for(lambda: self._waiting or self._draining, PAUSE_S)
                    if self._draining:
                        return
            else:
                self._warm, self.failure = True, None
                return

    def _warm_worker(self) -> None:
        """Raises WorkerDiedError. Any other error is for the calls to tell: not every one needs what was warmed."""
        for duration in self._warm_up:
            for rows in sorted({1, self._max_batch}):
                try:
                    self._worker.warm_up(duration, rows)
                except WorkerDiedError:
                    raise
                except Exception as error:
                    logger.error("the warm-up failed: %s", one_line(error))

    def _next_batch(self) -> list[Ticket]:
        """Wait for the next calls to run as one; none when the service ends, or its worker has."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._draining or not self._worker.alive)
                self._waiting = deque(ticket for ticket in self._waiting if not ticket.is_over())
                if not self._worker.alive:
                    self._died()
                    return []
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
                self._batches += 1
                return batch

    def _fitting(self, oldest: Ticket) -> list[Ticket]:
        """The oldest call and the first of those that can run with it."""
        others = (ticket for ticket in self._waiting if ticket is not oldest and ticket.key == oldest.key)
        return [oldest, *others][: self._max_batch] if oldest.key is not None else [oldest]

    def _run(self, batch: list[Ticket]) -> None:
        """Settle every ticket. Where calls fail as one each is tried alone, so that only the one at fault is lost."""
        batch = [ticket for ticket in batch if not ticket.is_over()]
        if not batch:
            return
        try:
            outputs = self._render(batch)
        except WorkerDiedError as error:
            self._died()
            for ticket in batch:
                ticket.deaths += 1
                if ticket.deaths == MOST_DEATHS:
                    ticket.fail(error)
            self._start_worker()
        except Exception as error:  # whatever a library raises: the service stays up
            if len(batch) == 1:
                batch[0].fail(error)
        else:
            for ticket, output in zip(batch, outputs, strict=True):
                if not ticket.is_over():
                    ticket.result.set_result(output)
        for ticket in batch:
            self._run([ticket])  # does nothing for one that is settled

    def _render(self, batch: list[Ticket]) -> list[AudioOutput]:
        requests = [ticket.request for ticket in batch]
        listeners = [ticket.listener for ticket in batch if ticket.listener is not None]
        telling = Telling(batch, self._worker, self._batches)
        output = self._worker.render(
            self._batches,
            requests[0] if len(batch) == 1 else join(requests),
            telling.step if listeners else None,
            telling.audio if any(listener.wants_audio for listener in listeners) else None,
        )
        return [output] if len(batch) == 1 else split(output, requests)

    def _died(self) -> None:
        if not self._closed:
            self._warm = False
            self.deaths += 1
            logger.error("the worker ended: it is started again")

    def _note(self, seconds: float, work: int) -> None:
        """A batch is done, in so much time."""
        with self._changed:
            self._running = []
            mean, new = self._row_s, seconds / work
            self._row_s = new if mean is None else (1 - WEIGHT) * mean + WEIGHT * new
            self._changed.notify_all()

    def _retry_after_s(self) -> int:
        """When what waits now is likely to be done."""
        queued = sum(ticket.request.work for ticket in (*self._running, *self._waiting))
        return max(1, math.ceil((self._row_s or FIRST_GUESS) * queued))
