"""`--fast` and `--fastest`: settings for fewer runs of the UNet, and what they cost the demo."""

from dataclasses import dataclass

SOUNDS = 560  # that `python -m bench pareto` judged at each setting
EXACT = 0.875  # of the same, recognised with DDIM in 20 steps


@dataclass(frozen=True)
class Preset:
    """What a call takes where it does not say, and the share of the demo's sounds that was recognised with it."""

    steps: int
    recognised: float
    scheduler: str = "DPMSolverMultistepScheduler"
    guidance_interval: tuple[float, float] = (0.0, 1.0)

    def __str__(self) -> str:
        start, stop = self.guidance_interval
        guided = "" if (start, stop) == (0.0, 1.0) else f", guidance in {start:g}:{stop:g}"
        return f"{self.steps} steps of dpmpp_2m{guided}"

    @property
    def told(self) -> str:
        """What a user is told of its price."""
        shares = [f"{100 * share:.1f} %" for share in (self.recognised, EXACT)]
        price = "of {} demo sounds {} are recognised so, {} with DDIM".format(SOUNDS, *shares)
        return f"{self}; {price}; other checkpoints may mind more"


PRESETS = {"fast": Preset(20, 0.895), "fastest": Preset(5, 0.868, guidance_interval=(0.0, 0.6))}
