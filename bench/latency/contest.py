"""The contenders take turns, A B C A B C: so a machine that drifts is fair to all, and only one of them computes.

Where memory is too short for all of them they take turns in groups. The matrix product that is the ceiling has its turn
in every round. A cold call is timed from the start of a process to its first waveform on disk. All that it needs was
built or converted before and is in the system's cache; torch.compile alone starts with nothing compiled. Peak memory is
the host's, mapped weights included; `python -m bench gpu` has the GPU's.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from bench.latency.figures import add_figures, plot_stages, table
from bench.latency.plan import EXACT, OURS, Plan, check, has_base_size, prepare
from bench.processes import ProcessError, Worker
from bench.report import spread
from bench.rivals import compare, weight_bytes
from runtime.backends.host_memory import free_memory_bytes

CEILING = "ceiling"
LONGEST_PRODUCT_S = 2.0  # of matrices, for the ceiling
SETTLE_S = 0.5  # idle threads of whoever ran before spin for up to 0.2 s
WARMUP = 1  # rounds, after the cold call
STARTS, START_STEPS = 3, 20
NEED = 1.5  # memory to open a contender, in sizes of the checkpoint: an estimate from above
QUICK = {"steps": 5, "runs": 2}
Row = dict[str, Any]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every contender. The result's `failed` is true when one of ours could not run."""
    names = check(options)
    if options.quick:
        vars(options).update(QUICK)
    with tempfile.TemporaryDirectory() as folder:
        plan = prepare(options, names, Path(folder))
        starts = small_starts(plan, 1 if options.quick else STARTS)
        rows, ceilings = contest(plan, options)
        add_accuracy(rows, plan)
        add_figures(rows, ceilings, starts, has_flop=has_base_size(plan.checkpoint))
    print(table(rows, ceilings))
    if options.plot:
        plot_stages(rows, options.plot)
    settings = {key: getattr(options, key) for key in ("steps", "runs", "batch", "quick")}
    failed = any("failed" in row for row in rows if row["name"] in OURS)
    prepared = {
        "device": plan.device,
        "checkpoint": options.checkpoint.name if options.checkpoint else "random",
        "prepared_s": plan.prepared_s,
    }
    return {"settings": settings, **prepared, "ceilings": ceilings, "cases": rows, "failed": failed}


class Entry:
    """A contender's process and its row of results."""

    def __init__(self, name: str, plan: Plan, case: Mapping[str, Any]) -> None:
        self.row: Row = {"name": name, "batch": 1, "guided": case.get("guided", True)}
        self._steps: int | None = case.get("steps")
        self._started = time.perf_counter()
        self._worker = Worker("bench.latency.child", case, plan.work / f"{name}.log")
        self.close = self._worker.close

    def start(self, steps: int, save: Path | None) -> None:
        """Make the cold call, and keep its seconds from the start of the process. Raises ProcessError."""
        self._worker.answer()
        imported = time.perf_counter()
        self.row.update(self._worker.answer())
        opened = time.perf_counter()
        self.call(steps, save=save)
        called = time.perf_counter()
        self.row["cold"] = {
            "start_s": called - self._started,
            "import_s": imported - self._started,
            "open_s": opened - imported,
            "first_call_s": called - opened,
        }

    def call(self, steps: int, batch: int = 1, save: Path | None = None) -> Row:
        """Make one call, in `steps` steps unless this contender has a number of its own. Raises ProcessError."""
        steps = self.row["steps"] = self._steps or steps
        return self._worker.ask(steps=steps, batch=batch, save=save and str(save))


def small_starts(plan: Plan, count: int) -> dict[str, float]:
    """Median seconds from the start of a process to its first waveform, for each of ours over the small bundle."""
    names = [name for name in plan.ours if name not in plan.failed and not OURS[name].bundle]
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(count):
        for name in names:
            with closing(Entry(name, plan, plan.start_case(name))) as entry:
                try:
                    entry.start(START_STEPS, None)
                except ProcessError as error:
                    print(f"{name} with the small bundle: {error}", flush=True)
                    continue
            found[name].append(entry.row["cold"]["start_s"])
    return {name: statistics.median(seconds) for name, seconds in found.items() if seconds}


def contest(plan: Plan, options: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """Measure all contenders: a row for each of them and each size of batch, and the ceiling of each group."""
    rows: list[Row] = [{"name": name, "batch": 1, "failed": error} for name, error in plan.failed.items()]
    pending = [name for name in plan.names if name not in plan.failed]
    ceilings: list[Row] = []
    needed = NEED * weight_bytes(plan.checkpoint)
    while pending:
        with ExitStack() as stack:
            case = {"device": plan.device, "precisions": ["fp32", plan.half, "int8"], "longest_s": LONGEST_PRODUCT_S}
            ceiling = Worker("bench.latency.ceiling", case, plan.work / "ceiling.log")
            stack.callback(ceiling.close)
            group: list[Entry] = []
            while pending and (not group or (free_memory_bytes() or needed) >= needed):
                entry = Entry(name := pending.pop(0), plan, plan.case(name))
                stack.callback(entry.close)
                entry.row.update(group=len(ceilings))
                group.append(entry)
                _cold(entry, options.steps, plan.work / f"{name}.npy")
            ceilings.append(_measure(group, ceiling, options))
            rows += [entry.row for entry in group]
            for entry in (entry for entry in group if entry.row["name"] not in OURS):
                entry.close()  # batches need memory
            rows += _batches([entry for entry in group if entry.row["name"] in OURS], options)
    return rows, ceilings


def _cold(entry: Entry, steps: int, save: Path) -> None:
    try:
        entry.start(steps, save)
        print(f"{entry.row['name']}: first waveform after {entry.row['cold']['start_s']:.1f} s", flush=True)
    except ProcessError as error:
        entry.row["failed"] = str(error)
        entry.close()


def _measure(group: list[Entry], ceiling: Worker, options: argparse.Namespace) -> Row:
    """Time warm calls of one prompt and add what they find to each row. Returns the ceiling of the group."""
    alive = [entry for entry in group if "failed" not in entry.row]
    calls = {entry.row["name"]: partial(entry.call, options.steps) for entry in alive}
    found = take_turns({CEILING: ceiling.ask, **calls}, options.runs)
    for entry in alive:
        entry.row.update(summary(found[entry.row["name"]]))
        print(f"{entry.row['name']}: {entry.row.get('failed') or '{median_s:.2f} s'.format(**entry.row)}", flush=True)
    return summary_of_ceiling(found[CEILING])


def _batches(entries: list[Entry], options: argparse.Namespace) -> list[Row]:
    """Time batches of several prompts, in turns with one prompt, which they are compared with: a row for each."""
    rows = []
    for batch in (batch for batch in options.batch if batch > 1):
        alive = [entry for entry in entries if "failed" not in entry.row]
        calls = {
            f"{entry.row['name']} {size}": partial(entry.call, options.steps, size)
            for entry in alive
            for size in (1, batch)
        }
        found = take_turns(calls, options.runs)
        for entry in alive:
            one, many = (summary(found[f"{entry.row['name']} {size}"]) for size in (1, batch))
            known = {key: entry.row[key] for key in ("name", "group", "steps", "guided", "precision")}
            rows.append({**known, "batch": batch, **many, "one_prompt_median_s": one.get("median_s")})
    return rows


def take_turns(calls: Mapping[str, Callable[[], Row]], runs: int, settle_s: float = SETTLE_S) -> dict[str, list[Row]]:
    """Call each in turn: what it finds in `runs` rounds after the warm-up.

    A call that fails has its error as its last answer, and gets no more turns.
    """
    found: dict[str, list[Row]] = {name: [] for name in calls}
    for round_ in range(WARMUP + runs):
        for name, call in calls.items():
            if any("failed" in other for other in found[name]):
                continue
            time.sleep(settle_s)
            try:
                answer = call()
            except ProcessError as error:
                found[name].append({"failed": str(error)})
                continue
            if round_ >= WARMUP:
                found[name].append(answer)
    return found


def summary(answers: Sequence[Row]) -> Row:
    """The medians of a contender's calls, or the error of the call that failed."""
    for answer in answers:
        if "failed" in answer:
            return answer
    stages = {stage: statistics.median(a["stages"][stage] for a in answers) for stage in answers[0]["stages"]}
    steps = [seconds for answer in answers for seconds in answer["steps_s"]]
    return {
        **spread([answer["total_s"] for answer in answers]),
        "totals_s": [answer["total_s"] for answer in answers],
        "stages": stages,
        "step": spread(steps) if steps else None,
        "audio_s": answers[0]["audio_s"],
        "peak_gib": answers[-1]["peak_gib"],
    }


def summary_of_ceiling(answers: Sequence[Row]) -> Row:
    """Median operations a second by precision, and those of each round, which show how far the machine drifted."""
    good = [answer for answer in answers if "failed" not in answer]
    if not good:
        return {"flops": {}, "unavailable": {CEILING: answers[-1]["failed"]}}
    rounds = {name: [answer["flops"][name] for answer in good] for name in good[0]["flops"]}
    flops = {name: statistics.median(values) for name, values in rounds.items()}
    return {"flops": flops, "rounds": rounds, "unavailable": good[0]["unavailable"]}


def add_accuracy(rows: list[Row], plan: Plan) -> None:
    """Add to each row how far its waveform is from the exact one, made from the same prompt and latents."""
    exact = plan.work / f"{EXACT}.npy"
    for row in rows:
        actual = plan.work / f"{row['name']}.npy"
        if row["batch"] == 1 and row["name"] != EXACT and actual.exists() and exact.exists():
            row["accuracy"] = compare(actual, exact)
