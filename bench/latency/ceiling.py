"""`python -m bench.latency.ceiling CASE`: how fast this machine multiplies matrices, measured once for each request."""

import json
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from bench.latency.pipelines import TORCH_NAMES
from bench.processes import answer_requests, one_line
from bench.rivals import matmul_flops

SIZES = {"cpu": 3072, "cuda": 8192}  # rows and columns of the matrices, where their product does not take too long
SMALLEST = 256


def serve(case: dict[str, Any], requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Operations a second by precision. A precision that cannot be had here is named with its error."""
    device = case["device"]
    for _ in requests:
        flops, failed = {}, {}
        for precision in case["precisions"]:
            try:
                flops[precision] = _flops(TORCH_NAMES[precision], device, case["longest_s"])
            except RuntimeError as error:
                failed[precision] = one_line(error)
        yield {"flops": flops, "unavailable": failed}


def _flops(dtype: str, device: str, longest_s: float) -> float:
    """Operations a second with the largest matrices whose product is likely to take no longer than `longest_s`.

    A CPU without instructions for BF16 or INT8 takes minutes for a product that others do in a tenth of a second.
    """
    size, rate = SIZES[device], matmul_flops(dtype, device, SMALLEST, runs=1, warmup=1)
    while size > SMALLEST and 2 * size**3 / rate > longest_s:
        size //= 2
    return matmul_flops(dtype, device, size, runs=3, warmup=1)


if __name__ == "__main__":
    sys.exit(answer_requests(partial(serve, json.loads(sys.argv[1]))))
