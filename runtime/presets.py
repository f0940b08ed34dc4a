"""`--fast` and `--fastest`: settings for fewer runs of the UNet, and what they cost the demo."""

from dataclasses import dataclass

SOUNDS = 560  # that `python -m bench pareto` judged at each setting
EXACT = 0.875  # of the same, recognised with DDIM in 20 steps


@dataclass(frozen=True)
class Preset:
    """What a call takes where it does not say, and the share of the demo's sounds that was recognised with it."""

    num_inference_steps: int
    recognised: float
    scheduler: str = "DPMSolverMultistepScheduler"
    guidance_interval: tuple[float, float] = (0.0, 1.0)

    @property
    def arguments(self) -> dict[str, object]:
        """By the names of `trt-audioldm2`'s options."""
        return {
            "steps": self.num_inference_steps,
            "scheduler": self.scheduler,
            "guidance_interval": self.guidance_interval,
        }

    def __str__(self) -> str:
        start, stop = self.guidance_interval
        guided = "" if (start, stop) == (0.0, 1.0) else f", guidance in {start:g}:{stop:g}"
        return f"{self.num_inference_steps} steps of dpmpp_2m{guided}"

    @property
    def told(self) -> str:
        """What a user is told of its price."""
        price = f"of {SOUNDS} demo sounds {self.recognised:.1%} are recognised so, {EXACT:.1%} with DDIM"
        return f"{self}; {price}; other checkpoints may mind more"


PRESETS = {"fast": Preset(20, 0.895), "fastest": Preset(5, 0.868, guidance_interval=(0.0, 0.6))}
