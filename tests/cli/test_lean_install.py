"""The product: a wheel with `[cpu]` alone, in an empty environment, runs a prebuilt bundle without torch."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import soundfile

ROOT = Path(__file__).parents[2]
UNWANTED = ("torch", "transformers", "diffusers", "onnx", "librosa", "scipy")


def test_runs_from_a_wheel_without_torch(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # the wheel, not these files

    def run(*command: str | Path) -> str:
        words = [str(part) for part in command]
        done = subprocess.run(words, cwd=tmp_path, env=alone, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    wheels, environment = tmp_path / "wheels", tmp_path / "venv"
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT)
    (wheel,) = wheels.glob("trt_audioldm2-*.whl")
    assert wheel.stat().st_size < 500_000, "the demo's weights are for the export stage alone"
    page = {path.name for path in (ROOT / "runtime/server/page").iterdir()}
    assert {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if "server/page/" in name} == page
    run(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", constraints, f"{wheel}[cpu]")
    installed = run(python, "-m", "pip", "list", "--format", "freeze").lower()
    assert not [name for name in UNWANTED if f"\n{name}==" in f"\n{installed}"]
    out = tmp_path / "lean.wav"
    prompt = "a dog barks"
    said = run(
        environment / "bin" / "trt-audioldm2", prompt, "--engines", bundle("plain"), "--steps", "2", "--output", out
    )
    assert f'lean.wav: "{prompt}", 10.24 s' in said
    assert soundfile.info(out).frames == 163_840
    timed = ("--steps", "1", "--runs", "1", "--duration", "0.3", "--quiet")
    assert "1 x 0.30 s" in run(environment / "bin" / "trt-audioldm2-bench", "--engines", bundle("plain"), *timed)
    # the same interpreter says how to get what it lacks
    code = "from export.__main__ import main; import sys; sys.exit(main(['build', '--checkpoint', 'demo']))"
    lacking = subprocess.run([python, "-c", code], cwd=tmp_path, env=alone, capture_output=True, text=True, check=False)
    assert lacking.returncode == 1
    install = f"pip install '{wheel}[cpu,export]'"
    assert lacking.stderr.strip() == f"error: building needs the export packages: {install}"
