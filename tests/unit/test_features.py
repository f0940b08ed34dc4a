"""Which engine runs when features are kept, and on which features."""

import numpy as np
import pytest

from runtime.backends.device import Array, HostDevice
from runtime.backends.fake import FakeEngine
from runtime.backends.graphs import Graphs
from runtime.backends.specs import TensorSpec
from runtime.diffusion.feature_cache import CachedUNet


def rows_of(axis: str) -> TensorSpec:
    return TensorSpec(dtype="float32", axes=("batch", axis), min_shape=(1, 1), max_shape=(None, 1))


def run(rows: list[int], interval: int) -> list[list[float] | None]:
    """The features that each run was given, one number a row; None where the whole UNet ran.

    The whole numbers the rows of its n-th run 10 n, 10 n + 1 and so on.
    """
    given: list[list[float] | None] = []

    def whole(sample: Array, states: Array) -> dict[str, Array]:
        given.append(None)
        first = 10 * given.count(None)
        return {"noise_pred": sample, "deep_features": np.arange(first, first + len(states), dtype=np.float32)[:, None]}

    def shallow(sample: Array, deep_features: Array) -> dict[str, Array]:
        given.append(deep_features[:, 0].tolist())
        return {"noise_pred": -sample}

    sample, noise = {"sample": rows_of("one")}, {"noise_pred": rows_of("one")}
    states, deep = {"states": rows_of("width")}, {"deep_features": rows_of("deep")}
    engines = {
        "unet": FakeEngine("unet", sample | states, noise | deep, whole),
        "unet_shallow": FakeEngine("unet_shallow", sample | deep, noise, shallow),
    }
    graphs = Graphs(engines, HostDevice())
    cached = CachedUNet(graphs.engine("unet"), graphs.engine("unet_shallow"), interval)
    for count in rows:
        ones = np.ones((count, 1), np.float32)
        output = cached.run({"sample": ones, "states": ones})["noise_pred"]
        np.testing.assert_array_equal(output, ones if given[-1] is None else -ones)
    return given


@pytest.mark.parametrize("interval", [2, 3, 100])
def test_the_whole_runs_at_every_so_many_steps(interval: int) -> None:
    wholes = [i for i, features in enumerate(run([2] * 8, interval)) if features is None]
    assert wholes == list(range(0, 8, interval))


def test_features_are_those_of_the_last_whole_run() -> None:
    assert run([2] * 5, 2) == [None, [10, 11], None, [20, 21], None]


def test_where_guidance_ends_the_positive_rows_go_on() -> None:
    assert run([4, 4, 2, 2, 2], 4) == [None, [10, 11, 12, 13], [12, 13], [12, 13], None]


def test_where_guidance_begins_the_whole_runs_out_of_turn() -> None:
    assert run([2, 2, 4, 4, 4], 4) == [None, [10, 11], None, [20, 21, 22, 23], None]
