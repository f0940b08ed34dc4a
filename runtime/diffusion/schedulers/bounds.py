"""The config fields that bound each predicted clean sample, for the schedulers that have them."""

from dataclasses import dataclass

from runtime.checks import number
from runtime.diffusion.schedulers.plan import Bound


@dataclass(frozen=True, kw_only=True)
class Thresholding:
    """Dynamic thresholding (arXiv:2205.11487, section 2.3). Made for pixels in -1 to 1; latents rarely gain."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0

    def bound(self) -> Bound:
        """The bound that the plan applies to each prediction."""
        if self.thresholding:
            number("sample_max_value", self.sample_max_value, 1e-6)
            number("dynamic_thresholding_ratio", self.dynamic_thresholding_ratio, 0.0, 1.0)
            return Bound(dynamic_ratio=self.dynamic_thresholding_ratio, dynamic_max=self.sample_max_value)
        return Bound()


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """Static clipping, to plus and minus `clip_sample_range`."""

    clip_sample: bool = False
    clip_sample_range: float = 1.0

    def bound(self) -> Bound:
        """The bound that the plan applies to each prediction."""
        if not self.clip_sample:
            return Bound()
        return Bound(clip_range=number("clip_sample_range", self.clip_sample_range, 0.0))


@dataclass(frozen=True, kw_only=True)
class SampleBounds(Thresholding, Clipping):
    """Both kinds of bound. Where both are switched on, thresholding alone is applied, as in the reference."""

    def bound(self) -> Bound:
        """The bound that the plan applies to each prediction."""
        return Thresholding.bound(self) if self.thresholding else Clipping.bound(self)
