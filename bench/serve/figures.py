"""What follows from the answers: percentiles, the table, how ours compares with the rival, and the plot."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.serve.load import Answer

Row = dict[str, Any]
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
COLUMNS = {  # heading: where in a row, factor, format
    "sent": (("requests",), 1, "d"),
    "served": (("served_share",), 1, ".1%"),
    "req/s": (("served_a_second",), 1, ".3f"),
    "audio s/s": (("audio_s_a_second",), 1, ".2f"),
    "p50 s": (("latency_s", "p50"), 1, ".3f"),
    "p90 s": (("latency_s", "p90"), 1, ".3f"),
    "p99 s": (("latency_s", "p99"), 1, ".3f"),
    "byte p50": (("first_byte_s", "p50"), 1, ".3f"),
    "queue p50": (("queue_s", "p50"), 1, ".3f"),
    "queue p99": (("queue_s", "p99"), 1, ".3f"),
    "late ms": (("sent_late_s",), 1000, ".1f"),
    "load ms": (("generator_cpu_s",), 1000, ".2f"),
    "cpu s": (("server_cpu_s",), 1, ".3f"),
    "others": (("others_share",), 1, ".0%"),
}
LEGEND = """\
Latency counts from the planned arrival; a request that brought no sound is infinitely late, and the p99 of fewer than
100 is the longest. late: the most that one was sent after its time; load, cpu: processor time a request of this program
and of the server; others: share of all cores that other work used"""


def percentiles(seconds: Iterable[float]) -> dict[str, float | None] | None:
    """The nearest-rank percentiles, None for one that is infinite; None of nothing at all."""
    ordered = sorted(seconds)
    if not ordered:
        return None
    ranked = {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in SHARES.items()}
    return {name: value if math.isfinite(value) else None for name, value in ranked.items()}


def summary(answers: Sequence[Answer], start_s: float) -> Row:
    """The figures of one point, which began at `start_s`. No answer is left out: see LEGEND."""
    served = [answer for answer in answers if answer.served]
    seconds = max((answer.done_s for answer in answers), default=start_s) - start_s
    return {
        "requests": len(answers),
        "statuses": dict(sorted(Counter(answer.status for answer in answers).items())),
        "served_share": len(served) / len(answers) if answers else None,
        "seconds": seconds,
        "served_a_second": len(served) / seconds if seconds else 0.0,
        "audio_s_a_second": sum(answer.audio_s for answer in served) / seconds if seconds else 0.0,
        "latency_s": percentiles(a.done_s - a.planned_s if a.served else math.inf for a in answers),
        "served_latency_s": percentiles(a.done_s - a.planned_s for a in served),
        "first_byte_s": percentiles(a.first_byte_s - a.planned_s for a in served),
        "queue_s": percentiles(a.queue_s for a in served if a.queue_s is not None),
        "sent_late_s": max((answer.sent_s - answer.planned_s for answer in answers), default=0.0),
    }


def saturation(rows: Sequence[Row]) -> Row | None:
    """The row of the closed loop in which most was served; None if there was none, or nothing was served."""
    closed = [row for row in rows if row["load"] == "closed" and row["served_a_second"]]
    return max(closed, key=lambda row: float(row["served_a_second"]), default=None)


def against(ours: Sequence[Row], theirs: Sequence[Row]) -> Row:
    """Ours as multiples of theirs: throughput at saturation, and the latencies at each rate that both were offered."""
    most, their_most = saturation(ours), saturation(theirs)
    found: Row = {"saturation": most and their_most and most["served_a_second"] / their_most["served_a_second"]}
    other = {row["offered"]: row["latency_s"] or {} for row in theirs if row["load"] == "open"}
    for share in ("p50", "p99"):
        found[share] = {
            f"{row['offered']:g}": row["latency_s"][share] / other[row["offered"]][share]
            for row in ours
            if row["load"] == "open"
            and (row["latency_s"] or {}).get(share)
            and other.get(row["offered"], {}).get(share)
        }
    return found


def table(rows: Sequence[Row]) -> str:
    """The figures as text, a line for each load of each server. Refusals and errors stand at the end of their line."""
    widths = {heading: max(len(heading), 6) + 2 for heading in COLUMNS}
    longest = max(len(row["subject"]) for row in rows)
    lines = [f"{'':{longest}}  {'load':16}" + "".join(f"{heading:>{width}}" for heading, width in widths.items())]
    for row in rows:
        figures = (_figure(row, *column).rjust(widths[heading]) for heading, column in COLUMNS.items())
        others = [f"{count} x {status}" for status, count in row["statuses"].items() if status != "200"]
        lines.append(f"{row['subject']:{longest}}  {load_name(row):16}{''.join(figures)}  {', '.join(others)}".rstrip())
    return "\n".join([*lines, LEGEND])


def load_name(row: Row) -> str:
    """The load of a row, in words."""
    return f"{row['offered']:.3g} req/s" if row["load"] == "open" else f"{row['offered']} back to back"


def _figure(row: Row, keys: tuple[str, ...], factor: float, form: str) -> str:
    value: Any = row
    for key in keys:
        value = None if value is None else value.get(key)
    return "-" if value is None else format(value * factor, form)


def comparison(found: dict[str, Row]) -> str:
    """Ours against the rival, a line for each of ours."""
    lines = []
    for name, row in found.items():
        shares = (f"{share} {', '.join(f'{value:.2f}' for value in row[share].values())}" for share in ("p50", "p99"))
        more = f"{row['saturation']:.2f} times the rival's throughput; " if row["saturation"] else ""
        lines.append(f"{name}: {more}of its latency at the same rates: {'; '.join(shares)}")
    return "\n".join(lines)


def plot_loads(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write latency and throughput against the offered rate, of each server, to `path` as PNG."""
    from matplotlib.figure import Figure  # not pyplot: no display, and no state that others share

    figure = Figure(figsize=(11, 4.8), dpi=120, layout="constrained")
    late, much = figure.subplots(1, 2)
    for number, subject in enumerate(dict.fromkeys(row["subject"] for row in rows)):
        own = [row for row in rows if row["subject"] == subject and row["load"] == "open" and row["latency_s"]]
        rates, color = [row["offered"] for row in own], f"C{number}"
        for share, style in (("p50", "o--"), ("p99", "o-")):
            late.plot(rates, [row["latency_s"][share] for row in own], style, color=color, markersize=4)
        much.plot(rates, [row["served_a_second"] for row in own], "o-", color=color, markersize=4, label=subject)
        most = saturation([row for row in rows if row["subject"] == subject])
        if most:
            much.axhline(most["served_a_second"], color=color, linestyle=":", linewidth=1)
    late.set_title("latency: p50 dashed, p99 solid", loc="left")
    late.set_ylabel("seconds from the planned arrival")
    late.set_yscale("log")
    late.yaxis.set_major_formatter("{x:g}")
    much.set_title("served; dotted: at saturation, closed loop", loc="left")
    much.set_ylabel("requests a second")
    much.set_ylim(bottom=0)
    for axes in (late, much):
        axes.set_xlabel("offered, requests a second")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    figure.suptitle(title, x=0.01, ha="left")
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path, format="png")
