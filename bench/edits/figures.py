"""The figures of the studies as lines, and the picture of the variations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import percent

Row = dict[str, Any]


def line(row: Row) -> str:
    """A row of figures in one line."""
    parts = [f"{row['name']:42}"]
    for key, value in row.items():
        if key == "interval":
            parts[-1] += f" ({percent(value[0])} to {percent(value[1])})"
        elif isinstance(value, dict):
            shares = ", ".join(f"{name} {percent(value[name])}" for name in ("click", "energy", "spectrum"))
            parts.append(f"{key}: {shares}")
        elif isinstance(value, list):
            parts.append(f"{key} " + " ".join(percent(share) for share in value))
        elif key in ("rate", "old", "second"):
            parts.append(f"{key} {percent(value)}")
        elif key not in ("name", "strength", "share", "naive"):
            parts.append(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(parts)


def plot_variations(rows: Sequence[Row], path: Path) -> None:
    """What is heard at every strength, and how like the sound it is; mixtures, the naive way, as points."""
    from matplotlib.figure import Figure

    curve, mixed = ([row for row in rows if row["naive"] is naive] for naive in (False, True))
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    strengths = [row["strength"] for row in curve]
    for key, label, colour in (
        ("rate", "heard as the prompt", "tab:blue"),
        ("old", "heard as the sound", "tab:orange"),
    ):
        left.plot(strengths, [100 * row[key] for row in curve], "o-", color=colour, label=label)
    low, high = zip(*(row["interval"] for row in curve), strict=True)
    left.fill_between(strengths, [100 * x for x in low], [100 * x for x in high], color="tab:blue", alpha=0.15)
    left.set(xlabel="strength", ylabel="of the sounds, %", ylim=(-3, 103), title="What is heard")
    left.legend(loc=(0.52, 0.4), frameon=False)
    for some, label, colour, style in (
        (curve, "from the sound", "tab:blue", "o-"),
        (mixed, "mixed", "tab:gray", "x--"),
    ):
        right.plot(
            [row["likeness"] for row in some], [100 * row["rate"] for row in some], style, color=colour, label=label
        )
    right.set(xlabel="likeness to the sound (log-mel correlation)", ylabel="heard as the prompt, %", ylim=(-3, 103))
    right.set_title("Either has its price")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=110)
