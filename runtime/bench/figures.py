"""What follows from the times of calls: percentiles, ratios, the table and the picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.bench.contest import Row, Start

GIB = 2**30
PERCENTILES = (50, 90, 99)
STAGES = ("text", "denoise", "decode", "vocode", "rank")


def figures(starts: Sequence[Start], rows: Sequence[Row]) -> dict[str, Any]:
    """All that was found, for JSON: seconds, by stage the median; each row's ratio to the first subject's of its size.

    The ratio is the median over the turns, with its 10th and 90th percentile beside it.
    """
    first = {row.size: row for row in reversed(rows)}
    return {
        "starts": [
            {"name": s.name, "ready_s": s.ready_s, "sound_s": s.sound_s, "peak_bytes": s.peak_bytes} for s in starts
        ],
        "calls": [_figures(row, first[row.size]) for row in rows],
    }


def _figures(row: Row, first: Row) -> dict[str, Any]:
    found: dict[str, Any] = {"name": row.name, "waveforms": row.size.waveforms, "duration_s": row.size.duration_s}
    if row.failed is not None or not row.calls:
        return {**found, "failed": row.failed or "no call was made"}
    seconds = np.array([call["seconds"] for call in row.calls])
    stages = {name: float(np.median([call["timings"][name] for call in row.calls])) for name in row.calls[0]["timings"]}
    found |= {
        "label": row.first["label"],
        "duration_s": row.first["audio_s"],
        "first_s": row.first["seconds"],
        "seconds": seconds.tolist(),
        **{f"p{q}_s": float(np.percentile(seconds, q)) for q in PERCENTILES},
        "stages_s": stages,
        "real_time_factor": float(np.median(seconds)) / row.first["audio_s"] / row.size.waveforms,
    }
    if len(first.calls) == len(row.calls) and first is not row:
        ratios = seconds / np.array([call["seconds"] for call in first.calls])
        found["ratio"] = dict(zip(("p10", "p50", "p90"), np.percentile(ratios, (10, 50, 90)).tolist(), strict=True))
    return found


def table(found: dict[str, Any]) -> str:
    """The figures for people."""
    names = [row["name"] for row in found["starts"]]
    width = max(len(name) for name in names) + 2
    lines = [f"{'':{width}}{'ready':>10}{'a sound':>12}{'peak':>11}"]
    for row in found["starts"]:
        peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / GIB:.2f} GiB"
        sound = "-" if row["sound_s"] is None else f"{row['sound_s']:.2f} s"
        lines.append(f"{row['name']:{width}}{row['ready_s']:8.2f} s{sound:>12}{peak:>11}")
    heads = ("first", "p50", "p90", "p99", *STAGES)
    lines += [
        "",
        f"{'':{width}}{'made':>12}" + "".join(f"{head:>9}" for head in heads) + f"{'RTF':>8}  time against {names[0]}",
    ]
    for row in found["calls"]:
        if "failed" in row:
            lines.append(f"{row['name']:{width}}{row['waveforms']:>3} x{'':7} failed: {row['failed']}")
            continue
        made = f"{row['waveforms']} x {row['duration_s']:.2f} s"
        cells = [row["first_s"], row["p50_s"], row["p90_s"], row["p99_s"], *_stages(row).values()]
        ratio = row.get("ratio")
        beside = "" if ratio is None else f"  {ratio['p50']:.2f} ({ratio['p10']:.2f} to {ratio['p90']:.2f})"
        seconds = "".join(f"{cell:9.3f}" for cell in cells)
        lines.append(f"{row['name']:{width}}{made:>12}{seconds}{row['real_time_factor']:8.3f}{beside}")
    return "\n".join(lines)


def _stages(row: dict[str, Any]) -> dict[str, float]:
    """Seconds of what a call consists of; what comes before the first step is text."""
    seconds = row["stages_s"]
    later = {name: seconds.get(name, 0.0) for name in STAGES[1:]}
    text = sum(value for name, value in seconds.items() if name not in (*later, "load"))
    return {STAGES[0]: text, **later}


def plot(found: dict[str, Any], path: Path) -> None:
    """Write a bar of each row's stages to `path` as PNG. Raises MissingDependencyError without matplotlib."""
    from runtime.sound.plot import check_plot

    check_plot()
    from matplotlib.figure import Figure  # not pyplot: no display, and no state that others share

    rows = [row for row in found["calls"] if "failed" not in row]
    figure = Figure(figsize=(9, 1.6 + 0.5 * max(len(rows), 1)), dpi=120, layout="constrained")
    axes = figure.subplots()
    starts = np.zeros(len(rows))
    for stage in STAGES:
        seconds = np.array([_stages(row)[stage] for row in rows])
        axes.barh(range(len(rows)), seconds, left=starts, height=0.7, label=stage)
        starts = starts + seconds
    for i, row in enumerate(rows):
        axes.annotate(f" {row['p50_s']:.2f} s, RTF {row['real_time_factor']:.2f}", (starts[i], i), va="center")
    labels = [f"{row['name']} ({row['label']}), {row['waveforms']} x {row['duration_s']:.2f} s" for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.3)
    axes.set_xlabel("seconds, median of warm calls")
    figure.legend(loc="outside lower center", ncols=len(STAGES))
    figure.savefig(path, format="png")
