"""The queue of the service over a worker that only notes what it is asked for."""

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.errors import EngineError
from runtime.server import service as module
from runtime.server import ticket as ticket_module
from runtime.server.service import Service
from runtime.server.ticket import DeadlineError, DrainingError, Listener, QueueFullError
from runtime.server.worker import StoppedError, WorkerDiedError
from tests.unit.helpers import raises_line


class Worker:
    """Renders when it is let go. A request's key is that of its arguments; "broken" fails, "poison" kills it."""

    def __init__(self) -> None:
        self.rendered: list[list[str]] = []
        self.go = threading.Semaphore(0)
        self.alive, self.closed = False, False
        self.launches, self.warmed = 0, []
        self.stopped = 0
        self.on_death: Callable[[], None]
        self.cannot_open: Exception | None = None

    def launch(self) -> None:
        self.launches += 1
        self.alive = True

    def opened(self) -> None:
        if self.cannot_open is not None:
            self.alive = False  # as the real one, which ends its process then
            raise self.cannot_open

    def warm_up(self, duration_s: float | None, rows: int) -> None:
        self.warmed.append((duration_s, rows))

    def check(self, *, prompt: str, key: object = "one") -> Any:
        return SimpleNamespace(prompt=prompt, key=key, rows=1, samples=10, work=1000, result_s=1.0)

    def render(self, number: int, request: Any, on_step: Any, on_audio: Any) -> Any:
        requests = request if isinstance(request, list) else [request]
        prompts = [each.prompt for each in requests]
        self.rendered.append(prompts)
        self.go.acquire()
        if on_step is not None:
            on_step(1)
        if on_audio is not None:
            for start in range(0, 12, 6):
                rows = range(len(requests))
                on_audio(np.array([[100 * row + start + i for i in range(6)] for row in rows]))
                if start == 0 and prompts == ["dies once"] and self.launches == 1:
                    self._die()
        if self.stopped >= number:
            raise StoppedError
        if "poison" in prompts:
            self._die()
        if "broken" in prompts:
            raise EngineError("broken")
        outputs = [f"sound of {prompt}" for prompt in prompts]
        return outputs if isinstance(request, list) else outputs[0]

    def _die(self) -> None:
        self.alive = False
        raise WorkerDiedError("died")

    def stop(self, number: int) -> None:
        self.stopped = number

    def close(self) -> None:
        self.alive, self.closed = False, True


class Heard(Listener):
    wants_audio = True

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.samples: list[int] = []

    def step(self, completed: int) -> None:
        self.steps.append(completed)

    def audio(self, part: Any) -> None:
        self.samples += part[0].tolist()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(ticket_module, "batch_key", lambda request: request.key)
    monkeypatch.setattr(module, "join", list)
    monkeypatch.setattr(module, "split", lambda outputs, _: outputs)
    return Worker()


@pytest.fixture
def started(worker: Worker) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def start(**options: Any) -> Service:
        services.append(Service(worker, **options))  # type: ignore[arg-type]
        services[-1].start()
        return services[-1]

    yield start
    worker.go.release(100)
    for service in services:
        service.close()
    assert worker.closed


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def call(
    service: Service, prompt: str, key: object = "one", timeout_s: float | None = None, listener: Any = None
) -> Any:
    return service.submit({"prompt": prompt, "key": key}, timeout_s, listener)


def test_those_that_agree_come_along_with_the_oldest(worker: Worker, started: Callable[..., Service]) -> None:
    service = started(max_batch=3)
    first = call(service, "first")
    until(lambda: worker.rendered)
    keys = ["one", "two", "one", None, "one", "one", "two", None]
    tickets = [call(service, str(number), key) for number, key in enumerate(keys)]
    assert [service.ahead_of(ticket) for ticket in (first, *tickets)] == [None, *range(8)]
    worker.go.release(20)
    assert [ticket.result.result(10) for ticket in tickets] == [f"sound of {n}" for n in range(len(keys))]
    assert first.result.result(10) == "sound of first"
    assert worker.rendered == [["first"], ["0", "2", "4"], ["1", "6"], ["3"], ["5"], ["7"]]
    assert worker.warmed == [(None, 1), (None, 3)]


def test_it_waits_for_more_to_come_but_not_when_it_is_full(worker: Worker, started: Callable[..., Service]) -> None:
    service = started(max_batch=2, batch_wait_s=30.0)
    worker.go.release(20)
    tickets = [call(service, "a"), call(service, "b")]
    assert [ticket.result.result(10) for ticket in tickets] == ["sound of a", "sound of b"]
    alone = call(service, "alone", None)
    assert alone.result.result(10) == "sound of alone"  # nothing can join it: there is nothing to wait for
    assert worker.rendered == [["a", "b"], ["alone"]]


def test_the_one_at_fault_is_lost_alone(worker: Worker, started: Callable[..., Service]) -> None:
    service = started(max_batch=3, batch_wait_s=30.0)
    worker.go.release(20)
    good, broken, other = (call(service, prompt) for prompt in ("a", "broken", "b"))
    assert (good.result.result(10), other.result.result(10)) == ("sound of a", "sound of b")
    with raises_line(EngineError, "broken"):
        broken.result.result(10)
    assert worker.rendered == [["a", "broken", "b"], ["a"], ["broken"], ["b"]]


def test_one_that_kills_workers_takes_no_other_with_it(worker: Worker, started: Callable[..., Service]) -> None:
    service = started(max_batch=3, batch_wait_s=30.0)
    worker.go.release(20)
    good, poison, other = (call(service, prompt) for prompt in ("a", "poison", "b"))
    assert (good.result.result(10), other.result.result(10)) == ("sound of a", "sound of b")
    with raises_line(WorkerDiedError, "died"):
        poison.result.result(10)
    assert worker.rendered == [["a", "poison", "b"], ["a"], ["poison"], ["b"]]
    assert (worker.launches, service.deaths) == (3, 2)
    assert worker.warmed == [(None, 1), (None, 3)] * 3


def test_what_a_dead_worker_told_is_not_told_twice(worker: Worker, started: Callable[..., Service]) -> None:
    service, heard = started(), Heard()
    worker.go.release(20)
    ticket = call(service, "dies once", None, listener=heard)
    assert ticket.result.result(10) == "sound of dies once"
    assert worker.launches == 2
    assert heard.samples == list(range(10))  # its request has 10 samples, of which the worker makes 12


def test_each_hears_its_own(worker: Worker, started: Callable[..., Service]) -> None:
    service = started(max_batch=2, batch_wait_s=30.0)
    worker.go.release(20)
    ears = [Heard(), Heard()]
    for ticket in [call(service, str(i), listener=ear) for i, ear in enumerate(ears)]:
        ticket.result.result(10)
    assert [ear.samples for ear in ears] == [list(range(10)), list(range(100, 110))]
    assert [ear.steps for ear in ears] == [[1], [1]]


def test_a_worker_that_dies_at_rest_is_replaced(worker: Worker, started: Callable[..., Service]) -> None:
    service = started()
    until(lambda: service.is_ready)
    worker.alive = False
    worker.on_death()
    until(lambda: worker.launches == 2 and service.is_ready)
    worker.go.release()
    assert call(service, "a").result.result(10) == "sound of a"


def test_while_there_can_be_no_worker_callers_are_told_why(
    worker: Worker, started: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.cannot_open = EngineError("the disk is gone")
    service = started()
    for _ in range(2):
        ticket = call(service, "a")
        with raises_line(EngineError, "the disk is gone"):
            ticket.result.result(10)
    assert not service.is_ready
    assert service.failure is worker.cannot_open
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    worker.cannot_open = None
    until(lambda: service.is_ready)
    assert service.failure is None
    worker.go.release()
    assert call(service, "b").result.result(10) == "sound of b"


def test_a_full_queue(worker: Worker, started: Callable[..., Service]) -> None:
    service = started(max_queue=2)
    running = call(service, "runs")
    until(lambda: worker.rendered)
    for prompt in "ab":
        call(service, prompt)
    with raises_line(
        QueueFullError, "2 calls are waiting", "3 s"
    ):  # with the one that runs each takes 1 s, as is guessed
        call(service, "c")
    assert service.waiting == 2
    worker.go.release()
    assert running.result.result(10)


def test_a_call_that_waits_is_cancelled_at_once_and_one_that_runs_before_its_next_step(
    worker: Worker, started: Callable[..., Service]
) -> None:
    service = started()
    running = call(service, "runs")
    until(lambda: worker.rendered)
    waiting, other = call(service, "waits"), call(service, "other")
    service.cancel(waiting)
    assert waiting.result.cancelled()
    assert service.waiting == 1
    service.cancel(running)
    assert worker.stopped == 1
    worker.go.release(20)
    assert other.result.result(10) == "sound of other"
    assert running.result.cancelled()
    assert worker.rendered == [["runs"], ["other"]]
    service.cancel(running)  # long over: nothing else is stopped
    assert worker.stopped == 1


def test_one_that_leaves_a_batch_harms_no_other(worker: Worker, started: Callable[..., Service]) -> None:
    service = started(max_batch=2, batch_wait_s=30.0)
    one, two = call(service, "one"), call(service, "two")
    until(lambda: worker.rendered)
    service.cancel(one)
    assert worker.stopped == 0
    worker.go.release(20)
    assert two.result.result(10) == "sound of two"
    assert one.result.cancelled()
    assert worker.rendered == [["one", "two"]]


def test_a_deadline_that_passes_in_the_queue(worker: Worker, started: Callable[..., Service]) -> None:
    service = started()
    call(service, "runs")
    until(lambda: worker.rendered)
    late = call(service, "late", timeout_s=0.01)
    time.sleep(0.05)
    worker.go.release(20)
    with raises_line(DeadlineError, "0.01 s"):
        late.result.result(10)
    assert worker.rendered == [["runs"]]


def test_a_deadline_of_one_that_runs_and_that_nobody_waits_for(worker: Worker, started: Callable[..., Service]) -> None:
    service = started()
    ticket = call(service, "late", timeout_s=0.05, listener=Listener())
    until(lambda: worker.rendered)
    time.sleep(0.1)
    worker.go.release(20)
    with raises_line(DeadlineError, "0.05 s"):
        ticket.result.result(10)
    until(lambda: worker.stopped == 1)


def test_draining_finishes_what_was_taken(worker: Worker, started: Callable[..., Service]) -> None:
    service = started()
    running, waiting = call(service, "runs"), call(service, "waits")
    until(lambda: worker.rendered and service.is_ready)
    assert service.drain(0) is False
    assert not service.is_ready
    with raises_line(DrainingError, "shutting down"):
        call(service, "new")
    worker.go.release(20)
    assert service.drain(10) is True
    assert [ticket.result.result(0) for ticket in (running, waiting)] == ["sound of runs", "sound of waits"]


def test_closing_does_not(worker: Worker, started: Callable[..., Service]) -> None:
    service = started()
    running = call(service, "runs")
    until(lambda: worker.rendered)
    waiting = call(service, "waits")
    closing = threading.Thread(target=service.close)
    closing.start()
    for ticket in (waiting, running):
        with raises_line(DrainingError, "shutting down"):
            ticket.result.result(10)
    worker.go.release()
    closing.join(10)
    assert not closing.is_alive()
    assert worker.closed
