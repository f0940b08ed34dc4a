"""The table a scheduler fills in, and the one function that applies a row of it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest

import numpy as np

from runtime.backends.device import Array

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Weights:
    """A linear combination of the arrays that a sampling loop has at hand. They add and scale like vectors."""

    sample: float = 0.0  # the current sample, x
    output: float = 0.0  # the model's output at x
    prediction: float = 0.0  # this step's clean sample (see Step.prediction)
    saved: float = 0.0  # the sample that an earlier step set aside
    history: tuple[float, ...] = ()  # entries (see Step.entry), this step's first, then the earlier ones
    noise: float | None = None  # fresh normals; None draws none, 0 draws and drops them, as some references do

    def __add__(self, other: "Weights") -> "Weights":
        drawn = [w for w in (self.noise, other.noise) if w is not None]
        return Weights(
            sample=self.sample + other.sample,
            output=self.output + other.output,
            prediction=self.prediction + other.prediction,
            saved=self.saved + other.saved,
            history=tuple(a + b for a, b in zip_longest(self.history, other.history, fillvalue=0.0)),
            noise=sum(drawn) if drawn else None,
        )

    def __mul__(self, factor: float) -> "Weights":
        return Weights(
            sample=self.sample * factor,
            output=self.output * factor,
            prediction=self.prediction * factor,
            saved=self.saved * factor,
            history=tuple(w * factor for w in self.history),
            noise=None if self.noise is None else self.noise * factor,
        )

    __rmul__ = __mul__

    def __sub__(self, other: "Weights") -> "Weights":
        return self + other * -1.0

    def __iter__(self) -> Iterator[float]:
        yield from (self.sample, self.output, self.prediction, self.saved, *self.history, self.noise or 0.0)

    def inlined(self, prediction: "Weights", entry: "Weights | None") -> "Weights":
        """The same combination with this step's prediction and entry written out."""
        total = replace(self, prediction=0.0)
        if entry is not None and self.history:
            total = replace(total, history=(0.0, *self.history[1:])) + entry * self.history[0]
        total = replace(total, prediction=0.0) + prediction * (total.prediction + self.prediction)
        while total.history and total.history[-1] == 0:
            total = replace(total, history=total.history[:-1])
        return total


SAMPLE, OUTPUT = Weights(sample=1.0), Weights(output=1.0)
PREDICTION, SAVED = Weights(prediction=1.0), Weights(saved=1.0)


def past(index: int) -> Weights:
    """One entry of the history: 0 is this step's own, 1 the step's before."""
    return Weights(history=(0.0,) * index + (1.0,))


@dataclass(frozen=True, kw_only=True)
class Step:
    """One model call and the update after it. All coefficients are host floats, known before the loop."""

    timestep: float  # what the model is told
    signal: float = 1.0  # at this timestep the forward process gives signal * clean sample + noise * normals
    noise: float = 0.0
    input_scale: float = 1.0  # the model sees input_scale * sample
    prediction: Weights = Weights()  # the clean sample, from sample and output; bounded if the plan says so
    entry: Weights | None = None  # what joins the history, from sample, output and prediction
    update: Weights  # the next sample
    save: Weights | None = None  # the next saved sample; None keeps the one there is

    def inlined(self) -> "Step":
        """The same step without its prediction: fewer passes over memory, and no rounding in between."""
        entry = None if self.entry is None else self.entry.inlined(self.prediction, None)
        return replace(
            self,
            prediction=Weights(),
            entry=entry,
            update=self.update.inlined(self.prediction, entry),
            save=None if self.save is None else self.save.inlined(self.prediction, entry),
        )

    def is_finite(self) -> bool:
        """Whether every coefficient is a number that float32 holds. Raises TypeError for a complex one."""
        rows = (self.prediction, self.entry or Weights(), self.update, self.save or Weights())
        single = (self.timestep, self.signal, self.noise, self.input_scale)
        return _finite(*single, *(w for row in rows for w in row))


@dataclass(frozen=True)
class Bound:
    """Bounds on the predicted clean sample: static clipping, or Imagen's dynamic thresholding (arXiv:2205.11487)."""

    clip_range: float | None = None
    dynamic_ratio: float | None = None
    dynamic_max: float = 1.0

    def __call__(self, prediction: Array) -> Array:
        """The bounded prediction, same shape (rows, ...): thresholds are per row."""
        if self.dynamic_ratio is not None:
            rows = np.abs(prediction).reshape(len(prediction), -1)
            limit = np.minimum(np.quantile(rows, self.dynamic_ratio, axis=1).clip(1.0), self.dynamic_max)
            limit = limit.astype(prediction.dtype).reshape(-1, *[1] * (prediction.ndim - 1))
            return np.clip(prediction, -limit, limit) / limit
        if self.clip_range is not None:
            return np.clip(prediction, -self.clip_range, self.clip_range)
        return prediction

    def __bool__(self) -> bool:
        return self.dynamic_ratio is not None or self.clip_range is not None


@dataclass(frozen=True)
class Plan:
    """All that a sampling loop needs: its steps, the scale of the first noise, the bound on predictions."""

    steps: tuple[Step, ...]
    init_noise_sigma: float = 1.0
    bound: Bound = Bound()
    order: int = 1  # model calls a user's step, the reference's `scheduler.order`
    num_inference_steps: int = 0  # the user's steps; 0 is one a model call
    sigmas: tuple[float, ...] = ()  # the noise levels of the user's steps and the last one, where a scheduler has them

    @cached_property
    def depth(self) -> int:
        """How many history entries a step looks at, its own included."""
        return max(len(w.history) for step in self.steps for w in (step.update, step.save) if w is not None)

    def noised(self, call: int, clean: Array, noise: Array) -> Array:
        """A clean sample as the forward process has it where model call number `call` starts; at the end, clean."""
        if call == len(self.steps):
            return clean
        step = self.steps[call]
        return _combine(Weights(sample=step.signal, noise=step.noise), {"sample": clean, "noise": noise})

    def after(self, begin: int) -> "Plan":
        """The rest of the plan without the user's first `begin` steps, for steps that look back at no earlier one."""
        kept = self.num_inference_steps and self.num_inference_steps - begin
        return replace(
            self, steps=self.steps[begin * self.order :], num_inference_steps=kept, sigmas=self.sigmas[begin:]
        )

    def inlined(self) -> "Plan":
        """An equal plan with predictions written out where no bound stands in between."""
        return self if self.bound else replace(self, steps=tuple(step.inlined() for step in self.steps))

    def first_not_finite(self) -> int | None:
        """The first step, counted from 1, that is not finite, or whose noise is not; None where all are."""
        if not _finite(self.init_noise_sigma, *self.sigmas):
            return 1
        return next((i for i, step in enumerate(self.steps, start=1) if not step.is_finite()), None)

    def completed(self, call: int) -> int | None:
        """The user's step that model call number `call` completes, for progress and callbacks; None inside one.

        This is the reference's rule: all calls but the last `num_inference_steps * order` are a warm-up, which is not
        told to anyone.
        """
        warmup = len(self.steps) - (self.num_inference_steps or len(self.steps)) * self.order
        told = call == len(self.steps) - 1 or (call + 1 > warmup and (call + 1) % self.order == 0)
        return call // self.order if told else None


def _finite(*values: float) -> bool:
    return all(math.isfinite(value) and abs(value) <= _LARGEST for value in values)


@dataclass(frozen=True)
class State:
    """What is carried from step to step."""

    sample: Array  # (rows, channels, height, width)
    saved: Array | None = None  # of the sample's shape
    history: tuple[Array, ...] = ()  # newest first, each of the sample's shape


def model_input(step: Step, state: State) -> Array:
    """What the model is shown: the sample, scaled in float64 where the step scales it."""
    return state.sample if step.input_scale == 1 else _combine(SAMPLE * step.input_scale, {"sample": state.sample})


def advance(plan: Plan, step: Step, state: State, output: Array, randn: Callable[[tuple[int, ...]], Array]) -> State:
    """Apply one row of the plan: `output` is the guided model output at `model_input(step, state)`, same shape.

    `randn(shape)` is called only by steps that draw noise, once a step.
    """
    arrays = {"sample": state.sample, "output": output, "saved": state.saved}
    arrays["prediction"] = plan.bound(_combine(step.prediction, arrays)) if any(step.prediction) else None
    history = state.history
    if step.entry is not None and plan.depth:
        history = (_combine(step.entry, arrays), *history)[: plan.depth]
    if step.update.noise is not None:
        arrays["noise"] = randn(output.shape)
    saved = state.saved if step.save is None else _combine(step.save, arrays, history)
    return State(sample=_combine(step.update, arrays, history), saved=saved, history=history)


def _combine(weights: Weights, arrays: dict[str, Array], history: tuple[Array, ...] = ()) -> Array:
    """The combination in the sample's dtype, summed in float64: one rounding, and latents are too small to feel it."""
    terms = [(getattr(weights, name), array) for name, array in arrays.items()]
    terms += zip(weights.history, history, strict=False)
    total: Array = sum(float(weight) * array.astype(np.float64) for weight, array in terms if weight)
    return total.astype(arrays["sample"].dtype)
