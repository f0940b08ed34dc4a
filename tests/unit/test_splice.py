"""What is kept of a sound comes back sample by sample, and nothing clicks where it meets what was made."""

import numpy as np
import pytest

from bench.edits.joins import measures, ranks
from runtime.sound.splice import FADE_SAMPLES, continued, splice

RATE = 16_000


def sound(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Tones and coloured noise."""
    count = int(seconds * RATE)
    tones = sum(
        np.sin(2 * np.pi * hz * np.arange(count) / RATE + rng.uniform(0, 6)) for hz in rng.uniform(100, 3000, 4)
    )
    noise = np.convolve(rng.standard_normal(count + 7), np.ones(8) / 8, "valid")
    return ((tones / 4 + noise) * 0.2).astype(np.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng()


def test_kept_samples_are_exact_and_the_rest_is_made(rng: np.random.Generator) -> None:
    kept, made = sound(2.0, rng), np.stack([sound(1.0, rng), sound(1.0, rng)])
    found = splice(kept, made, 8_000, [(9_000, 12_000), (20_000, 20_100)])
    assert found.shape == (2, 32_000)
    outside = np.ones(32_000, bool)
    outside[9_000:12_000] = outside[20_000:20_100] = False
    np.testing.assert_array_equal(found[:, outside], np.repeat(kept[None, outside], 2, 0))
    inner = slice(9_000 + FADE_SAMPLES, 12_000 - FADE_SAMPLES)
    gain = found[:, inner] / made[:, inner.start - 8_000 : inner.stop - 8_000]  # of loudness alone, and a slow one
    assert np.abs(np.diff(np.log(gain))).max() < 1e-3
    assert (gain > 0.25).all()
    assert (gain < 4).all()


def test_nothing_of_what_was_in_the_range_is_left(rng: np.random.Generator) -> None:
    kept, made = sound(1.0, rng), sound(1.0, rng)[None]
    other = kept.copy()
    other[4_000:8_000] = 0.9
    np.testing.assert_array_equal(splice(kept, made, 0, [(4_000, 8_000)]), splice(other, made, 0, [(4_000, 8_000)]))


def test_ends_of_the_sound_are_not_faded(rng: np.random.Generator) -> None:
    kept, made = sound(1.0, rng), sound(1.0, rng)[None]
    found = splice(kept, made, 0, [(0, 4_000), (12_000, 16_000)])
    for part in (slice(4_000 - FADE_SAMPLES), slice(12_000 + FADE_SAMPLES, None)):
        gain = found[0, part] / made[0, part]
        np.testing.assert_allclose(gain, gain[0], rtol=1e-3)  # what is kept on one side alone says how loud


def test_what_is_made_is_as_loud_as_it_would_have_been(rng: np.random.Generator) -> None:
    """The model makes what is kept, too: how much quieter than it is, says how much louder the rest is to be."""
    whole = sound(2.0, rng)
    found = splice(whole, whole[None] * 0.5, 0, [(12_000, 20_000)])[0]
    np.testing.assert_allclose(found[12_400:19_600], whole[12_400:19_600], rtol=0.02, atol=1e-4)
    silent = np.zeros(32_000, np.float32)
    np.testing.assert_array_equal(
        splice(silent, whole[None], 0, [(12_000, 20_000)])[0, 12_400:19_600], whole[12_400:19_600]
    )


def test_prediction_goes_on_with_tones_and_stays_bounded(rng: np.random.Generator) -> None:
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE + 1)).astype(np.float32)
    np.testing.assert_allclose(continued(tone[:8_000], 320), tone[8_000:8_320], atol=0.1)  # it fades a little
    for _ in range(20):
        past = sound(0.5, rng)
        assert np.abs(continued(past, 16_000)).max() < 4 * np.abs(past).max()
    assert not continued(np.zeros(4_000, np.float32), 100).any()
    assert np.isfinite(continued(np.ones(1, np.float32), 10)).all()
    assert np.isfinite(continued(np.ones(4_000, np.float32), 320)).all()


def test_borders_are_no_clicks(rng: np.random.Generator) -> None:
    """Of many borders about as many are unusual as of any places; of hard cuts, most."""
    unusual, cut = 0, 0
    for _ in range(40):
        kept, made = sound(1.0, rng), sound(1.0, rng)[None]
        found = splice(kept, made, 0, [(5_000, 11_000)])[0]
        hard = np.concatenate([kept[:5_000], made[0, 5_000:]])
        unusual += ranks(found.astype(np.float64), 5_000, rng)["click"] > 0.95
        cut += ranks(hard.astype(np.float64), 5_000, rng)["click"] > 0.95
    assert unusual <= 8  # 2 expected
    assert cut > 3 * max(unusual, 2)


def test_what_makes_a_place_a_join(rng: np.random.Generator) -> None:
    smooth = sound(1.0, rng).astype(np.float64)
    clicked, louder = smooth.copy(), smooth.copy()
    clicked[8_000] += 1.0
    louder[8_000:] *= 10
    assert measures(clicked, 8_000)["click"] > 2 * measures(smooth, 8_000)["click"]
    assert measures(louder, 8_000)["energy"] == pytest.approx(20, abs=3)
    assert measures(louder, 8_000)["spectrum"] > measures(smooth, 8_000)["spectrum"]
