"""Servers take turns: each load is put on one after the other, so that a machine that drifts is fair to all.

All are started first and idle while another is measured. Every load is the same for all of them: the same requests, at
the same times where the loop is open.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.processes import ProcessError
from bench.serve.figures import Row, against, comparison, load_name, plot_loads, saturation, summary, table
from bench.serve.load import Client, clock, closed_loop, open_loop
from bench.serve.overhead import line, overhead
from bench.serve.plan import Shape, open_plan, request, requests
from bench.serve.subjects import RIVAL, Subject, chosen
from bench.serve.usage import Usage
from runtime.errors import InputError

SHARES = (0.25, 0.5, 0.75, 0.9)  # of the first server's saturation: the rates that are offered
SETTLE_S = 0.5  # idle threads of whoever ran before spin for up to 0.2 s


def run(options: argparse.Namespace) -> Row:
    """Measure every server. The result's `failed` is true when one that is not the rival could not be measured."""
    subjects = chosen(options)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        failed: dict[str, str] = {}
        for number, subject in enumerate(subjects):
            stack.callback(subject.stop)
            try:
                ready(subject, options.mix, Path(folder, f"{number}.log"))
            except ProcessError as error:
                failed[subject.name] = str(error)
                print(f"{subject.name}: {error}", flush=True)
        alive = [subject for subject in subjects if subject.name not in failed]
        if not alive:
            raise InputError(f"no server could be measured: {next(iter(failed.values()))}")
        if options.overhead:
            compared = overhead(alive[0], options.engines, options.mix[0], options.seconds, Path(folder))
            print(line(compared))
            found: Row = {"overhead": compared}
        else:
            found = contest(alive, options)
    settings = {key: getattr(options, key) for key in ("seconds", "seed", "serve_flags", "url")}
    settings["mix"] = [f"{shape}:{shape.weight:g}" for shape in options.mix]
    return {"settings": settings, **found, "not_measured": failed, "failed": bool(failed.keys() - {RIVAL})}


def ready(subject: Subject, mix: Sequence[Shape], log: Path) -> None:
    """Start a server and have it make each shape in every size of batch. Raises ProcessError where it cannot."""
    start = clock()
    if subject.command:
        subject.start(log)

    async def warm_up() -> set[str]:
        async with Client(subject.url, subject.key) as client:
            answers = [
                answer
                for shape in mix
                for size in range(
                    1, subject.batch + 2
                )  # the first of them starts alone, the others wait and are joined
                for answer in await asyncio.gather(*(client.ask(request(shape, i)) for i in range(size)))
            ]
        return {answer.status for answer in answers}

    statuses = asyncio.run(warm_up())
    if "200" not in statuses:
        raise ProcessError(f"{subject.url} answered {', '.join(sorted(statuses))} to every request of the warm-up")
    print(f"{subject.name}: warm after {clock() - start:.1f} s", flush=True)


def contest(subjects: list[Subject], options: argparse.Namespace) -> Row:
    """Closed loops, then open ones: a row for each load of each server, and how ours compare with the rival."""
    rows: list[Row] = []
    for number, clients in enumerate(options.clients):
        rows += _turn(subjects, "closed", clients, number, options)
    most = saturation([row for row in rows if row["subject"] == subjects[0].name])
    rates = options.rates or [share * most["served_a_second"] for share in SHARES if most]
    for number, rate in enumerate(rates, len(options.clients)):
        rows += _turn(subjects, "open", rate, number, options)
    print(table(rows))
    by_name = {subject.name: [row for row in rows if row["subject"] == subject.name] for subject in subjects}
    theirs = by_name.pop(RIVAL, None)
    compared = {name: against(own, theirs) for name, own in by_name.items()} if theirs else {}
    if compared:
        print(comparison(compared))
    if options.plot:
        plot_loads(rows, options.plot, f"{', '.join(map(str, options.mix))} (seconds x steps)")
    return {"rows": rows, "against_rival": compared}


def _turn(subjects: list[Subject], kind: str, offered: float, number: int, options: argparse.Namespace) -> list[Row]:
    """Put one load on each server."""
    rows = []
    for subject in subjects:
        time.sleep(SETTLE_S)
        row: Row = {"subject": subject.name, "load": kind, "offered": offered}
        row.update(asyncio.run(_measure(subject, row, options, (options.seed, number))))
        rows.append(row)
        p99 = (row["latency_s"] or {}).get("p99")
        late = "-" if p99 is None else f"{p99:.2f} s"
        print(f"{subject.name}, {load_name(row)}: {row['served_a_second']:.2f} req/s, p99 {late}", flush=True)
    return rows


async def _measure(subject: Subject, row: Row, options: argparse.Namespace, seed: tuple[int, int]) -> Row:
    """One load on one server, after a request of each shape that does not count."""
    async with Client(subject.url, subject.key) as client:
        for shape in options.mix:
            await client.ask(request(shape, 0))
        usage, start = Usage(subject), clock()
        if row["load"] == "open":
            answers = await open_loop(client, open_plan(options.mix, row["offered"], options.seconds, seed))
        else:
            answers = await closed_loop(client, requests(options.mix, seed), row["offered"], options.seconds)
        found = summary(answers, start)
        return {**found, **usage.since(found["seconds"], len(answers))}
