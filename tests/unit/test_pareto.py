from pathlib import Path
from typing import Any

import pytest

from bench import pareto

ROWS: list[dict[str, Any]] = [
    {"name": f"{contender}: {label}", "contender": contender, "median_s": seconds, "rate": rate, "interval": interval}
    for contender, label, seconds, rate, interval in [
        ("plain", "20", 0.4, 0.9, (0.87, 0.92)),
        ("plain", "5", 0.1, 0.9, (0.87, 0.92)),
        ("plain", "2", 0.06, 0.5, (0.45, 0.55)),
        ("student", "4", 0.05, 0.84, (0.81, 0.87)),
    ]
]


@pytest.mark.parametrize(
    ("one", "other", "expected"), [(1, 0, True), (0, 1, False), (3, 2, True), (1, 3, False), (0, 0, False)]
)
def test_who_is_off_the_frontier(one: int, other: int, expected: bool) -> None:
    assert pareto.beats(ROWS[one], ROWS[other]) is expected


def test_the_picture_and_the_lines(tmp_path: Path) -> None:
    rows = [{**row, "on_frontier": not any(pareto.beats(other, row) for other in ROWS)} for row in ROWS]
    assert [pareto.line(row)[0] for row in rows] == [" ", "*", " ", "*"]
    pareto.plot(rows, 2.56, tmp_path / "new" / "pareto.png")
    assert (tmp_path / "new" / "pareto.png").read_bytes().startswith(b"\x89PNG")
