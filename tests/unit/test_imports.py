"""What may import what: contracts in pyproject.toml, no circle at all, and a runtime that stays light."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.helpers import ROOT

HEAVY = ("torch", "transformers", "diffusers", "onnx", "export", "onnxruntime", "scipy", "librosa")
PACKAGES = ("runtime", "export", "bench")
# Imports inside of functions count. One of the contracts finds circles of rooms, the sorter circles of modules.
CHECK = f"""
import sys
from graphlib import CycleError, TopologicalSorter
import grimp
from importlinter.cli import lint_imports

status = lint_imports(no_cache=True, no_logo=True)
graph = grimp.build_graph(*{PACKAGES}, cache_dir=None)
try:
    TopologicalSorter({{name: graph.find_modules_directly_imported_by(name) for name in graph.modules}}).prepare()
except CycleError as error:
    sys.exit(f"modules in a circle: {{' -> '.join(error.args[1])}}")
sys.exit(status)
"""


def checked(folder: Path) -> tuple[int, str]:
    """Exit status and words of the check of the packages in `folder`, in a process that imports these."""
    wide = {**os.environ, "COLUMNS": "300", "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", CHECK]
    done = subprocess.run(command, cwd=folder, env=wide, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_every_contract_is_kept_and_nothing_runs_in_a_circle() -> None:
    status, said = checked(ROOT)
    assert status == 0, said


@pytest.mark.parametrize(
    ("module", "added", "words"),
    [
        ("runtime/sound/mel.py", "import runtime.pipeline", "The floors of the runtime"),
        ("runtime/sound/mel.py", "def late():\n    from runtime.text import speech", "The floors of the runtime"),
        ("runtime/backends/specs.py", "from runtime.bundle import manifest", "The floors of the runtime"),
        ("runtime/text/speech.py", "def late():\n    import torch", "The runtime is lean"),
        ("export/errors.py", "import bench.report", "The export stage does not need"),
        ("runtime/bundle/manifest.py", "def late():\n    import runtime.bundle.choice", "modules in a circle"),
        ("export/components/__init__.py", "import export.build", "modules in a circle"),
        ("bench/sounds.py", "from bench.judge import network", "No circle between the rooms"),
        ("runtime/memory.py", "import onnxruntime", "Packages of a backend"),
    ],
)
def test_a_wrong_import_is_seen(module: str, added: str, words: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        others = shutil.ignore_patterns("__pycache__", "*.npz", "*.safetensors", "*.json", "trained")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=others)
    with (tmp_path / module).open("a") as file:
        file.write(f"\n\n{added}\n")
    status, said = checked(tmp_path)
    assert status == 1
    assert words in said.split("Broken contracts")[-1], said


@pytest.mark.parametrize("module", ["runtime", "runtime.cli", "runtime.pipeline"])
def test_runtime_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_check_sees_what_is_imported() -> None:
    code = f"import sys, export; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "export" in done.stdout.split()
