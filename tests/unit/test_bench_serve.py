"""The parts of `python -m bench serve` that need no model: the plan, the load on a stand-in, the figures."""

import argparse
import asyncio
import io
import itertools
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from aiohttp import web

from bench.processes import ProcessError
from bench.serve import check
from bench.serve.figures import Row, against, comparison, load_name, percentiles, plot_loads, saturation, summary, table
from bench.serve.load import Answer, Client, closed_loop, open_loop, queue_seconds, wav_seconds
from bench.serve.plan import ENDPOINT, Planned, Shape, arrivals, mix, open_plan, requests
from bench.serve.subjects import Subject, ours
from bench.serve.usage import Usage
from runtime.errors import MissingDependencyError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def sound(seconds: float = 0.5) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(round(16_000 * seconds), np.float32), 16_000, "PCM_16", format="WAV")
    return buffer.getvalue()


SOUND = sound()


def loaded(handler: Handler, load: Callable[[Client], Awaitable[list[Answer]]]) -> list[Answer]:
    """What a load finds of a server in this process that answers by `handler`."""

    async def run() -> list[Answer]:
        application = web.Application()
        application.router.add_post(ENDPOINT, handler)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with Client(f"http://127.0.0.1:{runner.addresses[0][1]}/", "a key") as client:
                return await load(client)
        finally:
            await runner.cleanup()

    return asyncio.run(run())


def test_arrivals_are_poisson_and_repeat() -> None:
    seed = int(np.random.default_rng().integers(2**31))
    found = list(arrivals(50, 200, (seed, 1)))
    gaps = np.diff(found)
    assert found == list(arrivals(50, 200, (seed, 1))) != list(arrivals(50, 200, (seed, 2)))
    assert 0 < found[0] < found[-1] < 200
    assert len(found) == pytest.approx(10_000, abs=500)  # five deviations
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.07)  # exponential; of a regular plan it is 0
    assert np.exp(-gaps / gaps.mean()).mean() == pytest.approx(0.5, abs=0.02)  # uniform if they are exponential
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.06  # none knows of the one before
    counts = np.histogram(found, 200, (0, 200))[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.5)


def test_requests_repeat_have_the_shapes_shares_and_are_never_the_same() -> None:
    shapes = mix("2.5x20:3,5x10:1")
    assert shapes == [Shape(2.5, 20, 3.0), Shape(5.0, 10, 1.0)]
    found, again, other = (list(itertools.islice(requests(shapes, seed), 700)) for seed in ((7, 0), (7, 0), (7, 1)))
    assert found == again != other
    counts = Counter((body["audio_length"], body["num_inference_steps"]) for body in found)
    assert counts.keys() == {(2.5, 20), (5.0, 10)}
    assert counts[2.5, 20] == pytest.approx(525, abs=60)
    assert len({body["input"] for body in found}) == len(found)  # the service keeps what it made of a prompt
    assert len({body["seed"] for body in found}) > 690
    plan = open_plan(shapes, 5, 20, (7, 0))
    assert [planned.body for planned in plan] == found[: len(plan)]
    assert [planned.at_s for planned in plan] == list(arrivals(5, 20, (7, 0)))


@pytest.mark.parametrize("text", ["", "2.5", "2.5x", "2.5x20:0", "-1x20", "2x0", "2x1.5", "nanx3", "2x3:inf", "2x3,"])
def test_a_wrong_mix(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="SECONDSxSTEPS"):
        mix(text)


def test_percentiles_are_nearest_rank_and_no_answer_is_infinitely_late() -> None:
    values = list(np.random.default_rng().permutation(np.arange(1.0, 101.0)))
    assert percentiles(values) == {"p50": 50, "p90": 90, "p99": 99}
    assert percentiles([3.0, 1.0, 2.0]) == {"p50": 2, "p90": 3, "p99": 3}
    assert percentiles([*values[:-2], math.inf, math.inf])["p99"] is None  # type: ignore[index]
    assert percentiles([]) is None


def test_open_loop_does_not_wait_and_counts_from_the_planned_arrival() -> None:
    """A server that makes one sound at a time falls behind; what waits there for others is late by all of that."""
    lock, call_s, gap_s = asyncio.Lock(), 0.1, 0.03

    async def one_at_a_time(_: web.Request) -> web.Response:
        async with lock:
            await asyncio.sleep(call_s)
        return web.Response(body=SOUND)

    plan = [Planned(i * gap_s, {}) for i in range(8)]
    start = time.perf_counter()
    answers = loaded(one_at_a_time, lambda client: open_loop(client, plan))
    assert all(answer.sent_s - answer.planned_s < 0.06 for answer in answers)
    late = [answer.done_s - answer.planned_s for answer in answers]
    assert late == pytest.approx([(i + 1) * call_s - i * gap_s for i in range(8)], abs=0.09)
    row = summary(answers, start)
    assert row["latency_s"]["p99"] == late[-1]
    assert row["served_a_second"] == pytest.approx(8 / row["seconds"])


def test_a_request_that_was_sent_late_is_late_from_its_planned_arrival() -> None:
    answer = Answer("200", planned_s=1.0, sent_s=3.0, first_byte_s=3.5, done_s=4.0, queue_s=0.25, audio_s=2.0)
    row = summary([answer], start_s=0.0)
    assert row["latency_s"]["p50"] == row["served_latency_s"]["p50"] == 3.0
    assert (row["first_byte_s"]["p50"], row["sent_late_s"], row["queue_s"]["p50"]) == (2.5, 2.0, 0.25)
    assert (row["served_a_second"], row["audio_s_a_second"]) == (0.25, 0.5)


def test_every_answer_is_counted_by_its_status() -> None:
    turn = itertools.count()

    async def moody(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer a key"
        assert (await request.json())["number"] >= 0
        match next(turn):
            case 0 | 1:
                return web.Response(body=SOUND, headers={"Server-Timing": "queue;dur=20.5, denoise;dur=3"})
            case 2 | 3 | 4:
                return web.Response(status=429)
            case 5:
                return web.Response(status=500)
            case 6:
                return web.Response(text="sorry")  # 200 and no sound
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    plan = [Planned(0.02 * i, {"number": i}) for i in range(8)]
    row = summary(loaded(moody, lambda client: open_loop(client, plan)), time.perf_counter())
    assert row["statuses"] == {"200": 2, "429": 3, "500": 1, "ServerDisconnectedError": 1, "no sound": 1}
    assert (row["requests"], row["served_share"]) == (8, 0.25)
    assert row["latency_s"] == {"p50": None, "p90": None, "p99": None}  # most never came
    assert 0 < row["served_latency_s"]["p99"] < 1
    assert row["queue_s"]["p50"] == pytest.approx(0.0205)


def test_a_closed_loop_has_so_many_requests_at_a_time_and_pauses_when_refused() -> None:
    now, most = 0, 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        return web.Response(status=429 if (await request.json())["refuse"] else 200, body=SOUND)

    def load(refuse: bool) -> list[Answer]:
        bodies: Iterator[dict[str, Any]] = itertools.repeat({"refuse": refuse})
        return loaded(handler, lambda client: closed_loop(client, bodies, 3, 0.6))

    served, refused = load(False), load(True)
    assert most == 3
    assert all(answer.served and answer.audio_s == pytest.approx(0.5) for answer in served)
    assert len(served) >= 15  # 90 where nothing else runs
    assert 3 <= len(refused) <= 18


def test_what_an_answer_says() -> None:
    assert queue_seconds("load;dur=1, queue;dur=12.5") == 0.0125
    assert queue_seconds("") is None
    assert wav_seconds(sound(1.25)) == 1.25
    assert wav_seconds(b"") == wav_seconds(b"{}" * 40) == 0.0


def row(subject: str, load: str, offered: float, served: float, p99: float | None) -> Row:
    latency = {"p50": 0.5, "p90": 0.5, "p99": p99}
    statuses = {"200": 9} if p99 else {"200": 9, "429": 1}
    counts = {"requests": sum(statuses.values()), "statuses": statuses, "served_share": 0.9, "sent_late_s": 0.001}
    rates = {"served_a_second": served, "audio_s_a_second": 2 * served}
    times = {"latency_s": latency, "first_byte_s": latency, "queue_s": None}
    return {"subject": subject, "load": load, "offered": offered, **counts, **rates, **times}


def test_ours_against_the_rival_and_the_table(tmp_path: Path) -> None:
    ours_ = [row("ours", "closed", 1, 4.0, 1.0), row("ours", "closed", 4, 6.0, 1.0)]
    ours_ += [row("ours", "open", 1.0, 1.0, 0.5), row("ours", "open", 2.0, 2.0, None)]
    theirs = [row("rival", "closed", 1, 2.0, 1.0), row("rival", "open", 1.0, 1.0, 2.0), row("rival", "open", 2.0, 1, 9)]
    assert saturation(ours_) is ours_[1]
    assert saturation(theirs[1:]) is None
    found = against(ours_, theirs)
    assert found == {"saturation": 3.0, "p50": {"1": 1.0, "2": 1.0}, "p99": {"1": 0.25}}
    assert "ours: 3.00 times" in comparison({"ours": found})
    lines = table(ours_ + theirs).splitlines()
    assert lines[1].startswith("ours   1 back to back")
    assert lines[4].endswith("1 x 429")
    assert load_name(theirs[1]) in lines[6]
    plot_loads(ours_ + theirs, tmp_path / "loads.png", "a title")
    assert (tmp_path / "loads.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_missing_is_one_line_that_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(check, "find_spec", lambda name: None if name == "aiohttp" else object())
    options = argparse.Namespace(
        url="http://127.0.0.1", engines=None, checkpoint=None, serve_flags=[], overhead=False, without=[], plot=None
    )
    with pytest.raises(MissingDependencyError, match=r"^aiohttp not installed: pip install .*\[bench\]"):
        check.check(options)


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    subject = ours(tmp_path / "nowhere", ["--max-batch", "3"])
    assert (subject.name, subject.batch) == ("ours --max-batch 3", 3)
    with pytest.raises(ProcessError, match=r"ours --max-batch 3 did not start: .*nowhere"):
        subject.start(tmp_path / "log")
    assert ours(tmp_path, ["--max-batch", "x"]).batch == 1
    Subject("a stranger").stop()


def test_a_server_is_all_of_its_processes() -> None:
    """Its pipeline may run in a process that it started, from whatever thread."""
    work = "import time\nwhile time.process_time() < 0.4: pass\nprint(1, flush=True); input()"
    code = f"import subprocess, sys, threading; run = lambda: subprocess.run([sys.executable, '-c', {work!r}]); "
    code += "thread = threading.Thread(target=run); thread.start(); thread.join()"
    pipe = subprocess.PIPE
    subject = Subject(
        "parent", process=subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
    )
    try:
        usage = Usage(subject)
        assert subject.process is not None
        assert subject.process.stdout is not None
        subject.process.stdout.readline()
        found = usage.since(1.0, 2)
        assert found["server_cpu_s"] is not None
        assert 0.15 < found["server_cpu_s"] < 1.0
    finally:
        subject.stop()
