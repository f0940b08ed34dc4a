"""Measure each contender in a process of its own, then print what was found. A call makes 10.24 s of audio."""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.gpu.child import COMPILE_MODE, COMPILED, EAGER, EXACT, OURS, RATE, RIVALS
from bench.gpu.figures import add_figures, compare, table
from bench.processes import in_a_process, run_python
from bench.report import gpu
from bench.rivals import random_checkpoint
from runtime.errors import InputError

CHILD = "bench.gpu.child"


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every contender. The result's `failed` is true when ours could not run in some case.

    Raises InputError where there is no GPU.
    """
    if gpu() is None:
        raise InputError("no NVIDIA GPU was found here: this benchmark needs one and its driver")
    names = [name for name in (OURS, *RIVALS) if name not in options.without]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        checkpoint = options.checkpoint or random_checkpoint(work / "checkpoint")
        engines, build = _engines(options, checkpoint, work / "engines")
        common = {"checkpoint": str(checkpoint), "engines": str(engines)}
        rate = in_a_process(CHILD, {"name": RATE}, work)

        def measure(name: str, **case: Any) -> dict[str, Any]:
            if name == OURS and "failed" in build:
                return build
            return in_a_process(CHILD, {**common, "name": name, **case}, work)

        rows = []
        for name, batch in ((name, batch) for name in names if name != EXACT for batch in options.batch):
            found = measure(name, batch=batch, steps=options.steps, runs=options.runs)
            measured = found.get("rows") or [{"steps": steps, "failed": found["failed"]} for steps in options.steps]
            rows += [{"name": name, "batch": batch, **row} for row in measured]
        waveforms = {name: measure(name, waveform=str(work / f"{name}.npy")) for name in names if name != COMPILED}
        accuracy = {name: compare(waveforms, name) for name in (OURS, EAGER) if name in names}
    for row in rows:
        add_figures(row, rows, rate.get("flops"))
    print(table(rows, rate, accuracy))
    settings = {"runs": options.runs, "without": options.without, "compile_mode": COMPILE_MODE}
    result = {"settings": settings, "build": build, "rate": rate, "cases": rows}
    ours = [waveforms[OURS], *(row for row in rows if row["name"] == OURS)]
    return {**result, "accuracy": accuracy, "failed": any("failed" in found for found in ours)}


def _engines(options: argparse.Namespace, checkpoint: Path, out: Path) -> tuple[Path, dict[str, Any]]:
    """The bundle to measure, and how it was come by: given, or built in so many seconds, or why it was not built."""
    if options.engines:
        return options.engines, {"given": str(options.engines)}
    flags = ["--backend", options.backend, "--precision", options.precision]
    start = time.perf_counter()
    failed = run_python("-m", "export", "build", "--checkpoint", str(checkpoint), "--out", str(out), *flags)
    found = {"failed": f"build: {failed}"} if failed else {"seconds": time.perf_counter() - start}
    return out, {"backend": options.backend, "precision": options.precision, **found}
