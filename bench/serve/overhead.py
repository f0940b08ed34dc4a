"""What a request costs beside the call that it makes: a bare call and a request take turns, A B B A.

`python -m bench.serve.overhead CASE` is the bare pipeline in a process of its own, opened with the server's own flags.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from bench.processes import ProcessError, Worker, answer_requests
from bench.serve.figures import percentiles
from bench.serve.load import Client, clock
from bench.serve.plan import Body, Shape, request
from bench.serve.subjects import Subject

SETTLE_S = 0.3  # idle threads of whoever ran before spin for up to 0.2 s
WARMUP, LEAST = 2, 4  # pairs


def overhead(subject: Subject, engines: Path, shape: Shape, seconds: float, work: Path) -> dict[str, Any]:
    """Compare requests to a server with calls of its pipeline, for so long. Raises ProcessError."""
    worker = Worker("bench.serve.overhead", {"engines": str(engines), "flags": subject.flags}, work / "bare.log")
    with closing(worker):
        pairs = asyncio.run(_pairs(subject, worker, shape, seconds))
    bare, served = ([pair[side] for pair in pairs] for side in (0, 1))
    return {
        "shape": str(shape),
        "pairs": len(pairs),
        "bare_s": percentiles(bare),
        "served_s": percentiles(served),
        "difference_s": statistics.median(theirs - own for own, theirs in pairs),
    }


def line(found: dict[str, Any]) -> str:
    """The figures as text."""
    seconds = (found["bare_s"]["p50"], found["served_s"]["p50"], found["difference_s"])
    bare, served, more = (1000 * value for value in seconds)
    return (
        f"{found['shape']}, {found['pairs']} pairs: bare call p50 {bare:.1f} ms, request p50 {served:.1f} ms; "
        f"median of the pairs' differences {more:.1f} ms"
    )


async def _pairs(subject: Subject, worker: Worker, shape: Shape, seconds: float) -> list[tuple[float, float]]:
    """The seconds of a bare call and of a request for the same, in pairs, after the warm-up."""
    pairs: list[tuple[float, float]] = []
    async with Client(subject.url, subject.key) as client:

        async def bare(body: Body) -> float:
            await asyncio.sleep(SETTLE_S)
            return float((await asyncio.to_thread(worker.ask, **body))["seconds"])

        async def served(body: Body) -> float:
            await asyncio.sleep(SETTLE_S)
            answer = await client.ask(body)
            if not answer.served:
                raise ProcessError(f"a request was answered by {answer.status}")
            return answer.done_s - answer.sent_s

        end = clock() + seconds
        while len(pairs) < WARMUP + LEAST or clock() < end:
            body = request(shape, len(pairs), seed=len(pairs))
            if len(pairs) % 2:
                theirs, own = await served(body), await bare(body)
            else:
                own, theirs = await bare(body), await served(body)
            pairs.append((own, theirs))
    return pairs[WARMUP:]


def serve(case: dict[str, Any], requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Open the pipeline and call it for each request. It answers with the seconds of the call alone."""
    from runtime.bundle import Bundle, preferred_backend
    from runtime.options import add_machine, pipeline_options
    from runtime.pipeline import AudioLDM2Pipeline

    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_machine(parser.add_argument)
    options = parser.parse_known_args(case["flags"])[0]  # the others are the server's alone
    bundle = Bundle.read(case["engines"])
    backend = options.backend or preferred_backend(bundle, os.environ)
    pipeline = AudioLDM2Pipeline(bundle, backend=backend, **pipeline_options(options))
    for body in requests:
        start = time.perf_counter()
        pipeline(body.pop("input"), audio_length_in_s=body.pop("audio_length"), **body)
        yield {"seconds": time.perf_counter() - start}


if __name__ == "__main__":
    sys.exit(answer_requests(partial(serve, json.loads(sys.argv[1]))))
