"""Denoising steps that a GPU replays: each kind of step is one launch, whatever the scheduler, prompt and seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime.backends.device import Array, Gpu, Replay
from runtime.backends.engine import Engine
from runtime.backends.graphs import Graphs, rounded
from runtime.diffusion.schedulers import Plan
from runtime.diffusion.schedulers.fused import FusedSteps, noisy_steps

Feeds = Mapping[str, Array]


@dataclass(frozen=True, order=True)
class Kind:
    """What a step runs: the unconditional rows too, or the others alone; the whole UNet, or the shallow one."""

    guided: bool
    whole: bool = True


def kinds_of(scales: Sequence[float | None], feature_cache_interval: int) -> list[Kind]:
    """The kind of every step, as `CachedUNet` has it: features of too few rows are made out of turn."""
    kinds: list[Kind] = []
    for i, scale in enumerate(scales):
        guided = scale is not None
        whole = i % feature_cache_interval == 0 or (guided and not kinds[-1].guided)
        kinds.append(Kind(guided, whole))
    return kinds


class CapturedSteps:
    """Runs plans as launches of steps that were captured for their shapes when these came first."""

    def __init__(self, engines: Mapping[str, Engine], gpu: Gpu, graphs: Graphs) -> None:
        self._engines, self._gpu, self._graphs = engines, gpu, graphs

    def run(
        self,
        plan: Plan,
        sample: Array,
        feeds: Feeds,
        scales: Sequence[float | None],
        feature_cache_interval: int,
        draws: Sequence[Array],
    ) -> Iterator[Array]:
        """Yield the sample after each step, valid until the next. See `Denoiser.steps`.

        `scales` has the guidance scale of every step, None for no guidance; where any has one the feeds have twice the
        rows, of which steps without take the last. `draws` are the noise that the plan adds, in order.
        """
        noise = np.stack(draws) if draws else None
        kinds, scale = kinds_of(scales, feature_cache_interval), next((s for s in scales if s is not None), None)
        shapes = tuple((name, array.shape) for name, array in feeds.items())
        depth = max(plan.depth, FusedSteps.room)
        key = ("step", sample.shape, shapes, tuple(sorted(set(kinds))), noisy_steps(plan), depth)

        def make() -> _Steps:
            fused = FusedSteps(self._gpu.xp, plan, sample.copy(), scale, noise)
            steps = _Steps(fused, features=_Features(len(sample)) if feature_cache_interval > 1 else None)
            for guided in {kind.guided for kind in kinds}:
                steps.feeds[guided] = last_rows(feeds, len(sample) * (1 + guided))
            for kind in sorted(set(kinds), reverse=True):  # those that make features come first
                self._capture(steps, kind, plan, scale, noise)
            return steps

        with self._graphs.borrowed(key, make) as steps:
            steps.fused.reset(plan, scale, noise)
            steps.fill(sample, feeds)
            for kind in kinds:
                steps.replays[kind]()
                yield steps.fused.sample
            self._gpu.watch_flag("unet", steps.fused.finite.copy())

    def _capture(self, steps: "_Steps", kind: Kind, plan: Plan, scale: float | None, noise: Array | None) -> None:
        fused, sample, first = steps.fused, steps.fused.sample, steps.fused.sample.copy()
        name = "unet" if kind.whole else "unet_shallow"
        engine, own, features = self._engines[name], steps.feeds[kind.guided], steps.features
        shown = np.concatenate([sample] * (1 + kind.guided))
        timestep = np.empty_like(sample, shape=(1,))

        def work() -> tuple[Array]:
            fused.prepare(shown, timestep)
            inputs = {**own, "sample": shown, "timestep": timestep}
            if features is not None and not kind.whole:
                inputs["deep_features"] = features.kept[kind.guided]
            outputs = engine.run({name: inputs[name] for name in engine.inputs})
            if features is not None and kind.whole:
                features.keep(outputs["deep_features"], guided=kind.guided)
            fused.update(outputs["noise_pred"])
            return (sample,)

        def restore() -> None:
            fused.reset(plan, scale, noise)
            sample[...] = first

        captured = self._graphs.captured(work, restore) if self._graphs.captures(name) else None
        steps.replays[kind] = work if captured is None else captured[0]


@dataclass
class _Steps:
    """Every kind of step of a run, over the same buffers: a replay reads and writes the same addresses every time."""

    fused: FusedSteps
    feeds: dict[bool, dict[str, Array]] = field(default_factory=dict)  # by whether there is guidance
    replays: dict[Kind, Replay] = field(default_factory=dict)
    features: "_Features | None" = None

    def fill(self, sample: Array, feeds: Feeds) -> None:
        """What another run starts from and is conditioned on."""
        self.fused.sample[...] = sample
        for own in self.feeds.values():
            for name, array in own.items():
                array[...] = feeds[name][-len(array) :]


class _Features:
    """What steps of the shallow UNet start from: of all the rows of a guided step, and of those of the others."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.kept: dict[bool, Array] = {}

    def keep(self, features: Array, *, guided: bool) -> None:
        """Of a whole run; the first time in new buffers, whose addresses stay."""
        parts = {False: features[-self._rows :], **({True: features} if guided else {})}
        for wanted, part in parts.items():
            if wanted in self.kept:
                self.kept[wanted][...] = part
            else:
                self.kept[wanted] = part.copy()


def last_rows(feeds: Feeds, rows: int) -> dict[str, Array]:
    """The last rows of the feeds, each in its own memory: engines take no address inside of another array."""
    return {name: array[-rows:].copy() for name, array in feeds.items()}


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
        tokens = array.shape[axis]
        missing = max(rounded(tokens, multiple, spec.max_shape[axis]) - tokens, 0)
        longer[name] = np.pad(array, [(0, missing if i == axis else 0) for i in range(array.ndim)])
    return longer
