"""A call on its way through the service: what it asks, who listens, how it ends."""

import time
from collections.abc import Hashable, Sequence
from concurrent.futures import Future

from runtime.backends.device import Array
from runtime.errors import AudioLDM2Error
from runtime.joining import batch_key, rows_of
from runtime.output import AudioOutput
from runtime.request import Request
from runtime.server.worker import Worker
from runtime.sound.finish import PLAIN, Finish


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


class Listener:
    """What a caller wants to hear of a call before its result. Its methods are called by the service's thread."""

    wants_audio = False

    def step(self, completed: int) -> None:
        """So many steps are done."""

    def audio(self, part: Array) -> None:
        """The next samples of each waveform, (rows, samples), if it wants them."""


class Ticket:
    """A call that waits or runs. `result` ends in an AudioOutput or an error, or is cancelled with the ticket."""

    def __init__(
        self,
        request: Request,
        timeout_s: float | None = None,
        listener: Listener | None = None,
        finish: Finish = PLAIN,
    ) -> None:
        finish.check(request.result_s)
        self.request, self.listener, self.finish = request, listener, finish
        self.key: Hashable | None = batch_key(request)
        self.result: Future[AudioOutput] = Future()
        self.arrived_s = time.monotonic()
        self.queued_s = 0.0  # how long it waited, once it runs
        self.batch = 0  # how many calls ran as one with it, itself included
        self.deaths = 0  # how many workers died while they ran it
        self.heard = 0  # how many samples its listener has got
        self._timeout_s = timeout_s
        self._cancelled = False

    @property
    def steps(self) -> int:
        """How many steps it has."""
        plan = self.request.plan
        return plan.num_inference_steps or len(plan.steps)

    def cancel(self) -> None:
        """Nobody wants the result any more."""
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

    def fail(self, error: Exception) -> None:
        """Settle the result with this error, unless it is settled."""
        if not self.is_over():
            self.result.set_exception(error)

    def is_over(self) -> bool:
        """Whether it need not run, or run on: it was cancelled, or is late. Then its result is settled here."""
        if self._cancelled:
            self.result.cancel()
        elif self.late and not self.result.done():
            self.result.set_exception(self.deadline_error())
        return self.result.done()


class Telling:
    """Passes on what the worker tells of a batch: to each call its own rows, and nothing twice."""

    def __init__(self, batch: Sequence[Ticket], worker: Worker, number: int) -> None:
        self._batch, self._worker, self._number = batch, worker, number
        self._rows = rows_of([ticket.request for ticket in batch])
        self._done = 0  # samples

    def step(self, completed: int) -> None:
        """So many steps are done. Where nobody waits any more, the worker is stopped."""
        going = [ticket for ticket in self._batch if not ticket.is_over()]
        for ticket in going:
            if ticket.listener is not None:
                ticket.listener.step(completed)
        if not going:
            self._worker.stop(self._number)

    def audio(self, part: Array) -> None:
        """The next samples of all rows."""
        start, self._done = self._done, self._done + part.shape[1]
        for ticket, (first, last) in zip(self._batch, self._rows, strict=True):
            new = part[first:last, max(0, ticket.heard - start) : max(0, ticket.request.samples - start)]
            if ticket.listener is not None and ticket.listener.wants_audio and new.shape[1] and not ticket.is_over():
                ticket.heard += new.shape[1]
                ticket.listener.audio(new)
