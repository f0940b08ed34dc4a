"""The reference's schedulers and ours on one fake denoiser, step by step."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.utils import torch_utils

from runtime.diffusion.noise import TorchGenerator
from runtime.diffusion.schedulers import Plan, State, advance, make_plan, model_input

SHAPE = (2, 3, 4, 16)  # rows, channels, time, mel
_SQRT = torch.sqrt
Denoiser = Callable[[np.ndarray, float], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Trajectory:
    samples: list[np.ndarray]  # after each model call
    timesteps: list[float]
    sigmas: list[float]
    init_noise_sigma: float


def fake_denoiser(rng: np.random.Generator, prediction_type: str, coordinates: Callable[[float], tuple[float, float]]):
    """A smooth model with outputs of the scale that its type has: Gaussian data's exact answer, bent by a tanh.

    `coordinates(t)` gives a and b of x = a x0 + b epsilon for the x that the model sees.
    """
    center = rng.standard_normal(SHAPE) * 0.8
    mix = rng.standard_normal((SHAPE[-1], SHAPE[-1])) / np.sqrt(SHAPE[-1])
    spread = 0.3

    def denoise(x: np.ndarray, t: float) -> np.ndarray:
        a, b = coordinates(t)
        x = x.astype(np.float64)
        bend = 0.3 * np.tanh(x @ mix + 0.001 * t)
        total = a**2 * spread + b**2
        off = x - a * center
        clean = center + a * spread / total * off + b * bend
        noise = b / total * off - a * bend
        return {
            "epsilon": noise,
            "sample": clean,
            "original_sample": clean,
            "v_prediction": a * noise - b * clean,
            "flow_prediction": noise - clean,
        }[prediction_type]

    return denoise


def coordinates_for(config: dict[str, Any], alphas: np.ndarray) -> Callable[[float], tuple[float, float]]:
    """What the told timestep means, by the training schedule or the flow."""

    def coordinates(t: float) -> tuple[float, float]:
        if config.get("use_flow_sigmas"):
            b = min(max(t / config.get("num_train_timesteps", 1000), 0.0), 0.9999)
            return 1 - b, b
        if config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction":
            sigma = np.exp(4 * t)
            return 1 / np.sqrt(1 + sigma**2), sigma / np.sqrt(1 + sigma**2)
        alpha = float(np.interp(t, np.arange(len(alphas)), alphas))
        return np.sqrt(alpha), np.sqrt(1 - alpha)

    return coordinates


def build(config: dict[str, Any]) -> Any:
    """The reference's scheduler of a config, without its deprecation warnings."""
    config = dict(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(diffusers, config["_class_name"]).from_config(config)


def reference(
    config: dict[str, Any],
    arguments: dict[str, Any],
    denoise: Denoiser,
    first: np.ndarray,
    *,
    seed: int = 0,
    eta: float = 0.0,
    double: bool = False,
    begin: int = 0,
    known: np.ndarray | None = None,
) -> Trajectory:
    """The trajectory of diffusers. `double` runs the very same code on float64 tables and tensors.

    With `known` the first `begin` steps are left out, as its image-to-image pipelines do: the start is a known sample
    with the noise `first` added.
    """
    scheduler = build(config)
    dtype = torch.float64 if double else torch.float32
    with warnings.catch_warnings(), _doubled() if double else contextlib.nullcontext():
        warnings.simplefilter("ignore")
        scheduler.set_timesteps(**arguments)
        if double:
            _widen(scheduler)
        generator = torch.Generator("cpu").manual_seed(seed)
        names = scheduler.step.__wrapped__.__code__.co_varnames if hasattr(scheduler.step, "__wrapped__") else ()
        names = names or scheduler.step.__func__.__code__.co_varnames
        extra: dict[str, Any] = {}
        if "generator" in names:
            extra["generator"] = generator
        if "eta" in names:
            extra["eta"] = eta
        init = float(scheduler.init_noise_sigma)
        sample = torch.from_numpy(first * np.float32(init)).to(dtype)
        told = scheduler.timesteps
        if known is not None:
            told = from_the_middle(scheduler, begin)
            sample = scheduler.add_noise(torch.from_numpy(known), torch.from_numpy(first), told[:1])
        samples, timesteps = [], []
        for t in told:
            if known is not None and config["_class_name"] == "LMSDiscreteScheduler":
                extra["order"] = min(len(samples) + 1, 4)
            seen = scheduler.scale_model_input(sample, t).numpy()
            output = denoise(seen, float(np.float32(t))).astype(seen.dtype)  # a UNet rounds what it is told
            sample = scheduler.step(torch.from_numpy(output), t, sample, return_dict=False, **extra)[0]
            samples.append(sample.numpy().copy())
            timesteps.append(float(t))
    sigmas = [float(s) for s in scheduler.sigmas] if hasattr(scheduler, "sigmas") else []
    if scheduler.order == 2:
        sigmas = [*sigmas[: len(timesteps) : 2], sigmas[-1]]
    return Trajectory(samples, timesteps, sigmas, init)


def from_the_middle(scheduler: Any, begin: int) -> torch.Tensor:
    """The timesteps without the first `begin` steps, the scheduler set to begin there.

    Two of the reference's schedulers go wrong when their timesteps are only cut: PNDM counts its calls from the first
    that comes, and its first step is of two calls at the same place or its first twelve are Runge-Kutta stages; here it
    lays out what is left as it lays out a whole run. LMS takes coefficients of fourth order for the one slope that it
    has; the caller tells it an order, which its `step` takes.
    """
    if type(scheduler).__name__ == "PNDMScheduler":
        rising = scheduler._timesteps[: len(scheduler._timesteps) - begin]
        stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
        if scheduler.config.skip_prk_steps:
            scheduler.prk_timesteps = np.array([])
            scheduler.plms_timesteps = np.concatenate([rising[:-1], rising[-2:-1], rising[-1:]])[::-1].copy()
        else:
            stages = np.array(rising[-4:]).repeat(2) + np.tile(np.array([0, stride // 2]), 4)
            scheduler.prk_timesteps = stages[:-1].repeat(2)[1:-1][::-1].copy()
            scheduler.plms_timesteps = rising[:-3][::-1].copy()
        whole = np.concatenate([scheduler.prk_timesteps, scheduler.plms_timesteps]).astype(np.int64)
        scheduler.timesteps = torch.from_numpy(whole)
        return scheduler.timesteps
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin * scheduler.order)
    return scheduler.timesteps[begin * scheduler.order :]


@contextlib.contextmanager
def exact_roots() -> Iterator[None]:
    """Torch with float32 square roots that are rounded correctly.

    Its own, of a vendor's library, are not: one unit off for 15 values of 100 where this was written. That moves
    sigmas by 1e-7, but the lowest sigma of a rescaled schedule by 4e-5, since 1 - alpha cancels there, and it turns
    timestep 999 into 998 where the reference cuts 998.9999. Tables could then never be compared exactly.
    """
    power, root = torch.Tensor.__pow__, torch.Tensor.sqrt

    def exact(self: torch.Tensor) -> torch.Tensor:
        return root(self) if self.dtype == torch.float64 else root(self.double()).float()

    def raised(self: torch.Tensor, exponent: Any) -> torch.Tensor:
        return exact(self) if isinstance(exponent, float) and exponent == 0.5 else power(self, exponent)

    torch.Tensor.__pow__, torch.Tensor.sqrt, torch.sqrt = raised, exact, exact
    try:
        yield
    finally:
        torch.Tensor.__pow__, torch.Tensor.sqrt, torch.sqrt = power, root, _SQRT


def _modules() -> list[Any]:
    names = [name for name in vars(diffusers.schedulers) if name.startswith("scheduling_")]
    return [
        vars(diffusers.schedulers)[name] for name in names if isinstance(vars(diffusers.schedulers)[name], ModuleType)
    ]


def _widen(scheduler: Any) -> None:
    for name, value in list(vars(scheduler).items()):
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32 and name != "timesteps":
            setattr(scheduler, name, value.double())


@contextlib.contextmanager
def _doubled() -> Iterator[None]:
    """Float32 tables are widened where the reference makes tensors of them, and noise where it is drawn."""
    original, to, from_numpy = torch_utils.randn_tensor, torch.Tensor.to, torch.from_numpy

    def drawn(shape: Any, **kwargs: Any) -> torch.Tensor:
        return original(shape, **{**kwargs, "dtype": torch.float32}).double()

    def kept(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        narrowing = torch.float32 in args or kwargs.get("dtype") is torch.float32
        return self if narrowing and self.dtype == torch.float64 else to(self, *args, **kwargs)

    def widened(array: np.ndarray) -> torch.Tensor:
        return from_numpy(array.astype(np.float64) if array.dtype == np.float32 else array)

    modules = [module for module in _modules() if hasattr(module, "randn_tensor")]
    for module in modules:
        module.randn_tensor = drawn
    torch.Tensor.to, torch.from_numpy = kept, widened
    try:
        yield
    finally:
        torch.Tensor.to, torch.from_numpy = to, from_numpy
        for module in modules:
            module.randn_tensor = original


def ours(
    config: dict[str, Any],
    arguments: dict[str, Any],
    denoise: Denoiser,
    first: np.ndarray,
    *,
    seed: int = 0,
    eta: float = 0.0,
    double: bool = False,
    begin: int = 0,
    known: np.ndarray | None = None,
) -> tuple[Plan, Trajectory]:
    """The trajectory of a plan, as the pipeline runs it, or in float64 and then on torch's own noise."""
    plan = make_plan(config, eta=eta, begin=begin, **arguments)
    dtype = np.float64 if double else np.float32
    generator, exact = TorchGenerator(seed), torch.Generator("cpu").manual_seed(seed)
    start = first * np.float32(plan.init_noise_sigma) if known is None else plan.noised(0, known, first)
    state = State(sample=start.astype(dtype))
    samples = []

    def randn(shape: tuple[int, ...]) -> np.ndarray:
        return torch.randn(shape, generator=exact).numpy().astype(dtype) if double else generator.randn(shape)

    for step in plan.steps:
        output = denoise(model_input(step, state), float(np.float32(step.timestep))).astype(dtype)
        state = advance(plan, step, state, output, randn)
        samples.append(state.sample)
    timesteps = [step.timestep for step in plan.steps]
    return plan, Trajectory(samples, timesteps, list(plan.sigmas), plan.init_noise_sigma)


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Relative L2 distance."""
    theirs = theirs.astype(np.float64)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def worst(ours: Trajectory, theirs: Trajectory) -> float:
    """The worst relative L2 distance of any step."""
    return max(relative(a, b) for a, b in zip(ours.samples, theirs.samples, strict=True))
