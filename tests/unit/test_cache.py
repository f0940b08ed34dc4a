"""GPT2's cache: what is read back is what was added, in one shape while there is room, up to the most."""

from types import SimpleNamespace

import numpy as np
import pytest

from runtime.text import cache as module
from runtime.text.cache import Cache


@pytest.mark.parametrize(("length", "new", "room"), [(5, 9, 12), (5, 9, 7), (3, 20, 8), (4, 1, 4), (1, 17, 1)])
def test_it_holds_what_was_added(length: int, new: int, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROWTH", 4)
    rng, most = np.random.default_rng(), length + max(new - 2, 0)
    spec = SimpleNamespace(min_shape=(1, 2, 0, 3), dtype="float32")
    engine = SimpleNamespace(xp=np, inputs={"inputs_embeds": spec, "past_key_0": spec, "past_value_0": spec})
    mask = rng.integers(0, 2, (2, length))
    cache = Cache(engine, mask, room, most)  # type: ignore[arg-type]
    assert all(array.shape == (2, 2, 0, 3) for array in cache.empty().values())
    added: list[dict[str, np.ndarray]] = []
    counted = [mask]
    for i in range(new - 1):
        size = length if i == 0 else 1
        outputs = {
            name: rng.standard_normal((2, 2, size, 3)).astype(np.float32) for name in ("new_key_0", "new_value_0")
        }
        added.append(outputs)
        feeds = cache.add(outputs, mask if i == 0 else 1)
        counted += [np.ones((2, 1), int)] * (i > 0)
        past, seen = feeds["past_key_0"], feeds["attention_mask"]
        assert past.shape[2] + 1 == seen.shape[1] <= most + 1
        for name in ("key_0", "value_0"):
            whole = np.concatenate([each[f"new_{name}"] for each in added], axis=2)
            np.testing.assert_array_equal(feeds[f"past_{name}"][:, :, : whole.shape[2]], whole)
        expected = np.concatenate(counted, axis=1)
        np.testing.assert_array_equal(seen[:, : expected.shape[1]], expected)
        assert not seen[:, expected.shape[1] : -1].any()
        assert seen[:, -1].all()
        if room == most:
            assert past.shape[2] == room
