"""The queue of the service over a pipeline that only notes what it is asked for."""

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.errors import EngineError
from runtime.server import service as module
from runtime.server.service import DeadlineError, DrainingError, QueueFullError, Service
from tests.unit.helpers import raises_line


class Pipeline:
    """Renders when it is let go. A request's key is that of its arguments; one of the prompt "broken" fails."""

    def __init__(self) -> None:
        self.rendered: list[list[str]] = []
        self.go = threading.Semaphore(0)
        self.closed = False

    def __call__(self, *_: object, **__: object) -> None:
        """The warm-up."""

    def check(self, *, prompt: str, callback: Callable[..., None], key: object = "one") -> Any:
        return SimpleNamespace(prompt=prompt, callback=callback, key=key)

    def render(self, request: Any) -> Any:
        requests = request if isinstance(request, list) else [request]
        prompts = [each.prompt for each in requests]
        self.rendered.append(prompts)
        self.go.acquire()
        for each in requests:
            each.callback(0, 0.0, None)
        if "broken" in prompts:
            raise EngineError("broken")
        outputs = [f"sound of {prompt}" for prompt in prompts]
        return outputs if isinstance(request, list) else outputs[0]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    monkeypatch.setattr(module, "batch_key", lambda request: request.key)
    monkeypatch.setattr(module, "join", list)
    monkeypatch.setattr(module, "split", lambda outputs, _: outputs)
    return Pipeline()


@pytest.fixture
def started(pipeline: Pipeline) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def start(**options: Any) -> Service:
        services.append(Service(pipeline, **options))  # type: ignore[arg-type]
        services[-1].start()
        return services[-1]

    yield start
    pipeline.go.release(100)
    for service in services:
        service.close()
    assert pipeline.closed


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def call(service: Service, prompt: str, key: object = "one", timeout_s: float | None = None) -> Any:
    return service.submit({"prompt": prompt, "key": key}, timeout_s)


def test_those_that_agree_come_along_with_the_oldest(pipeline: Pipeline, started: Callable[..., Service]) -> None:
    service = started(max_batch=3)
    first = call(service, "first")
    until(lambda: pipeline.rendered)
    keys = ["one", "two", "one", None, "one", "one", "two", None]
    tickets = [call(service, str(number), key) for number, key in enumerate(keys)]
    pipeline.go.release(20)
    assert [ticket.result.result(10) for ticket in tickets] == [f"sound of {n}" for n in range(len(keys))]
    assert first.result.result(10) == "sound of first"
    assert pipeline.rendered == [["first"], ["0", "2", "4"], ["1", "6"], ["3"], ["5"], ["7"]]


def test_it_waits_for_more_to_come_but_not_when_it_is_full(pipeline: Pipeline, started: Callable[..., Service]) -> None:
    service = started(max_batch=2, batch_wait_s=30.0)
    pipeline.go.release(20)
    tickets = [call(service, "a"), call(service, "b")]
    assert [ticket.result.result(10) for ticket in tickets] == ["sound of a", "sound of b"]
    alone = call(service, "alone", None)
    assert alone.result.result(10) == "sound of alone"  # nothing can join it: there is nothing to wait for
    assert pipeline.rendered == [["a", "b"], ["alone"]]


def test_the_one_at_fault_is_lost_alone(pipeline: Pipeline, started: Callable[..., Service]) -> None:
    service = started(max_batch=3, batch_wait_s=30.0)
    pipeline.go.release(20)
    good, broken, other = (call(service, prompt) for prompt in ("a", "broken", "b"))
    assert (good.result.result(10), other.result.result(10)) == ("sound of a", "sound of b")
    with raises_line(EngineError, "broken"):
        broken.result.result(10)
    assert pipeline.rendered == [["a", "broken", "b"], ["a"], ["broken"], ["b"]]


def test_a_full_queue(pipeline: Pipeline, started: Callable[..., Service]) -> None:
    service = started(max_queue=2)
    running = call(service, "runs")
    until(lambda: pipeline.rendered)
    for prompt in "ab":
        call(service, prompt)
    with raises_line(QueueFullError, "2 calls are waiting", "5 s"):
        call(service, "c")
    assert service.waiting == 2
    pipeline.go.release()
    assert running.result.result(10)


def test_a_call_that_waits_is_cancelled_at_once_and_one_that_runs_before_its_next_step(
    pipeline: Pipeline, started: Callable[..., Service]
) -> None:
    service = started()
    running = call(service, "runs")
    until(lambda: pipeline.rendered)
    waiting, other = call(service, "waits"), call(service, "other")
    service.cancel(waiting)
    assert waiting.result.cancelled()
    assert service.waiting == 1
    service.cancel(running)
    with pytest.raises(module.StopDenoising):
        running.request.callback(0, 0.0, None)
    pipeline.go.release(20)
    assert other.result.result(10) == "sound of other"
    assert running.result.cancelled()
    assert pipeline.rendered == [["runs"], ["other"]]


def test_a_deadline_that_passes_in_the_queue(pipeline: Pipeline, started: Callable[..., Service]) -> None:
    service = started()
    call(service, "runs")
    until(lambda: pipeline.rendered)
    late = call(service, "late", timeout_s=0.01)
    time.sleep(0.05)
    pipeline.go.release(20)
    with raises_line(DeadlineError, "0.01 s"):
        late.result.result(10)
    assert pipeline.rendered == [["runs"]]


def test_draining_finishes_what_was_taken(pipeline: Pipeline, started: Callable[..., Service]) -> None:
    service = started()
    running, waiting = call(service, "runs"), call(service, "waits")
    until(lambda: pipeline.rendered and service.is_ready)
    assert service.drain(0) is False
    assert not service.is_ready
    with raises_line(DrainingError, "shutting down"):
        call(service, "new")
    pipeline.go.release(20)
    assert service.drain(10) is True
    assert [ticket.result.result(0) for ticket in (running, waiting)] == ["sound of runs", "sound of waits"]


def test_closing_does_not(pipeline: Pipeline, started: Callable[..., Service]) -> None:
    service = started()
    running = call(service, "runs")
    until(lambda: pipeline.rendered)
    waiting = call(service, "waits")
    closing = threading.Thread(target=service.close)
    closing.start()
    with raises_line(DrainingError, "shutting down"):
        waiting.result.result(10)
    pipeline.go.release()
    closing.join(10)
    assert not closing.is_alive()
    assert running.result.cancelled()
    assert pipeline.closed
