"""What pipelines of one process share: made once, freed with the last that uses it."""

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.backends.shared import Shared


class Weights:
    pass


def test_threads_that_come_at_once_share_one() -> None:
    shared: Shared[Weights] = Shared()
    made: list[str] = []

    def make() -> Weights:
        made.append(threading.current_thread().name)
        time.sleep(0.05)
        return Weights()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: shared.get(i % 2, make), range(8)))
    assert len(made) == 2
    assert {id(weights) for weights in found[::2]} == {id(found[0])} != {id(found[1])}


def test_it_is_freed_with_its_last_user_and_made_anew() -> None:
    shared: Shared[Weights] = Shared()
    first = shared.get("key", Weights)
    second = shared.get("key", Weights)
    assert first is second
    del first, second
    gc.collect()
    made: list[int] = []
    shared.get("key", lambda: made.append(1) or Weights())  # type: ignore[func-returns-value]
    assert made == [1]


def test_an_error_is_not_kept() -> None:
    shared: Shared[Weights] = Shared()

    def fail() -> Weights:
        raise OSError("no such file")

    for _ in range(2):
        with pytest.raises(OSError, match="no such file"):
            shared.get("key", fail)
    assert isinstance(shared.get("key", Weights), Weights)
