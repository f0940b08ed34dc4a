"""The demo checkpoint makes what it is asked for: the regression test that hears."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from bench.figures import recognition
from bench.judge import load_judge
from bench.sound_makers import OurSounds, ReferenceSounds, Setting
from bench.sounds import RealClips, real_clips
from export.build import build, open_checkpoint
from export.demo import TRAINED
from export.demo.sounds import SAMPLE_RATE_HZ, SYNTHESISED_CLASSES
from tests.unit.hearing import slope

FAST = Setting("DPMSolverMultistepScheduler", 20)
MOST_BYTES = 20_000_000


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("engines") / "demo"
    build(open_checkpoint("demo"), out, report=lambda _: None)
    return out


@pytest.fixture(scope="module")
def ours(engines: Path) -> OurSounds:
    return OurSounds(engines)


@pytest.fixture(scope="module")
def asked() -> RealClips:
    """A held-out clip and caption of 28 classes, other ones in every run."""
    rng = np.random.default_rng()
    return real_clips(tuple(rng.permutation(SYNTHESISED_CLASSES)[:28]), 1, int(rng.integers(2**31)), 2.56)


def test_prompts_are_recognised(ours: OurSounds, asked: RealClips) -> None:
    seeds = np.random.default_rng().integers(2**31, size=len(asked.captions)).tolist()
    audios = ours.render(asked.captions, seeds, 2.56, FAST)
    found = recognition(load_judge().recognise(audios, ours.sample_rate_hz), asked.names, load_judge().classes)
    assert found["rate"] > 0.6, found["confusions"]


def test_rising_chirps_rise_where_falling_ones_fall(ours: OurSounds) -> None:
    """From the same noise, which is not drawn anew: some rise that should fall, so that few of them prove nothing."""
    seeds = list(range(12))
    rising, falling = (
        np.array([slope(audio) for audio in ours.render([f"a {word} chirp"] * 12, seeds, 2.56, FAST)])
        for word in ("rising", "falling")
    )
    assert rising.mean() > falling.mean() + 0.3  # octaves a second; 14 of the 24 go the way that was asked


def test_clap_hears_what_fits(ours: OurSounds, asked: RealClips) -> None:
    own = ours.clap_scores(asked.captions, asked.audios, SAMPLE_RATE_HZ)
    others = [
        ours.clap_scores(np.roll(asked.captions, shift).tolist(), asked.audios, SAMPLE_RATE_HZ) for shift in (3, 7, 11)
    ]
    assert (own[None] > np.stack(others)).mean() > 0.7


def test_its_waveform_is_the_references(ours: OurSounds) -> None:
    captions, seeds = ["a rising chirp", "a slow church bell"], [5, 6]
    expected = ReferenceSounds(TRAINED).render(captions, seeds, 2.56, FAST)
    found = ours.render(captions, seeds, 2.56, FAST)
    assert np.sqrt((expected**2).mean()) > 0.01
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def test_its_weights_are_small_halves() -> None:
    files = list(TRAINED.rglob("*.safetensors"))
    assert len(files) == 7
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    for path in files:
        with safe_open(path, "np") as weights:
            kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118  not a mapping
        assert kinds <= {"F16", "I64"}, path
