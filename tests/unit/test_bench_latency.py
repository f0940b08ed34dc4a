"""The parts of `python -m bench latency` that need no model."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.latency import contest, plan
from bench.latency.child import serve
from bench.latency.figures import add_figures, plot_stages, table
from bench.latency.pipelines import Clock
from bench.latency.plan import NAMES, OURS, RIVALS, Plan
from bench.processes import ProcessError, Worker
from runtime.errors import InputError

STAGES = {"tokenize": 0.1, "encode": 0.2, "generate": 0.3, "denoise": 2.0, "decode": 1.0, "vocode": 1.3, "write": 0.1}


def answer(total_s: float, **changed: Any) -> dict[str, Any]:
    steps = {"steps_s": [0.1, 0.3, 0.2], "audio_s": 10.0, "peak_gib": 2.0}
    return {"total_s": total_s, "stages": {**STAGES, **changed}, **steps}


def row(name: str, median_s: float, precision: str = "fp32", **more: Any) -> dict[str, Any]:
    known = {"name": name, "batch": 1, "group": 0, "steps": 20, "guided": True, "precision": precision}
    return {**known, **contest.summary([answer(median_s)]), **more}


def test_turns_alternate_and_the_warm_up_does_not_count() -> None:
    asked: list[str] = []

    def call(name: str) -> dict[str, Any]:
        asked.append(name)
        return {"turn": len(asked)}

    found = contest.take_turns({"a": lambda: call("a"), "b": lambda: call("b")}, runs=2, settle_s=0)
    assert asked == ["a", "b"] * (contest.WARMUP + 2)
    assert found == {"a": [{"turn": 3}, {"turn": 5}], "b": [{"turn": 4}, {"turn": 6}]}


@pytest.mark.parametrize("good_turns", [0, 2])
def test_one_that_fails_has_no_more_turns_and_the_others_go_on(good_turns: int) -> None:
    asked = []

    def failing() -> dict[str, Any]:
        asked.append(1)
        if len(asked) > good_turns:
            raise ProcessError("it broke")
        return answer(1.0)

    found = contest.take_turns({"bad": failing, "good": lambda: answer(2.0)}, runs=3, settle_s=0)
    assert len(asked) == good_turns + 1
    assert len(found["good"]) == 3
    assert contest.summary(found["bad"]) == {"failed": "it broke"}


def test_a_summary_has_medians_by_stage() -> None:
    found = contest.summary([answer(5.0, denoise=2.0), answer(9.0, denoise=6.0), answer(6.0, denoise=3.0)])
    assert (found["median_s"], found["p90_s"], found["stages"]["denoise"]) == (6.0, 9.0, 3.0)
    assert found["step"]["median_s"] == 0.2
    assert found["totals_s"] == [5.0, 9.0, 6.0]


def test_ceilings_keep_each_round() -> None:
    found = contest.summary_of_ceiling([{"flops": {"fp32": rate}, "unavailable": {}} for rate in (3.0, 1.0, 2.0)])
    assert found["flops"] == {"fp32": 2.0}
    assert found["rounds"] == {"fp32": [3.0, 1.0, 2.0]}
    assert contest.summary_of_ceiling([{"failed": "no torch"}])["unavailable"] == {"ceiling": "no torch"}


def test_figures() -> None:
    rows = [
        row("diffusers-fp32", 50.0),
        row("openvino", 10.0, "bf16"),
        row("openvino", 16.0, "bf16", batch=2, one_prompt_median_s=10.0),
        row("openvino-student-4", 4.0, "bf16", steps=4, guided=False),
        {"name": "diffusers-bf16", "batch": 1, "failed": "RuntimeError: none"},
    ]
    ceilings = [{"flops": {"fp32": 4e11, "bf16": 2e12}, "unavailable": {}}]
    add_figures(rows, ceilings, {"openvino": 1.5}, has_flop=True)
    exact, one, two, student, failed = rows
    assert one["real_time_factor"] == pytest.approx(1.0)
    assert two["real_time_factor"] == pytest.approx(0.8)  # two waveforms of 10 s in 16 s
    assert one["text_s"] == pytest.approx(0.6)
    assert one["times_as_fast"] == {"diffusers-fp32": pytest.approx(5.0)}
    assert two["times_as_fast"] == {"diffusers-fp32": pytest.approx(6.25)}
    assert two["batch_gain"] == pytest.approx(1.25)
    flop = 20 * 293e9 + 1663e9
    assert one["share_of_ceiling"] == pytest.approx(flop / 10 / 2e12)  # of its own precision's
    assert exact["share_of_ceiling"] == pytest.approx(flop / 50 / 4e11)
    assert student["share_of_ceiling"] == pytest.approx((2 * 293e9 + 1663e9) / 4 / 2e12)  # a row a step, not two
    assert (one["small_start_s"], two.get("small_start_s")) == (1.5, None)
    lines = table(rows, ceilings).splitlines()
    assert lines[2].split()[:3] == ["openvino", "bf16", "1"]
    assert lines[5].split(maxsplit=3) == ["diffusers-bf16", "-", "1", "failed: RuntimeError: none"]
    assert "bf16 2000 GFLOP/s" in lines[6]
    assert "median_s" not in failed


def test_other_sizes_have_no_share_of_the_ceiling() -> None:
    rows = [row("openvino", 10.0)]
    add_figures(rows, [{"flops": {"fp32": 1e12}, "unavailable": {}}], {}, has_flop=False)
    assert "flops" not in rows[0]


def test_the_plot_has_a_bar_of_each_contender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    rows = [
        row("openvino", 5.0),
        row("diffusers-fp32", 8.0),
        row("openvino", 9.0, batch=2),
        {"batch": 1, "failed": "x"},
    ]
    plot_stages(rows, tmp_path / "x.png")
    (axes,) = drawn[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["diffusers-fp32 (fp32)", "openvino (fp32)"]
    ends = [
        max(bar.get_x() + bar.get_width() for bar in axes.patches if round(bar.get_y() + 0.35) == i) for i in (0, 1)
    ]
    assert ends == pytest.approx([sum(STAGES.values())] * 2)
    assert {text.get_text() for text in drawn[0].legends[0].get_texts()} == set(STAGES)


def test_a_clock_sums_calls_until_it_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    class Owner:
        def work(self, value: int) -> int:
            return value + 1

    ticks: Iterator[int] = iter(range(100))
    monkeypatch.setattr("bench.latency.pipelines.time.perf_counter", lambda: next(ticks))
    waited: list[int] = []
    owner, clock = Owner(), Clock(lambda: waited.append(1))
    clock.wrap(owner, "work", "encode")
    assert [owner.work(1), owner.work(2)] == [2, 3]
    assert clock.seconds == {"encode": 2}
    assert (clock.begun["encode"], clock.ended["encode"]) == (2, 3)
    assert len(waited) == 4  # before and after each
    assert Clock().text(10.0) == {"encode": 10.0}
    assert clock.text(10.0) == {"tokenize": 8.0, "encode": 2}


def test_every_contender_can_be_told_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.latency.plan.latent_shape", lambda _: [8, 256, 16])
    assert set(NAMES) == set(OURS) | set(RIVALS)
    for device, half in (("cpu", "bf16"), ("cuda", "fp16")):
        told = Plan(list(NAMES), device, tmp_path, tmp_path, dict.fromkeys(OURS, tmp_path))
        assert told.case("diffusers-bf16")["precision"] == half
        assert told.case("diffusers-fp32")["precision"] == "fp32"
        assert [name for name in NAMES if told.case(name).get("swapped")] == ["diffusers-openvino"]
        assert [name for name in NAMES if told.case(name).get("compiled")] == ["diffusers-compile"]


def test_a_contender_may_have_steps_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PretendedWorker:
        def __init__(self, *_: Any) -> None:
            self.close = lambda: None

        def ask(self, **request: Any) -> dict[str, Any]:
            return request

    monkeypatch.setattr("bench.latency.contest.Worker", PretendedWorker)
    monkeypatch.setattr("bench.latency.plan.latent_shape", lambda _: [8, 256, 16])
    told = Plan(list(NAMES), "cpu", tmp_path, tmp_path, dict.fromkeys(OURS, tmp_path))
    for name, steps in (("openvino-int8", 20), ("openvino-int8-5-steps", 5), ("openvino-student-1", 1)):
        entry = contest.Entry(name, told, told.case(name))
        assert entry.call(20)["steps"] == steps
        assert entry.row["steps"] == steps  # which its share of the ceiling is counted with


def options(**given: Any) -> argparse.Namespace:
    names = (
        "checkpoint",
        "engines",
        "fp16_engines",
        "int8_engines",
        "int8_vocoder_engines",
        "tensorrt_engines",
        "start_engines",
        "contenders",
        "plot",
    )
    return argparse.Namespace(**{**dict.fromkeys(names), **given})


def test_openvino_is_left_out_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "find_spec", lambda _: True)
    monkeypatch.setattr(plan, "gpu", lambda: None)
    on_cpu = plan.check(options())
    assert {"openvino", "openvino-fp32", "diffusers-openvino", "onnxruntime"} <= set(on_cpu)
    monkeypatch.setattr(plan, "gpu", lambda: {"name": "pretended"})
    on_gpu = plan.check(options())
    assert on_gpu == [name for name in on_cpu if "openvino" not in name]
    with pytest.raises(InputError, match="openvino cannot run here"):
        plan.check(options(contenders=["openvino"]))


def test_what_is_not_installed_is_left_out_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "gpu", lambda: None)
    monkeypatch.setattr(plan, "find_spec", lambda module: None if module == "diffusers" else True)
    assert plan.check(options()) == ["onnxruntime", "openvino", "openvino-fp32"]
    with pytest.raises(InputError, match="diffusers-bf16 cannot run here: diffusers not installed"):
        plan.check(options(contenders=["onnxruntime", "diffusers-bf16"]))


def test_a_build_that_fails_is_its_contenders_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plan, "gpu", lambda: None)
    monkeypatch.setattr(plan, "random_checkpoint", lambda folder: folder)
    monkeypatch.setattr(plan, "run_python", lambda *given: "no memory" if str(tmp_path / "engines") in given else None)
    made = plan.prepare(options(int8_engines=tmp_path), ["onnxruntime", "openvino-int8", "diffusers-fp32"], tmp_path)
    assert made.failed == {"onnxruntime": "engines: no memory"}
    assert made.bundles["openvino-int8"] == tmp_path
    assert set(made.prepared_s) == {"engines", "demo"}


def test_a_child_never_repeats_a_prompt_and_keeps_the_latents(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Fake:
        sample_rate_hz, precision = 16000, "fp32"
        calls: list[tuple[list[str], np.ndarray]] = []

        def render(self, prompts: list[str], latents: np.ndarray, steps: int, end: Any) -> Any:
            self.calls.append((prompts, latents))
            for _ in range(steps):
                end()
            return np.full((len(prompts), 1600), 0.5, np.float32), {"denoise": 0.0}

    monkeypatch.setattr("bench.latency.child.import_for", lambda _: None)
    monkeypatch.setattr("bench.latency.child.open_pipeline", lambda _: Fake())
    saved = tmp_path / "x.npy"
    requests = iter([{"steps": 3, "batch": batch, "save": str(saved)} for batch in (1, 2, 1, 1)])
    answers = list(serve({"latents": [8, 4, 2], "device": "cpu"}, requests))
    assert answers[:2] == [{}, {"precision": "fp32"}]
    assert len(answers[2]["steps_s"]) == 2
    assert answers[2]["audio_s"] == 0.1
    assert answers[2]["total_s"] == pytest.approx(sum(answers[2]["stages"].values()))
    given = [prompt for prompts, _ in Fake.calls for prompt in prompts]
    assert len(set(given)) == len(given) == 5
    assert np.array_equal(Fake.calls[0][1], Fake.calls[2][1])
    assert np.load(saved).shape == (1, 1600)


CHATTY = """
import argparse
import sys
from bench.processes import answer_requests

def serve(requests):
    print("a library prints")
    yield {"opened": True}
    for request in requests:
        if request["number"] < 0:
            raise ValueError("negative\\nsecond line")
        if request["number"] > 9:
            print("killed by somebody", file=sys.stderr, flush=True)
            import os
            os._exit(9) if request["number"] < 99 else os.kill(os.getpid(), 9)
        yield {"twice": 2 * request["number"]}

sys.exit(answer_requests(serve))
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    (tmp_path / "chatty.py").write_text(CHATTY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(sys.path)}")
    worker = Worker("chatty", {}, tmp_path / "log")
    yield worker
    worker.close()
    worker.close()  # no harm


def test_a_worker_answers_whatever_libraries_print(worker: Worker) -> None:
    assert worker.answer() == {"opened": True}
    assert [worker.ask(number=number)["twice"] for number in (1, 2)] == [2, 4]


@pytest.mark.parametrize(
    ("number", "words"), [(-1, "ValueError: negative"), (10, "killed by somebody"), (99, "killed by signal 9")]
)
def test_a_worker_that_fails_says_why_in_one_line(worker: Worker, number: int, words: str) -> None:
    worker.answer()
    with pytest.raises(ProcessError, match=f"^{words}$"):
        worker.ask(number=number)
    with pytest.raises(ProcessError):
        worker.ask(number=1)
