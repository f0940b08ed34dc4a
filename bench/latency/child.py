"""`python -m bench.latency.child CASE`: one contender in a process of its own, for `bench.processes.Worker`.

It answers when its modules are imported, again when it is open, and then makes a call for each request. A request has
`steps`, `batch` and `save`: a file for the waveforms, or null.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.latency.pipelines import StagedPipeline, import_for, open_pipeline
from bench.processes import answer_requests, status_gib
from bench.rivals import prompts
from runtime.sound.files import write_audio


def serve(case: dict[str, Any], requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Open the pipeline of a case, and yield an answer to each request."""
    import_for(case)
    yield {}
    pipeline, given = open_pipeline(case), 0
    yield {"precision": pipeline.precision}
    for request in requests:
        rows = range(given, given + request["batch"])
        given = rows.stop  # no prompt comes twice: ours keeps the conditioning of those it has seen
        found = call(pipeline, [prompts(row, 1)[0] for row in rows], case["latents"], request)
        if case["device"] != "cpu":  # a GPU works later than the callback says
            found["steps_s"] = [found["stages"]["denoise"] / request["steps"]]
        yield found


def call(
    pipeline: StagedPipeline, texts: list[str], latent_shape: list[int] | None, request: dict[str, Any]
) -> dict[str, Any]:
    """Make one call and write its files: the seconds of its stages and steps, and the process's peak memory."""
    latents = None
    if latent_shape is not None:  # the same in every call and contender
        latents = np.random.default_rng(0).standard_normal((len(texts), *latent_shape), np.float32)
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        audios, stages = pipeline.render(texts, latents, request["steps"], lambda *_: ends.append(time.perf_counter()))
        rendered = time.perf_counter()
        for i, audio in enumerate(audios):
            write_audio(Path(folder, f"{i}.wav"), audio, pipeline.sample_rate_hz)
        total = time.perf_counter() - start
    stages["write"] = total - (rendered - start)
    if request["save"]:
        np.save(request["save"], audios)
    return {
        "total_s": total,
        "stages": {**stages, "other": total - sum(stages.values())},
        "steps_s": np.diff(ends).tolist(),  # of all but the first, which has no beginning
        "audio_s": audios.shape[1] / pipeline.sample_rate_hz,
        "peak_gib": status_gib("VmHWM"),
    }


if __name__ == "__main__":
    sys.exit(answer_requests(partial(serve, json.loads(sys.argv[1]))))
