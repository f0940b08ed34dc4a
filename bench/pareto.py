"""What time buys: recognised sounds against the seconds of a call, of several bundles and settings, with a picture.

Each bundle is judged at each setting, a distilled one at what it was taught. Then single calls take turns to be timed.
Nobody has to choose what is off the frontier: something else there is faster and recognised as often.
"""

import argparse
import itertools
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from bench.figures import percent
from bench.quality import DPM, HEADING, Panel
from bench.report import time_in_turns
from bench.sound_makers import OurSounds, Setting
from export.demo.sounds import CLASSES
from runtime.bundle import Bundle
from runtime.errors import InputError
from runtime.sound.plot import check_plot

SETTINGS = (
    *(Setting(DPM, steps) for steps in (20, 10, 5, 3, 2)),
    Setting(DPM, 5, interval=(0.0, 0.6)),  # three of five steps
    Setting(DPM, 5, feature_cache=2),
    Setting(DPM, 3, interval=(0.0, 0.6)),  # two of three
)
Row = dict[str, Any]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Judge and time all, and print the table. Raises InputError for a bundle that cannot be judged."""
    if options.plot:
        check_plot()
    bundles = {folder.name: folder for folder in options.engines}
    if len(bundles) < len(options.engines):
        raise InputError("--engines: bundles are told apart by their folders' names, and two have the same")
    panel = Panel(tuple(CLASSES), options.seeds, options.seed, options.seconds)
    rows, calls = [], dict[str, Callable[[], object]]()
    captions = itertools.cycle(panel.captioned.captions)  # a text that comes again is not read again
    with ExitStack() as stack:
        print(HEADING)
        for name, folder in bundles.items():
            maker = stack.enter_context(closing(OurSounds(folder)))
            for setting in settings(folder):
                row = panel.contest(name, maker, setting)
                rows.append(row)
                calls[row["name"]] = _call(maker, captions, options.seconds, setting)
        times = time_in_turns(calls, options.runs)
    for row in rows:
        row |= times[row["name"]]
    for row in rows:
        row["on_frontier"] = not any(beats(other, row) for other in rows)
    print("\n".join(["", *map(line, sorted(rows, key=lambda row: float(row["median_s"])))]))
    if options.plot:
        plot(rows, options.seconds, options.plot)
    return {"settings": {key: getattr(options, key) for key in ("seeds", "seed", "seconds", "runs")}, "rows": rows}


def settings(folder: Path) -> tuple[Setting, ...]:
    """What a bundle is judged at."""
    taught = Bundle.read(folder).manifest.defaults
    if taught.distilled:
        return (Setting(None, taught.num_inference_steps, taught.guidance_scale),)
    return SETTINGS


def beats(one: Row, other: Row) -> bool:
    """Whether one is at least as fast and as often recognised, and better in one of both."""
    better = one["median_s"] < other["median_s"] or one["rate"] > other["rate"]
    return bool(better and one["median_s"] <= other["median_s"] and one["rate"] >= other["rate"])


def line(row: Row) -> str:
    """A row as text, those on the frontier with a star."""
    low, high = row["interval"]
    star = "*" if row["on_frontier"] else " "
    interval = f"({percent(low)} to {percent(high)})"
    return f"{star} {row['median_s']:6.3f} s  {percent(row['rate']):>7} {interval}  {row['name']}"


def plot(rows: list[Row], seconds: float, path: Path) -> None:
    """Draw recognition over time, with intervals, and the frontier as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(dict.fromkeys(row["contender"] for row in rows)):
        own = [row for row in rows if row["contender"] == name]
        times, rates = ([row[key] for row in own] for key in ("median_s", "rate"))
        reach = [[row["rate"] - row["interval"][0] for row in own], [row["interval"][1] - row["rate"] for row in own]]
        axes.errorbar(times, rates, reach, fmt="o", color=f"C{i}", elinewidth=0.6, capsize=2, label=name)
    best = sorted((row for row in rows if row["on_frontier"]), key=lambda row: float(row["median_s"]))
    axes.plot([row["median_s"] for row in best], [row["rate"] for row in best], color="0.6", zorder=0)
    first = rows[0]["contender"]
    for row in rows:
        told = row["name"].removeprefix(f"{row['contender']}: ").replace("DPMSolverMultistep", "DPM++")
        place, side = (row["median_s"], row["rate"]), 1 if row["contender"] == first else -1  # others to the left
        told = told.replace(", guidance 3.5", "")
        ha, va = ("left", "top") if side > 0 else ("right", "bottom")
        axes.annotate(told, place, (5 * side, -4 * side), textcoords="offset points", fontsize=7, ha=ha, va=va)
    axes.set(xscale="log", xlabel=f"seconds for {seconds:g} s of sound", ylabel="recognised")
    axes.set_xlim(0.6 * min(row["median_s"] for row in rows), 1.5 * max(row["median_s"] for row in rows))
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis(lambda x, _: f"{x:.2g}")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _call(maker: OurSounds, captions: "itertools.cycle[str]", seconds: float, setting: Setting) -> Callable[[], object]:
    return lambda: maker.render([next(captions)], [0], seconds, setting)
