"""What is asked of a server, and when: drawn from a seeded generator, so that a run repeats."""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.latency.pipelines import GUIDANCE, SCHEDULER
from bench.rivals import prompts
from runtime.wording import readable

ENDPOINT = "/v1/audio/generate"

Body = dict[str, Any]  # of a request, as JSON


@dataclass(frozen=True)
class Shape:
    """What decides how long a call takes, and its share among the requests relative to the others'."""

    duration_s: float
    steps: int
    weight: float = 1.0

    def __str__(self) -> str:
        return f"{self.duration_s:g}x{self.steps}"


@dataclass(frozen=True)
class Planned:
    """A request and when it arrives, in seconds after the start."""

    at_s: float
    body: Body


def mix(text: str) -> list[Shape]:
    """Shapes of requests from a command line: "2.56x20:3,5.12x10:1" has three of the first to one of the second."""
    try:
        shapes = [_shape(part) for part in text.split(",")]
    except ValueError as error:
        form = "SECONDSxSTEPS[:WEIGHT], or several with commas between them"
        raise argparse.ArgumentTypeError(f"has to be {form}, got '{readable(text, 80)}'") from error
    return shapes


def _shape(text: str) -> Shape:
    size, _, weight = text.partition(":")
    duration, _, steps = size.partition("x")
    shape = Shape(float(duration), int(steps), float(weight or 1))
    if not (0 < shape.duration_s < np.inf and shape.steps > 0 and 0 < shape.weight < np.inf):
        raise ValueError
    return shape


def request(shape: Shape, number: int, seed: int = 0) -> Body:
    """A request of a shape. Of 720 numbers that follow each other no two have one prompt; all have as many tokens."""
    return {
        "input": prompts(number, 1)[0],
        "audio_length": shape.duration_s,
        "num_inference_steps": shape.steps,
        "guidance_scale": GUIDANCE,
        "scheduler": SCHEDULER,
        "seed": seed,
    }


def requests(shapes: Sequence[Shape], seed: Sequence[int]) -> Iterator[Body]:
    """Requests without end: shapes by their weights, seeds at random, and new prompts: ours keeps those it has seen."""
    draw = np.random.default_rng([*seed, 0])
    weights = np.array([shape.weight for shape in shapes])
    for number in itertools.count(int(draw.integers(2**31))):
        shape = shapes[draw.choice(len(shapes), p=weights / weights.sum())]
        yield request(shape, number, int(draw.integers(2**31)))


def arrivals(rate: float, seconds: float, seed: Sequence[int]) -> Iterator[float]:
    """When requests arrive, in seconds after the start: a Poisson process of so many a second."""
    draw = np.random.default_rng([*seed, 1])
    at_s = draw.exponential(1 / rate)
    while at_s < seconds:
        yield float(at_s)
        at_s += draw.exponential(1 / rate)


def open_plan(shapes: Sequence[Shape], rate: float, seconds: float, seed: Sequence[int]) -> list[Planned]:
    """All requests of an open loop."""
    asked = requests(shapes, seed)
    return [Planned(at_s, next(asked)) for at_s in arrivals(rate, seconds, seed)]
