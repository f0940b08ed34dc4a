"""The backends of the builder: what each declares of itself, and what the command line says of them."""

import subprocess
import sys
from dataclasses import replace
from pkgutil import resolve_name
from typing import get_args

import pytest

from export.__main__ import main
from export.commands import BACKENDS
from export.engines_openvino import OPENVINO
from export.errors import BuildError
from export.maker import Maker, TensorRTOptions
from export.target import Target
from runtime.bundle.schema import Precision
from tests.unit.helpers import ROOT, raises_line

MAKERS: dict[str, Maker] = {name: resolve_name(place) for name, place in BACKENDS.items()}


def test_each_maker_is_called_as_the_command_line_calls_it() -> None:
    assert {name: maker.name for name, maker in MAKERS.items()} == {name: name for name in BACKENDS}
    assert {precision for maker in MAKERS.values() for precision in maker.precisions} == set(get_args(Precision))


def test_the_help_names_each_default_precision(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["build", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    others = [f"; {name}: {maker.precisions[0]}" for name, maker in MAKERS.items() if maker.precisions[0] != "fp32"]
    assert f"(default: fp32{''.join(others)})" in said
    assert "{" + ",".join((*BACKENDS, "auto")) + "}" in said


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_what_a_maker_declares_goes_together(maker: Maker) -> None:
    assert not set(maker.refused_precisions) & set(maker.precisions)
    assert not set(maker.fuses_attention) & set(maker.halves_graph)  # `export.precision` knows the parts alone
    for precisions in (maker.fuses_attention, maker.halves_graph, maker.extras):
        assert set(precisions) <= set(maker.precisions)
    assert set(maker.refused_options) <= set(vars(TensorRTOptions()))
    for precision in get_args(Precision):
        if precision in maker.precisions:
            assert Target(maker=maker, precision=precision).precision == precision
        else:
            with raises_line(BuildError, "--precision"):
                Target(maker=maker, precision=precision)


def test_a_maker_without_lines_of_its_own_says_what_it_builds() -> None:
    with raises_line(BuildError, "--backend openvino: --precision fp16 or int8"):
        Target(maker=replace(OPENVINO, refused_precisions={}), precision="bf16")


def test_no_maker_needs_the_packages_of_a_backend_to_be_imported() -> None:
    code = (
        "import sys\nfrom pkgutil import resolve_name\nfrom export.commands import BACKENDS\n"
        "sys.modules.update(dict.fromkeys(('openvino', 'nncf', 'tensorrt', 'tensorrt_rtx')))\n"
        "print(*(resolve_name(place).name for place in BACKENDS.values()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == list(BACKENDS), done.stderr


@pytest.mark.parametrize("words", [["--help"], ["build", "--backend", "tensorflow"]])
def test_a_command_line_is_read_without_the_makers(words: list[str]) -> None:
    code = (
        "import sys\nfrom export.__main__ import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print('loaded:', *({'torch', 'onnx', 'export.maker'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "loaded:", done.stdout + done.stderr
