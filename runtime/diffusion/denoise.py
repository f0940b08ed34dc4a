"""The denoising loop: plain, and as one captured step that a GPU replays."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from runtime.backends.device import Array, Device, Replay
from runtime.backends.engine import Engine
from runtime.diffusion.feature_cache import CachedUNet
from runtime.diffusion.schedulers import Plan, State, advance, model_input
from runtime.diffusion.schedulers.fused import FusedSteps, can_fuse, noisy_steps
from runtime.text.conditioning import Conditioning

Randn = Callable[[tuple[int, ...]], Array]
Predict = Callable[[int, Array], Array]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
WHOLE = (0.0, 1.0)  # of the way from noise to sound
KEPT_STEPS = 8  # captured steps that are kept, one a combination of shapes


def plain_steps(plan: Plan, sample: Array, predict: Predict, randn: Randn) -> Iterator[Array]:
    """Yield the sample (rows, channels, height, width) after every step; `predict(i, input)` is the guided model."""
    state = State(sample=sample)
    for i, step in enumerate(plan.steps):
        output = predict(i, model_input(step, state))
        state = advance(plan, step, state, output, randn)
        yield state.sample


class Denoiser:
    """Runs a plan over the UNet: on the host step by step, on a GPU as a step that is captured once for its shapes."""

    def __init__(
        self, engines: Mapping[str, Engine], device: Device, *, token_multiple: int, replay: bool = True
    ) -> None:
        self._engines, self._device, self._replay = engines, device, replay
        self._token_multiple = token_multiple
        self._captured: OrderedDict[tuple[object, ...], _CapturedStep] = OrderedDict()

    def steps(
        self,
        plan: Plan,
        sample: Array,
        conditioning: Conditioning,
        guidance_scale: float | None,
        randn: Randn,
        guidance_interval: tuple[float, float] = WHOLE,
        feature_cache_interval: int = 1,
    ) -> Iterator[Array]:
        """Yield the sample (rows, channels, height, width) after each step, valid until the next.

        `sample` is the first noise, scaled. With a guidance scale the conditioning has twice the rows, the
        unconditional ones first; outside the interval, from its start up to its stop as shares of the steps, only the
        others are run. With a feature cache the whole UNet runs at every so many steps (see CachedUNet). `randn(shape)`
        draws for schedulers that add noise.
        """
        unet, cached = self._engines["unet"], feature_cache_interval > 1
        if self._device.name == "cpu" or not can_fuse(plan) or guidance_interval != WHOLE or cached:
            feeds = _feeds(unet, conditioning)
            scales = _scales(guidance_scale, guidance_interval, len(plan.steps))
            run = CachedUNet(unet, self._engines["unet_shallow"], feature_cache_interval).run if cached else unet.run
            yield from plain_steps(plan, sample, partial(self._predict, run, plan, feeds, scales), randn)
            return
        draws = [self._device.xp.asarray(randn(sample.shape)) for _ in range(noisy_steps(plan))]
        noise = np.stack(draws) if draws else None
        step = self._step(unet, plan, sample, padded(unet, conditioning, self._token_multiple), guidance_scale, noise)
        for row in plan.steps:
            step.replay()
            yield self._device.watch(f"unet (timestep {row.timestep:g})", step.sample)

    def clear(self) -> None:
        """Forget captured steps: they point into the engine."""
        self._captured.clear()

    def _predict(
        self, run: Run, plan: Plan, feeds: Mapping[str, Array], scales: Sequence[float | None], i: int, sample: Array
    ) -> Array:
        """The model's output at `sample` in step `i`, guided where there is a guidance scale."""
        scale, timestep = scales[i], plan.steps[i].timestep
        inputs = {"sample": sample, "timestep": self._device.xp.asarray([timestep], dtype=np.float32)}
        if scale is None:
            inputs |= {name: array[-len(sample) :] for name, array in feeds.items()}  # without the unconditional rows
        else:
            inputs |= {**feeds, "sample": np.concatenate([sample, sample])}
        outputs = run(inputs)
        output = self._device.watch(f"unet (timestep {timestep:g})", outputs["noise_pred"])
        if scale is None:
            return output
        unconditional, text = np.split(output, 2)
        return unconditional + np.float32(scale) * (text - unconditional)

    def _step(
        self,
        unet: Engine,
        plan: Plan,
        sample: Array,
        conditioning: Conditioning,
        guidance_scale: float | None,
        noise: Array | None,
    ) -> "_CapturedStep":
        """The captured step of these shapes, ready at the first row of the plan."""
        feeds = _feeds(unet, conditioning)
        shapes = tuple((name, array.shape) for name, array in feeds.items())
        key = (sample.shape, shapes, guidance_scale is None, noisy_steps(plan), max(plan.depth, FusedSteps.room))
        step = self._captured.pop(key, None)
        if step is None:
            fused = FusedSteps(self._device.xp, plan, sample.copy(), guidance_scale, noise)
            step = _capture(self._device, unet, fused, feeds, captures=self._replay and unet.capturable)
        step.start(plan, sample, feeds, guidance_scale, noise)
        self._captured[key] = step
        while len(self._captured) > (KEPT_STEPS if self._replay else 0):
            self._captured.popitem(last=False)
        return step


@dataclass(frozen=True)
class _CapturedStep:
    """One step over buffers of its own: `replay` reads and writes the same addresses every time."""

    fused: FusedSteps
    feeds: Mapping[str, Array]
    replay: Replay

    @property
    def sample(self) -> Array:
        return self.fused.sample

    def start(
        self, plan: Plan, sample: Array, feeds: Mapping[str, Array], guidance_scale: float | None, noise: Array | None
    ) -> None:
        """Fill the buffers for another run."""
        self.fused.reset(plan, guidance_scale, noise)
        self.fused.sample[...] = sample
        for name, array in feeds.items():
            self.feeds[name][...] = array


def padded(unet: Engine, conditioning: Conditioning, multiple: int) -> Conditioning:
    """The conditioning with masked tokens up to a multiple of `multiple`, or to the most that the UNet takes.

    Steps are captured for their shapes: so there are fewer shapes, with the same sound.
    """
    spec = unet.inputs.get("encoder_attention_mask_1")
    if spec is None:  # it does not see these tokens
        return conditioning
    tokens = conditioning.attention_mask.shape[1]
    longer, most = -(-tokens // multiple) * multiple, spec.max_shape[1]
    return conditioning.padded(longer if most is None else max(min(longer, most), tokens))


def _capture(
    device: Device, unet: Engine, fused: FusedSteps, feeds: Mapping[str, Array], *, captures: bool
) -> _CapturedStep:
    xp, sample = device.xp, fused.sample
    own = {name: array.copy() for name, array in feeds.items()}
    rows = sample.shape[0] * fused.copies
    shown, timestep = xp.empty((rows, *sample.shape[1:]), np.float32), xp.empty((1,), np.float32)

    def work() -> None:
        fused.prepare(shown, timestep)
        fused.update(unet.run({**own, "sample": shown, "timestep": timestep})["noise_pred"])

    return _CapturedStep(fused, own, device.capture(work) if captures else work)


def _scales(scale: float | None, interval: tuple[float, float], steps: int) -> list[float | None]:
    """The guidance scale of every step: None outside of the interval, that is, no guidance."""
    start, stop = interval
    return [scale if start <= i / steps < stop else None for i in range(steps)]


def _feeds(unet: Engine, conditioning: Conditioning) -> dict[str, Array]:
    """What the UNet is conditioned on: some attend to the first states only."""
    arrays = {
        "encoder_hidden_states": conditioning.generated_prompt_embeds,
        "encoder_hidden_states_1": conditioning.prompt_embeds,
        "encoder_attention_mask_1": conditioning.attention_mask,
    }
    return {name: array for name, array in arrays.items() if name in unet.inputs}
