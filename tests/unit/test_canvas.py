"""Windows over rows of latents, in a line and in a ring."""

import numpy as np
import pytest

from runtime.diffusion.canvas import Canvas
from runtime.diffusion.denoise import Known, plain_steps
from runtime.diffusion.schedulers import make_plan


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize(
    ("height", "window", "overlap"), [(40, 10, 5), (33, 8, 3), (11, 10, 5), (9, 8, 0), (64, 64, 32)]
)
def test_windows_cover_every_row_and_share_enough(height: int, window: int, overlap: int, loop: bool) -> None:
    canvas = Canvas(height, window, overlap, loop)
    for step in range(7):
        windows = canvas.windows(step)
        assert {len(rows) for rows in windows} == {window}
        assert set(np.concatenate(windows)) == set(range(height))
        pairs = list(zip(windows, [*windows[1:], windows[0]], strict=True))
        for one, other in pairs if loop and len(windows) > 1 else pairs[:-1]:
            assert len(set(one) & set(other)) >= overlap
        if not loop:
            assert all((np.diff(rows) == 1).all() for rows in windows)
            assert [rows[0] for rows in windows] == [rows[0] for rows in canvas.windows(0)]


def test_a_ring_is_turned_so_that_no_place_stays_the_seam() -> None:
    seams = [Canvas(32, 32, 16, loop=True).windows(step)[0][0] for step in range(32)]
    assert len(set(seams)) > 20


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("together", [1, 2, 3, 4, 99])
def test_what_is_made_row_by_row_is_put_together_as_it_was(scale: int, loop: bool, together: int) -> None:
    canvas, rng = Canvas(29, 8, 4, loop, together), np.random.default_rng()
    whole = rng.standard_normal((2, 3, 29, 5)).astype(np.float32)
    for step in range(4):
        seen: list[tuple[int, int]] = []

        def run(i: int, views: np.ndarray) -> np.ndarray:
            seen.append((i, len(views)))  # noqa: B023
            return np.repeat(views.transpose(0, 2, 1, 3), scale, axis=1)

        found = canvas.over(whole, run, np, step, axes=(2, 1), scale=scale)
        expected = np.repeat(whole.transpose(0, 2, 1, 3), scale, axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert seen == [(i, 2 * canvas.views) for i in range(canvas.runs)]
        assert canvas.views <= together


def test_windows_fade_into_each_other() -> None:
    canvas = Canvas(15, 10, 5)
    found = canvas.over(np.zeros((1, 15)), lambda i, views: views + i, np, axes=(1, 1))[0]
    assert (found[:5] == 0).all()
    assert (found[10:] == 1).all()
    assert (np.diff(found[4:11]) > 0).all()


def test_what_is_known_is_put_back_at_every_step_with_its_noise() -> None:
    rng, shape = np.random.default_rng(), (1, 2, 6, 4)
    plan = make_plan({"_class_name": "DDIMScheduler", "clip_sample": False}, 5)
    latents, noise, first = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
    mask = np.zeros((1, 1, 6, 4), np.float32)
    mask[:, :, 2:4] = 1
    known = Known(latents, mask, noise)
    steps = list(plain_steps(plan, first, lambda i, x: 0.1 * x, lambda _: np.zeros(shape, np.float32), known))
    for i, sample in enumerate(steps):
        expected = plan.noised(i + 1, latents, noise)
        np.testing.assert_allclose(sample[:, :, :2], expected[:, :, :2], rtol=1e-6)
    np.testing.assert_array_equal(steps[-1][:, :, 4:], latents[:, :, 4:])
