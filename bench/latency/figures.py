"""What follows from the times of whole calls: figures, the table, and the plot."""

from pathlib import Path
from typing import Any

from bench.latency.pipelines import TEXT
from bench.rivals import DECODE_FLOP, UNET_FLOP

Row = dict[str, Any]
AGAINST = ("diffusers-fp32", "diffusers-bf16", "diffusers-openvino")
STAGES = (*TEXT, "load", "denoise", "decode", "vocode", "write", "other")
COLUMNS = {  # heading: where in a row, format
    "start s": (("cold", "start_s"), ".1f"),
    "demo start": (("small_start_s",), ".2f"),
    "median s": (("median_s",), ".2f"),
    "p90 s": (("p90_s",), ".2f"),
    "step s": (("step", "median_s"), ".3f"),
    "decode": (("stages", "decode"), ".2f"),
    "vocode": (("stages", "vocode"), ".2f"),
    "text": (("text_s",), ".2f"),
    "GiB": (("peak_gib",), ".2f"),
    "RTF": (("real_time_factor",), ".3f"),
    "ceiling": (("share_of_ceiling",), ".0%"),
    "error": (("accuracy", "relative_error"), ".1e"),
    "LSD dB": (("accuracy", "log_spectral_distance_db"), ".2f"),
    **{f"x {name.removeprefix('diffusers-')}": (("times_as_fast", name), ".2f") for name in AGAINST},
    "x batch": (("batch_gain",), ".2f"),
}


def add_figures(rows: list[Row], ceilings: list[Row], starts: dict[str, float], *, has_flop: bool) -> None:
    """Add to each row its seconds of text, its real-time factor, its share of the ceiling, and its gain on others.

    `has_flop` says whether the calls have the size whose operations are known: 10.24 s of the base model.
    """
    medians = {row["name"]: row["median_s"] for row in rows if row["batch"] == 1 and "median_s" in row}
    for row in (row for row in rows if "median_s" in row):
        median_s, batch, stages = row["median_s"], row["batch"], row["stages"]
        row["text_s"] = sum(stages.get(name, 0.0) for name in TEXT)
        row["real_time_factor"] = median_s / row["audio_s"] / batch
        row["times_as_fast"] = {name: batch * medians[name] / median_s for name in AGAINST if name in medians}
        if row.get("one_prompt_median_s"):
            row["batch_gain"] = batch * row["one_prompt_median_s"] / median_s
        if batch == 1 and row["name"] in starts:
            row["small_start_s"] = starts[row["name"]]
        ceiling = ceilings[row["group"]]["flops"].get(row["precision"])
        if has_flop:
            steps = row["steps"] if row["guided"] else row["steps"] / 2  # half the rows
            row["flops"] = batch * (steps * UNET_FLOP + DECODE_FLOP) / median_s
            row["share_of_ceiling"] = row["flops"] / ceiling if ceiling else None


def table(rows: list[Row], ceilings: list[Row]) -> str:
    """The figures as text, one line a contender and batch. The line of one that failed has its error instead."""
    widths = {heading: max(len(heading), 7) + 1 for heading in COLUMNS}
    lines = [f"{'':22} {'in':4} batch" + "".join(f"{heading:>{width}}" for heading, width in widths.items())]
    for row in rows:
        figures = (_figure(row, *column).rjust(widths[heading]) for heading, column in COLUMNS.items())
        text = "  failed: " + row["failed"] if "failed" in row else "".join(figures)
        lines.append(f"{row['name']:22} {row.get('precision') or '-':4} {row['batch']:5}{text}")
    for number, ceiling in enumerate(ceilings):
        found = [f"{name} {flops / 1e9:.0f} GFLOP/s" for name, flops in ceiling["flops"].items()]
        lines.append(f"ceiling of group {number}: {', '.join(found + list(ceiling['unavailable'].values()))}")
    return "\n".join(lines)


def _figure(row: Row, keys: tuple[str, ...], form: str) -> str:
    value: Any = row
    for key in keys:
        value = None if value is None else value.get(key)
    return "-" if value is None else format(value, form)


def plot_stages(rows: list[Row], path: Path) -> None:
    """Write a bar of each contender's stages, in seconds of a warm call of one prompt, to `path` as PNG."""
    from matplotlib.figure import Figure  # not pyplot: no display, and no state that others share

    timed = [row for row in rows if row["batch"] == 1 and "median_s" in row]
    shown = sorted(timed, key=lambda row: -row["median_s"])
    figure = Figure(figsize=(10, 1.8 + 0.5 * len(shown)), dpi=120, layout="constrained")
    axes = figure.subplots()
    starts = [0.0] * len(shown)
    for stage in STAGES:
        seconds = [row["stages"].get(stage, 0.0) for row in shown]
        if any(value > 0.002 * row["median_s"] for value, row in zip(seconds, shown, strict=True)):
            axes.barh(range(len(shown)), seconds, left=starts, label=stage, height=0.7)
        starts = [start + value for start, value in zip(starts, seconds, strict=True)]
    for i, row in enumerate(shown):
        axes.annotate(f" {row['median_s']:.2f} s", (starts[i], i), va="center")
    axes.set_yticks(range(len(shown)), [f"{row['name']} ({row['precision']})" for row in shown])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("seconds, median of warm calls")
    told = f"{shown[0]['audio_s']:.2f} s of audio, {shown[0]['steps']} steps where a name has no other" if shown else ""
    axes.set_title(told, loc="left")
    figure.legend(loc="outside lower center", ncols=len(STAGES))
    figure.savefig(path, format="png")
