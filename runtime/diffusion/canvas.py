"""Latents that no single run of the model covers: windows that overlap, and rings that have no end.

Source: MultiDiffusion, Bar-Tal et al. 2023, arXiv:2302.08113. At every step the model sees each window, and what it
says is averaged where they overlap. One sample of all the rows is carried from step to step, by any scheduler.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.backends.device import Array

Run = Callable[[int, Array], Array]
Rows = npt.NDArray[np.int64]
_TURN = 0.6180339887  # of a ring a step: its windows begin at other rows each time, as evenly as can be


@dataclass(frozen=True)
class Canvas:
    """How `height` rows of latents are seen: as windows of `window` rows, and in a ring with `loop`.

    Neighbouring windows share at least `overlap` rows. A window of all rows is one run, as if there were no canvas.
    """

    height: int
    window: int
    overlap: int
    loop: bool = False
    together: int = 1  # windows at most that one run sees

    @property
    def plain(self) -> bool:
        """Whether the model sees all rows at once, in their order."""
        return self.window == self.height and not self.loop

    def windows(self, step: int = 0) -> list[Rows]:
        """The rows that each window sees at a step. A ring is turned at every step: no place stays the seam."""
        turn = round(self.height * (step * _TURN % 1.0)) if self.loop else 0
        if self.window == self.height:
            return [self._rows(turn)]
        starts = np.linspace(0, self._span, self.count, endpoint=not self.loop)
        return [self._rows(turn + round(start)) for start in starts.tolist()]

    @property
    def count(self) -> int:
        """How many windows there are."""
        if self.window == self.height:
            return 1
        steps = -(-self._span // (self.window - self.overlap))
        return steps if self.loop else steps + 1

    @property
    def runs(self) -> int:
        """How many runs see all windows."""
        return -(-self.count // self.together)

    @property
    def views(self) -> int:
        """How many windows each run sees: as even a share as can be. The last run may see one twice."""
        return -(-self.count // self.runs)

    @property
    def _span(self) -> int:
        """Within which windows begin."""
        return self.height if self.loop else self.height - self.window

    def over(
        self, array: Array, run: Run, xp: Any, step: int = 0, *, axes: tuple[int, int] = (2, 2), scale: int = 1
    ) -> Array:
        """What `run(i, views)` makes of the windows of `array`, put together again.

        Windows lie along the first of `axes` in the array, and along the second in what is made of it, where a row has
        become `scale`. Run number `i` gets `views` windows, one behind the other as rows of a batch.
        """
        windows, views, parts = self.windows(step), self.views, list[Array]()
        for i in range(self.runs):
            group = windows[i * views : (i + 1) * views]
            group += [group[-1]] * (views - len(group))  # every run has one shape
            seen = [xp.take(array, xp.asarray(rows), axis=axes[0]) for rows in group]
            parts += np.split(run(i, np.concatenate(seen) if len(seen) > 1 else seen[0]), len(group))
        return self._merged(parts[: len(windows)], windows, axes[1], xp, scale)

    def _merged(self, parts: Sequence[Array], windows: Sequence[Rows], axis: int, xp: Any, scale: int = 1) -> Array:
        """One array of what was made of each window, averaged where they overlap. A row became `scale` along `axis`.

        A window counts least at its ends, where the model has seen least of what is around.
        """
        if len(parts) == 1 and not self.loop:
            return parts[0]
        ramp = np.minimum(np.arange(self.window), np.arange(self.window)[::-1]) + 1.0
        weights = np.repeat(np.minimum(ramp / max(self.overlap, 1), 1.0), scale).astype(np.float32)
        along = [1] * parts[0].ndim
        along[axis] = -1
        before, weighting = (slice(None),) * axis, xp.asarray(weights).reshape(along)
        total = xp.zeros([self.height * scale if i == axis else n for i, n in enumerate(parts[0].shape)], np.float32)
        counted = np.zeros(self.height * scale, np.float32)
        for part, rows in zip(parts, windows, strict=True):
            weighted, start = part * weighting, int(rows[0]) * scale
            kept = min(len(weights), len(counted) - start)  # the rest of a window of a ring lies at its beginning
            for whole, seen in (
                (slice(start, start + kept), slice(kept)),
                (slice(len(weights) - kept), slice(kept, None)),
            ):
                total[(*before, whole)] = total[(*before, whole)] + weighted[(*before, seen)]
                counted[whole] += weights[seen]
        return total / xp.asarray(counted).reshape(along)

    def _rows(self, start: int) -> Rows:
        return np.arange(start, start + self.window) % self.height
