"""Feature caching: the UNet's outermost level at every step, what lies below it at some steps only.

Source: DeepCache, Ma et al. 2023, arXiv:2312.00858, with a uniform interval and the cut below the first level.
"""

from collections.abc import Callable, Mapping

from runtime.backends.device import Array

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class CachedUNet:
    """Runs the whole UNet at every `interval`-th run, and the shallow one on the features kept from it at the others.

    One for each call: it counts runs. Both take the whole UNet's feeds, the shallow one the kept features too.
    """

    def __init__(self, whole: Run, shallow: Run, interval: int) -> None:
        self._whole, self._shallow, self._interval = whole, shallow, interval
        self._runs = 0
        self._features: Array | None = None  # (rows, deep channels, mel, height)

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """The outputs of the one or the other; `noise_pred` is in both.

        Where guidance has ended the features of the last rows, the positive ones, go on; where it has begun there are
        too few, and the whole UNet is run out of turn.
        """
        rows, due = len(feeds["sample"]), self._runs % self._interval == 0
        self._runs += 1
        if due or self._features is None or len(self._features) < rows:
            outputs = self._whole(feeds)
            self._features = outputs["deep_features"]
            return outputs
        if len(self._features) > rows:
            self._features = self._features[-rows:].copy()  # an engine takes no address inside of another array
        return self._shallow({**feeds, "deep_features": self._features})
