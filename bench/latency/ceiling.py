"""`python -m bench.latency.ceiling CASE`: what the machine can multiply, once for each request."""

import json
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from bench.latency.contenders import TORCH_NAMES
from bench.processes import answer_requests, one_line
from bench.rivals import matmul_flops

SIZES = {"cpu": 3072, "cuda": 8192}


def serve(case: dict[str, Any], requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Operations a second by precision; one that cannot be had here is named with its error."""
    device = case["device"]
    for _ in requests:
        flops, failed = {}, {}
        for precision in case["precisions"]:
            try:
                flops[precision] = matmul_flops(TORCH_NAMES[precision], device, SIZES[device], runs=3, warmup=1)
            except RuntimeError as error:
                failed[precision] = one_line(error)
        yield {"flops": flops, "unavailable": failed}


if __name__ == "__main__":
    sys.exit(answer_requests(partial(serve, json.loads(sys.argv[1]))))
