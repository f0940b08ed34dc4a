"""The denoising loop: plain, and as one captured step that a GPU replays."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from runtime.backends.device import Array, Device, Replay
from runtime.backends.engine import Engine
from runtime.backends.graphs import Graphs
from runtime.diffusion.canvas import Canvas
from runtime.diffusion.feature_cache import CachedUNet
from runtime.diffusion.schedulers import Plan, State, advance, model_input
from runtime.diffusion.schedulers.fused import FusedSteps, can_fuse, noisy_steps

Randn = Callable[[tuple[int, ...]], Array]
Predict = Callable[[int, Array], Array]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Feeds = Mapping[str, Array]  # what the UNet is conditioned on, by the names of its inputs
WHOLE = (0.0, 1.0)  # of the way from noise to sound
STEPS_AHEAD = 2  # of a GPU that the host may be: more, and progress and an early end would come too soon


@dataclass(frozen=True)
class Known:
    """What of a sample is known, and stays as it is while the rest is made: inpainting by the reference library's rule.

    All arrays have the sample's shape, or one that is broadcast to it.
    """

    latents: Array  # of the sound that is given, scaled
    mask: Array  # 1 is made anew, 0 is kept
    noise: Array  # the first noise, standard normals, which the known latents have at every step

    def put_back(self, plan: Plan, call: int, sample: Array) -> Array:
        """The sample that model call number `call` starts from, with what is kept in its place; at the end, clean."""
        return self.mask * sample + (1 - self.mask) * plan.noised(call, self.latents, self.noise)


def plain_steps(
    plan: Plan, sample: Array, predict: Predict, randn: Randn, known: Known | None = None
) -> Iterator[Array]:
    """Yield the sample (rows, channels, height, width) after every step; `predict(i, input)` is the guided model."""
    state = State(sample=sample)
    for i, step in enumerate(plan.steps):
        output = predict(i, model_input(step, state))
        state = advance(plan, step, state, output, randn)
        if known is not None:
            state = replace(state, sample=known.put_back(plan, i + 1, state.sample))
        yield state.sample


class Denoiser:
    """Runs a plan over the UNet: step by step, or on a GPU as a step that is captured once for its shapes."""

    def __init__(self, engines: Mapping[str, Engine], device: Device, graphs: Graphs | None = None) -> None:
        self._engines, self._device = engines, device
        self._graphs = graphs or Graphs(engines, device)

    def steps(
        self,
        plan: Plan,
        sample: Array,
        conditioning: Feeds,
        guidance_scale: float | None,
        randn: Randn,
        guidance_interval: tuple[float, float] = WHOLE,
        feature_cache_interval: int = 1,
        *,
        canvas: Canvas | None = None,
        known: Known | None = None,
    ) -> Iterator[Array]:
        """Yield the sample (rows, channels, height, width) after each step, valid until the next.

        `sample` is the first noise, scaled. With a guidance scale the conditioning has twice the rows, the
        unconditional ones first; outside the interval, from its start up to its stop as shares of the steps, only the
        others are run. With a feature cache the whole UNet runs at every so many steps (see CachedUNet). `randn(shape)`
        draws for schedulers that add noise. `canvas`: see `Canvas`; None: the model sees all rows at once.
        """
        unet, cached = self._engines["unet"], feature_cache_interval > 1
        feeds: Feeds = {name: array for name, array in conditioning.items() if name in unet.inputs}
        plain = guidance_interval != WHOLE or cached or canvas is not None or known is not None or not can_fuse(plan)
        if self._device.gpu is not None and not plain and plan.steps:
            steps = self._replayed(unet, plan, sample, feeds, guidance_scale, randn)
        else:
            scales = _scales(guidance_scale, guidance_interval, len(plan.steps))
            shallow = self._engines["unet_shallow"] if cached else None
            if canvas is not None:
                feeds = _of_views(feeds, canvas.views, guided=guidance_scale is not None)
            own = feeds if guidance_scale is None or None not in scales else _positive(feeds)
            predict = []
            for _ in range(1 if canvas is None else canvas.runs):  # each run keeps features of its own
                run = unet.run if shallow is None else CachedUNet(unet, shallow, feature_cache_interval).run
                predict.append(partial(self._predict, run, plan, feeds, own, scales))
            seen = predict[0] if canvas is None else partial(self._see, canvas, predict)
            steps = plain_steps(plan, sample, seen, randn, known)
        yield from self._in_step(steps)

    def _see(self, canvas: Canvas, predict: Sequence[Predict], i: int, sample: Array) -> Array:
        """What the model says of every window of `sample`, as one output of its shape."""
        return canvas.over(sample, lambda run, views: predict[run](i, views).copy(), self._device.xp, i)

    def _in_step(self, steps: Iterator[Array]) -> Iterator[Array]:
        """The same samples, each when the device is at most STEPS_AHEAD steps behind the host."""
        marks: deque[Any] = deque()
        for sample in steps:
            marks.append(self._device.mark())
            if len(marks) > STEPS_AHEAD:
                self._device.wait(marks.popleft())
            yield sample

    def _predict(
        self, run: Run, plan: Plan, feeds: Feeds, own: Feeds, scales: Sequence[float | None], i: int, sample: Array
    ) -> Array:
        """The model's output at `sample` in step `i`: with a guidance scale of all `feeds`, else of its `own`."""
        scale, timestep = scales[i], plan.steps[i].timestep
        inputs = {"sample": sample, "timestep": self._device.xp.asarray([timestep], dtype=np.float32)}
        if scale is None:
            inputs |= own
        else:
            inputs |= {**feeds, "sample": np.concatenate([sample, sample])}
        outputs = run(inputs)
        output = self._device.watch(f"unet (timestep {timestep:g})", outputs["noise_pred"])
        if scale is None:
            return output
        unconditional, text = np.split(output, 2)
        return unconditional + np.float32(scale) * (text - unconditional)

    def _replayed(
        self, unet: Engine, plan: Plan, sample: Array, feeds: Feeds, guidance_scale: float | None, randn: Randn
    ) -> Iterator[Array]:
        """Every step by one launch of the step of these shapes, which is captured when they come first."""
        draws = [self._device.xp.asarray(randn(sample.shape)) for _ in range(noisy_steps(plan))]
        noise = np.stack(draws) if draws else None
        feeds = padded(unet, feeds, self._graphs.token_multiple)
        shapes = tuple((name, array.shape) for name, array in feeds.items())
        depth = max(plan.depth, FusedSteps.room)
        key = ("step", sample.shape, shapes, guidance_scale is None, noisy_steps(plan), depth)

        def make() -> _Step:
            fused = FusedSteps(self._device.xp, plan, sample.copy(), guidance_scale, noise)
            return _make_step(self._graphs, unet, fused, feeds, lambda: fused.reset(plan, guidance_scale, noise))

        with self._graphs.borrowed(key, make) as step:
            step.start(plan, sample, feeds, guidance_scale, noise)
            for _ in plan.steps:
                step.replay()
                yield step.fused.sample
            self._device.watch_flag("unet", step.fused.finite.copy())


@dataclass(frozen=True)
class _Step:
    """One step over buffers of its own: `replay` reads and writes the same addresses every time."""

    fused: FusedSteps
    feeds: Feeds
    replay: Replay

    def start(self, plan: Plan, sample: Array, feeds: Feeds, guidance_scale: float | None, noise: Array | None) -> None:
        """Fill the buffers for another run."""
        self.fused.reset(plan, guidance_scale, noise)
        self.fused.sample[...] = sample
        for name, array in feeds.items():
            self.feeds[name][...] = array


def _make_step(graphs: Graphs, unet: Engine, fused: FusedSteps, feeds: Feeds, reset: Callable[[], None]) -> _Step:
    sample, first = fused.sample, fused.sample.copy()
    own = {name: array.copy() for name, array in feeds.items()}
    shown, timestep = np.concatenate([sample] * fused.copies), np.empty_like(sample, shape=(1,))

    def work() -> tuple[Array]:
        fused.prepare(shown, timestep)
        fused.update(unet.run({**own, "sample": shown, "timestep": timestep})["noise_pred"])
        return (sample,)

    def restore() -> None:
        reset()
        sample[...] = first

    captured = graphs.captured(work, restore) if graphs.captures("unet") else None
    return _Step(fused, own, work if captured is None else captured[0])


def padded(unet: Engine, feeds: Feeds, multiple: int) -> dict[str, Array]:
    """The feeds with zeros up to a multiple of so many tokens, or to the most that the UNet takes.

    Steps are captured for their shapes: so there are fewer shapes, with the same sound. The mask is among the feeds, so
    what is added is masked. A UNet that does not see the tokens has none to pad.
    """
    longer = {}
    for name, array in feeds.items():
        spec = unet.inputs[name]
        axis = spec.axes.index("tokens") if "tokens" in spec.axes else None
        if axis is None:
            longer[name] = array
            continue
        tokens, most = array.shape[axis], spec.max_shape[axis]
        wanted = -(-tokens // multiple) * multiple
        missing = max((wanted if most is None else min(wanted, most)) - tokens, 0)
        longer[name] = np.pad(array, [(0, missing if i == axis else 0) for i in range(array.ndim)])
    return longer


def _positive(feeds: Feeds) -> Feeds:
    """The feeds without the unconditional rows, each in its own memory: engines take no address inside of another."""
    return {name: array[len(array) // 2 :].copy() for name, array in feeds.items()}


def _of_views(feeds: Feeds, views: int, *, guided: bool) -> Feeds:
    """The feeds of so many views of every row: of all unconditional rows first, where there are such."""
    halves = 2 if guided else 1
    return {
        name: np.concatenate([part for half in np.split(array, halves) for part in [half] * views])
        for name, array in feeds.items()
    }


def _scales(scale: float | None, interval: tuple[float, float], steps: int) -> list[float | None]:
    """The guidance scale of every step: None outside of the interval, that is, no guidance."""
    start, stop = interval
    return [scale if start <= i / steps < stop else None for i in range(steps)]
