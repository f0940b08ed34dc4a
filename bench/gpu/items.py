"""What a GPU can tell in its first hour, in pieces that need little: `python -m bench.gpu.items CASE OUT` runs one.

Each item returns its figures; `ok` says whether what has to hold held. Those that are handed `cupy` run over the tests'
stand-in too, which is how they are rehearsed.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench.gpu.calls import apart_by, call, kernels, times
from bench.processes import report_to
from runtime.backends.cuda import CudaDevice
from runtime.backends.device import Array, Device, HostDevice
from runtime.backends.graphs import Graphs
from runtime.diffusion.denoise import Denoiser
from runtime.diffusion.philox import PhiloxGenerator
from runtime.diffusion.schedulers import Plan, make_plan, scheduler_names
from runtime.errors import CaptureError, NumericsError

Found = dict[str, Any]
SHAPE = (1, 8, 64, 16)
CLOSE = 1e-5  # relative L2 between the device and NumPy


def host(_: Mapping[str, Any]) -> Found:
    """What the machine has: the card, its libraries, and the rate of its matrix units."""
    import cupy

    device = CudaDevice()
    runtime = cupy.cuda.runtime
    found = {
        "card": runtime.getDeviceProperties(0)["name"].decode(),
        "compute_capability": device.compute_capability,
        "driver": runtime.driverGetVersion(),
        "cuda": runtime.runtimeGetVersion(),
        "memory_gib": runtime.memGetInfo()[1] / 2**30,
        **device.threads(),
    }
    a, b = (cupy.random.standard_normal((8192, 8192), dtype=np.float32).astype(np.float16) for _ in range(2))
    seconds = _seconds(device, lambda: a @ b, runs=10)
    return {**found, "fp16_tflops": 2 * 8192**3 / seconds / 1e12, "ok": True}


def capture(case: Mapping[str, Any], cupy: Any = None) -> Found:
    """Whether CUDA graphs behave as the code takes for granted, one answer a rule."""
    found: Found = {}
    device = CudaDevice(cupy=cupy)
    xp = device.xp
    with device.active():
        values = xp.ones(1024, np.float32)
        replay, (made,) = device.capture(lambda: (device.watch("it", values * 2 + 1),))
        values.fill(3.0)
        replay()
        found["a replay reads what is there now"] = bool((device.to_host(made) == 7).all())
        device.verify()
        values.fill(np.nan)
        replay()
        values.fill(1.0)
        replay()
        found["NaN is seen after a later replay that is finite"] = _raises(NumericsError, device.verify)
        others = [device.capture(lambda i=i: (values * i,)) for i in range(12)]  # type: ignore[misc]
        xp.get_default_memory_pool().free_all_blocks()
        for again, _ in others:
            again()
        results = [float(device.to_host(outputs[0])[0]) for _, outputs in others]
        found["graphs keep their memory"] = results == [float(i) for i in range(12)]

        def waits() -> tuple[Any, ...]:
            device.wait()
            return (values + 1,)

        found["work that waits is not captured"] = _raises(CaptureError, lambda: device.capture(waits))
        many = [values + i for i in range(12)]
        found["concatenate of twelve is not captured"] = _raises(
            CaptureError, lambda: device.capture(lambda: (np.concatenate(many),))
        )
        replay()
        found["graphs go on after a capture that failed"] = bool((device.to_host(made) == 3).all())
        device.verify()
    found["memory that runs out is taken from graphs"] = _relieved(device, case.get("limit_bytes", 1 << 28))
    return {**found, "ok": all(found.values())}


def steps(_: Mapping[str, Any], cupy: Any = None) -> Found:
    """The captured denoising loop over a small made-up model, against NumPy's, for every scheduler and every kind."""
    found: dict[str, float] = {}
    for name in scheduler_names():
        errors = []
        for guidance, interval, every in ((3.5, (0.0, 1.0), 1), (None, (0.0, 1.0), 1), (3.5, (0.2, 0.7), 2)):
            rng = np.random.default_rng()
            plan = make_plan({"_class_name": name, "beta_schedule": "scaled_linear"}, 12, eta=0.5)
            first = rng.standard_normal(SHAPE).astype(np.float32) * np.float32(plan.init_noise_sigma)
            noise = rng.standard_normal((40, *SHAPE)).astype(np.float32)
            given = plan, first, noise, guidance, interval, every
            ours, theirs = _denoised(CudaDevice(cupy=cupy), *given), _denoised(HostDevice(), *given)
            errors.append(apart_by(ours, theirs))
        found[name] = max(errors)
    worst = max(found.values())
    return {"schedulers": found, "worst": worst, "aim": CLOSE, "ok": worst <= CLOSE}


def launches(_: Mapping[str, Any], cupy: Any = None) -> Found:
    """What a replay costs the host, and what the kernels of a step cost the device, without the model's."""
    device = CudaDevice(cupy=cupy)
    with device.active():
        values = device.xp.ones(SHAPE, np.float32)

        def work() -> tuple[Any, ...]:
            made = values
            for _kernel in range(100):
                made = made * 1.0001
            return (made,)

        replay, _outputs = device.capture(work)
        plain, graph = (_seconds(device, function, runs=50) for function in (work, replay))
        start = time.perf_counter()
        for _turn in range(200):
            replay()
        host_s = (time.perf_counter() - start) / 200
        device.wait()
    return {"plain_us": 1e6 * plain, "graph_us": 1e6 * graph, "host_us_a_launch": 1e6 * host_s, "ok": True}


def philox(_: Mapping[str, Any]) -> Found:
    """Seeds against torch's generator on this GPU, below and above its number of threads, two draws each."""
    import cupy
    import torch

    card = torch.cuda.get_device_properties(0)
    limits = {
        "multiprocessors": card.multi_processor_count,
        "threads_per_multiprocessor": card.max_threads_per_multi_processor,
    }
    worst: dict[str, float] = {}
    for xp in (np, cupy):
        for size in (17, 32768, 270337, 3000001):
            ours, theirs = PhiloxGenerator(2**63 + 5, xp, **limits), torch.Generator("cuda").manual_seed(2**63 + 5)
            apart = 0.0
            for _draw in range(2):
                expected = torch.randn(size, device="cuda", generator=theirs).cpu().numpy()
                drawn: Any = ours.randn((size,))
                apart = max(apart, float(np.abs((drawn.get() if xp is cupy else drawn) - expected).max()))
            worst[f"{xp.__name__} {size}"] = apart
    return {"apart": worst, "aim": CLOSE, "ok": max(worst.values()) <= CLOSE}


def _denoised(
    device: Device,
    plan: Plan,
    first: Array,
    noise: Array,
    guidance: float | None,
    interval: tuple[float, float],
    every: int,
) -> Array:
    """The sample after all steps, of a second run, which replays what the first captured. On the host."""
    engines = _engines(device.xp)
    denoiser = Denoiser(engines, device, Graphs(engines, device))
    with device.active():
        for _ in range(2):
            draws, start = iter(noise), device.xp.asarray(first)

            def randn(_: tuple[int, ...]) -> Array:
                return device.xp.asarray(next(draws))  # noqa: B023  the loop below is over when they are new

            *_, last = denoiser.steps(plan, start, {}, guidance, randn, interval, every)
        return np.array(device.to_host(last))


ITEMS: dict[str, Callable[..., Found]] = {
    item.__name__: item for item in (host, capture, steps, launches, philox, call, times, kernels)
}


def _engines(xp: Any) -> dict[str, Any]:
    """A whole UNet and a shallow one that are nothing but a few operations."""
    sample = SimpleNamespace(axes=("batch", "channels", "height", "mel"), max_shape=(None, 8, None, 16))

    def whole(feeds: Mapping[str, Any]) -> dict[str, Any]:
        x, t = feeds["sample"], feeds["timestep"]
        deep = np.tanh(x * np.float32(0.3))
        return {"noise_pred": x * np.float32(0.4) + deep * (t * np.float32(1e-3)), "deep_features": deep}

    def shallow(feeds: Mapping[str, Any]) -> dict[str, Any]:
        x, t = feeds["sample"], feeds["timestep"]
        return {"noise_pred": x * np.float32(0.4) + feeds["deep_features"] * (t * np.float32(1e-3))}

    names = {
        "unet": (whole, ("sample", "timestep")),
        "unet_shallow": (shallow, ("sample", "timestep", "deep_features")),
    }
    made = {"unet": ("noise_pred", "deep_features"), "unet_shallow": ("noise_pred",)}
    return {
        name: SimpleNamespace(
            inputs=dict.fromkeys(own, sample), outputs=dict.fromkeys(made[name]), run=run, capturable=True, xp=xp
        )
        for name, (run, own) in names.items()
    }


def _relieved(device: CudaDevice, limit_bytes: int) -> bool:
    """Whether an allocation that does not fit comes when graphs are let go of."""
    graphs = Graphs({}, device)
    with device.active():
        pool, size = device.xp.get_default_memory_pool(), limit_bytes // 8
        before, kept = pool.get_limit(), []
        pool.set_limit(size=pool.total_bytes() + limit_bytes)
        try:
            for i in range(12):  # together they do not fit
                with graphs.borrowed((i,), lambda: device.xp.zeros(size, np.uint8)) as array:
                    kept.append(int(device.to_host(array[:1])[0]))
        finally:
            pool.set_limit(size=before)
            graphs.clear()
    return kept == [0] * 12


def _raises(kind: type[Exception], function: Callable[[], object]) -> bool:
    try:
        function()
    except kind:
        return True
    return False


def _seconds(device: CudaDevice, function: Callable[[], object], runs: int) -> float:
    """Median seconds on the device, after three runs."""
    times = []
    for i in range(3 + runs):
        start = device.mark()
        function()
        stop = device.mark()
        if i >= 3:
            times.append(device.seconds_between(start, stop))
    return statistics.median(times)


if __name__ == "__main__":
    chosen = json.loads(sys.argv[1])
    sys.exit(report_to(Path(sys.argv[2]), lambda: ITEMS[chosen["name"]](chosen)))
