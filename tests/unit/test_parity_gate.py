"""Which errors of an engine a build admits."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from export.components.component import Component, normal, tensor
from export.errors import BuildError
from export.parity import HALF_CEILING, TOLERANCE, check_parity
from runtime.backends.device import Array
from tests.unit.helpers import raises_line

HALVES = [("fp16", torch.float16), ("bf16", torch.bfloat16)]


class Offset(torch.nn.Module):
    """Adds a number and takes it away again: the larger it is, the less of the input is left in half precision."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(8))
        self.offset = offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight + self.offset) - self.offset


class Off:
    """An engine that gives what the module gives, but for a relative error of its own."""

    xp = np

    def __init__(self, module: torch.nn.Module, error: float) -> None:
        self.module, self.error = module, error
        self.inputs = self.outputs = {"x": None}

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        exact = self.module(torch.from_numpy(feeds["x"])).detach().numpy()
        noise = np.random.default_rng().standard_normal(exact.shape)
        return {"y": (exact + self.error * np.linalg.norm(exact) / np.linalg.norm(noise) * noise).astype(np.float32)}


def component(module: torch.nn.Module) -> Component:
    return Component(
        module=module,
        inputs={"x": tensor("float32", batch=(1, None), width=8)},
        outputs={"y": tensor("float32", batch=(1, None), width=8)},
        draw=lambda sizes, generator: {"x": normal(generator, sizes["batch"], 8)},
        sizes=({"batch": 64},),
    )


def check(module: torch.nn.Module, error: float, precision: str) -> tuple[float, float | None]:
    engine, tolerance = Off(module, error), TOLERANCE[precision]
    lines: list[str] = []
    (found,) = check_parity("unet", component(module), engine, tolerance, lines.append, precision=precision)  # type: ignore[arg-type]
    assert any("admitted" in line for line in lines) == (found.half_error is not None)
    return found.relative_error, found.half_error


def own_error(module: torch.nn.Module, dtype: torch.dtype) -> float:
    x = torch.randn(4096, 8)
    exact = module(x).detach()
    offset = torch.tensor(module.offset, dtype=dtype)
    found = (x.to(dtype) + offset) - offset
    return float((found.float() - exact).norm() / exact.norm())


@pytest.mark.parametrize(("precision", "dtype"), HALVES)
def test_an_error_that_half_precision_makes_by_itself_is_admitted(precision: str, dtype: torch.dtype) -> None:
    module = Offset(next(o for o in 2.0 ** np.arange(12) if own_error(Offset(o), dtype) > 2 * TOLERANCE[precision]))
    half = own_error(module, dtype)
    error = (TOLERANCE[precision] + half) / 2  # above the tolerance, below what half makes
    found, admitted_for = check(module, error, precision)
    assert found == pytest.approx(error, rel=1e-3)
    assert admitted_for == pytest.approx(half, rel=0.3)


@pytest.mark.parametrize(("precision", "dtype"), HALVES)
def test_a_larger_error_than_half_precision_makes_stops_the_build(precision: str, dtype: torch.dtype) -> None:
    module = Offset(next(o for o in 2.0 ** np.arange(12) if own_error(Offset(o), dtype) > TOLERANCE[precision]))
    with raises_line(BuildError, "above the tolerance", f"torch's own in {precision} is"):
        check(module, min(3 * own_error(module, dtype), 0.99), precision)
    well = Offset(0.0)
    with raises_line(BuildError, "above the tolerance"):
        check(well, 1.2 * TOLERANCE[precision], precision)
    assert check(well, 0.9 * TOLERANCE[precision], precision)[1] is None


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("error", [1.2 * HALF_CEILING, 1.0])
def test_an_engine_that_is_plainly_wrong_is_never_admitted(precision: str, error: float) -> None:
    with raises_line(BuildError, "above the tolerance"):
        check(Offset(60_000.0), error, precision)  # of which half precision leaves nothing


def test_float32_has_no_such_excuse() -> None:
    with raises_line(BuildError, "above the tolerance"):
        check(Offset(1e6), 2e-2, "fp32")


def test_half_that_overflows_or_cannot_run_is_no_excuse(monkeypatch: pytest.MonkeyPatch) -> None:
    with raises_line(BuildError, "above the tolerance"):
        check(Offset(70_000.0), 2e-2, "fp16")  # Inf - Inf
    module = Offset(2048.0)
    module.register_forward_pre_hook(lambda _, args: (args[0] @ torch.eye(8),))  # float32 beside half
    with raises_line(BuildError, "above the tolerance"):
        check(module, 2e-2, "fp16")


def test_a_module_that_gives_nan_is_not_called_an_error_of_the_engine() -> None:
    module = torch.nn.Linear(8, 8)
    with torch.no_grad():
        module.weight[0, 0] = float("nan")
    with raises_line(BuildError, "the torch module", "itself gives NaN or Inf in 'y' at batch=64"):
        check_parity("unet", component(module), Off(module, 0.0), 1e-4)  # type: ignore[arg-type]
