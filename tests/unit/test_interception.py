"""Whoever records or times engines intercepts their runs, without a change to the engines."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from runtime.backends.engine import Engine
from runtime.backends.fake import FakeEngine
from runtime.backends.specs import TensorSpec
from runtime.bundle import Bundle, OpenEngines

SPEC = TensorSpec(dtype="float32", min_shape=(1,), max_shape=(None,), axes=("n",))


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> OpenEngines:
    """Two engines that add 1 and 2 to what they are fed; each is made anew when it is loaded."""
    added = {"first": 1, "second": 2}

    def load(self: OpenEngines, name: str) -> Engine:
        return FakeEngine(name, {"x": SPEC}, {"y": SPEC}, lambda x: {"y": x + np.float32(added[name])})

    monkeypatch.setattr(OpenEngines, "_load", load)
    return OpenEngines(Bundle.__new__(Bundle))


def test_runs_of_the_named_engine_are_seen_also_after_it_is_loaded_again(engines: OpenEngines) -> None:
    x, seen = np.random.default_rng().standard_normal(5, np.float32), []

    def around(run: Any, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        seen.append(feeds["x"].copy())
        return {"y": 10 * run(feeds)["y"]}

    before = engines["first"].run({"x": x})["y"]
    engines.intercept("first", around)
    for _ in range(2):
        np.testing.assert_allclose(engines["first"].run({"x": x})["y"], 10 * before)
        np.testing.assert_allclose(engines["second"].run({"x": x})["y"], x + 2)
        engines.close()
    assert len(seen) == 2
    np.testing.assert_array_equal(seen[0], x)


def test_an_intercepted_engine_is_never_captured_and_is_otherwise_itself(engines: OpenEngines) -> None:
    plain = engines["first"]
    engines.intercept("first", lambda run, feeds: run(feeds))
    assert plain.capturable
    assert not engines["first"].capturable  # a replay would pass the function by
    assert engines["first"].inputs is plain.inputs
    assert (engines["first"].label, engines["first"].loading_s) == (plain.label, plain.loading_s)


def test_a_second_function_takes_the_place_of_the_first(engines: OpenEngines) -> None:
    x = np.ones(3, np.float32)
    engines.intercept("first", lambda run, feeds: pytest.fail("it was replaced"))
    engines.intercept("first", lambda run, feeds: {"y": -run(feeds)["y"]})
    np.testing.assert_array_equal(engines["first"].run({"x": x})["y"], [-2] * 3)
