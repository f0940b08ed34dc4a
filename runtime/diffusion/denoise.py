"""The denoising loop. On a GPU its steps are replayed instead: see `captured`; where they cannot be, the model is."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from runtime.backends.device import Array, Device
from runtime.backends.engine import Engine
from runtime.backends.graphs import Graphs
from runtime.diffusion.canvas import Canvas
from runtime.diffusion.captured import CapturedSteps, last_rows, padded
from runtime.diffusion.feature_cache import CachedUNet, Run
from runtime.diffusion.schedulers import Plan, State, advance, model_input
from runtime.diffusion.schedulers.fused import can_fuse, noisy_steps

Randn = Callable[[tuple[int, ...]], Array]
Predict = Callable[[int, Array], Array]
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
        unet = self._engines["unet"]
        feeds: Feeds = {name: array for name, array in conditioning.items() if name in unet.inputs}
        if self._device.gpu is not None:
            feeds = padded(unet, feeds, self._graphs.token_multiple)
        scales = _scales(guidance_scale, guidance_interval, len(plan.steps))
        fuses = canvas is None and known is None and can_fuse(plan) and plan.steps
        if self._device.gpu is not None and fuses:
            draws = [self._device.xp.asarray(randn(sample.shape)) for _ in range(noisy_steps(plan))]
            captured = CapturedSteps(self._engines, self._device.gpu, self._graphs)
            steps = captured.run(plan, sample, feeds, scales, feature_cache_interval, draws)
        else:
            views = 1 if canvas is None else canvas.views
            if views > 1:
                feeds = _of_views(feeds, views, guided=guidance_scale is not None)
            mixed = guidance_scale is not None and None in scales
            own = last_rows(feeds, len(sample) * views) if mixed else feeds
            runs = 1 if canvas is None else canvas.runs
            predict = [
                partial(self._predict, self._model(feature_cache_interval), plan, feeds, own, scales)
                for _ in range(runs)  # each keeps features of its own
            ]
            seen = predict[0] if canvas is None else partial(self._see, canvas, predict)
            steps = plain_steps(plan, sample, seen, randn, known)
        yield from self._in_step(steps)

    def _model(self, feature_cache_interval: int) -> Run:
        whole = self._graphs.engine("unet")
        if feature_cache_interval == 1:
            return whole
        return CachedUNet(whole, self._graphs.engine("unet_shallow"), feature_cache_interval).run

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
