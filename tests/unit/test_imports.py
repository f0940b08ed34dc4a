import subprocess
import sys

import pytest

from tests.unit.helpers import ROOT

HEAVY = ("torch", "transformers", "diffusers", "onnx", "export", "onnxruntime", "scipy", "librosa")


@pytest.mark.parametrize("module", ["runtime", "runtime.cli", "runtime.pipeline"])
def test_runtime_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_check_sees_what_is_imported() -> None:
    code = f"import sys, export; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "export" in done.stdout.split()
