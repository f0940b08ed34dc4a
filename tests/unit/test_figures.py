"""Figures of quality against their definitions."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from bench.figures import confusions_line, frechet_distance, recognition, wilson


def test_the_distance_is_the_one_of_gaussians() -> None:
    rng = np.random.default_rng()
    first, second = (rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=6) for _ in range(2))
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2).real
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(c1 + c2 - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)


def test_the_distance_is_nothing_to_itself_and_the_square_of_a_shift() -> None:
    features = np.random.default_rng().normal(size=(50, 8))  # fewer rows than the covariance has entries
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(features, features + 3.0) == pytest.approx(8 * 9.0)


@pytest.mark.parametrize(("hits", "trials"), [(0, 5), (3, 7), (240, 280), (280, 280)])
def test_the_interval_is_wilsons(hits: int, trials: int) -> None:
    expected = scipy.stats.binomtest(hits, trials).proportion_ci(method="wilson")
    assert wilson(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_nothing_tried_is_nothing_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_recognition_counts_by_class_and_names_what_was_heard_instead() -> None:
    classes = ("bell", "rain", "dog")
    asked = ["bell", "bell", "bell", "bell", "rain", "rain"]
    heard = ["bell", "rain", "rain", "dog", "rain", "rain"]
    probabilities = np.array([[0.6 if name == h else 0.2 for name in classes] for h in heard])
    found = recognition(probabilities, asked, classes)
    assert found["rate"] == pytest.approx(3 / 6)
    assert found["by_class"] == {"bell": 0.25, "rain": 1.0}
    assert found["interval"] == wilson(3, 6)
    assert found["confusions"][0] == {"asked": "bell", "heard": "rain", "share": 0.5}
    assert confusions_line(found) == "bell for rain 50.0 %, bell for dog 25.0 %"
