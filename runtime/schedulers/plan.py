"""The table a scheduler fills in, and the one function that applies a row of it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runtime.engine import Array


@dataclass(frozen=True)
class Weights:
    """A linear combination of the arrays that a sampling loop has at hand."""

    sample: float = 0.0  # the current sample, x
    output: float = 0.0  # the model's output at x
    prediction: float = 0.0  # this step's prediction (see Step.prediction)
    noise: float = 0.0  # fresh standard normals


@dataclass(frozen=True)
class Step:
    """One model call and the update after it. All coefficients are host floats, known before the loop."""

    timestep: int  # what the model is told
    prediction: Weights  # the clean sample, from x and the model's output; bounded if the plan says so
    update: Weights  # the next sample


@dataclass(frozen=True)
class Bound:
    """Bounds on the predicted clean sample: static clipping, or Imagen's dynamic thresholding (arXiv:2205.11487)."""

    clip_range: float | None = None
    dynamic_ratio: float | None = None
    dynamic_max: float = 1.0

    def __call__(self, prediction: Array) -> Array:
        """Return the bounded prediction, (rows, ...)."""
        if self.dynamic_ratio is not None:
            rows = np.abs(prediction).reshape(len(prediction), -1)
            limit = np.quantile(rows, self.dynamic_ratio, axis=1).clip(1.0, max(1.0, self.dynamic_max))
            limit = limit.astype(prediction.dtype).reshape(-1, *[1] * (prediction.ndim - 1))
            return np.clip(prediction, -limit, limit) / limit
        if self.clip_range is not None:
            return np.clip(prediction, -self.clip_range, self.clip_range)
        return prediction


@dataclass(frozen=True)
class Plan:
    """All that a sampling loop needs: its steps, the scale of the first noise, the bound on predictions."""

    steps: tuple[Step, ...]
    init_noise_sigma: float = 1.0
    bound: Bound = Bound()


@dataclass(frozen=True)
class State:
    """What is carried from step to step."""

    sample: Array  # (rows, channels, height, width)


def advance(plan: Plan, step: Step, state: State, output: Array, randn: Callable[[tuple[int, ...]], Array]) -> State:
    """Apply one row of the plan: `output` is the guided model output at `state.sample`, of the same shape.

    `randn(shape)` is called only by steps that add noise, once a step.
    """
    arrays = {"sample": state.sample, "output": output}
    arrays["prediction"] = plan.bound(_combine(step.prediction, arrays))
    if step.update.noise:
        arrays["noise"] = randn(output.shape)
    return State(sample=_combine(step.update, arrays))


def _combine(weights: Weights, arrays: dict[str, Array]) -> Array:
    total: Array = 0.0
    for name, array in arrays.items():
        weight = getattr(weights, name)
        if weight:
            total = total + array.dtype.type(weight) * array
    return total
