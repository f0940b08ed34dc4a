"""How `python -m export` ends: signals, closed streams, foreign errors, and systems that are not POSIX."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export.__main__ import main
from runtime.install import install_command
from tests.unit.helpers import ROOT

EXPORT = [sys.executable, "-m", "export"]


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment(), **options}
    return subprocess.run([str(word) for word in command], check=False, **streams)  # type: ignore[call-overload]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def shell(words: str, bundle: Path) -> subprocess.CompletedProcess[str]:
    return run("bash", "-c", f'"$0" -m export inspect "$1" {words}', sys.executable, bundle)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_build_leaves_nothing(number: int, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "engines" / "bundle"
    command = [*EXPORT, "build", "--checkpoint", str(checkpoint("plain")), "--out", str(out)]
    build = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # which may be ignored where the tests are run
    )
    with build:
        assert build.stdout is not None
        build.stdout.readline()  # the first engine is traced
        assert list(out.parent.iterdir())
        build.send_signal(number)
        _, said = build.communicate(timeout=120)
    assert build.returncode == 128 + number
    assert said.splitlines() == ["interrupted: nothing was left half-built"]
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("module", ["export.commands", "torch"])
def test_ctrl_c_while_modules_are_imported_is_one_line(module: str, tmp_path: Path) -> None:
    code = (
        "import builtins, sys\n"
        "real = builtins.__import__\n"
        "def stopped(name, *rest):\n"
        f"    if name == {module!r}: raise KeyboardInterrupt\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = stopped\n"
        "from export.__main__ import main\n"
        "sys.exit(main(['build', '--checkpoint', 'demo', '--out', sys.argv[1]]))\n"
    )
    done = run(sys.executable, "-c", code, tmp_path / "out", cwd=ROOT)
    assert done.returncode == 130
    assert done.stderr.splitlines() == ["interrupted: nothing was left half-built"]


def test_the_door_imports_nothing_heavy() -> None:
    code = "import sys; before = set(sys.modules); import export.__main__; print(*(set(sys.modules) - before))"
    assert set(run(sys.executable, "-c", code, cwd=ROOT).stdout.split()) == {"export", "export.__main__"}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (">/dev/full", 1, "No space left on device"),
        ("| true; exit ${PIPESTATUS[0]}", 141, None),
        (">&-", 0, None),
        ("2>&-", 0, None),
        (">&- 2>&-", 0, None),
    ],
)
def test_streams_that_take_no_words(words: str, status: int, said: str | None, bundle: Callable[[str], Path]) -> None:
    done = shell(words, bundle("plain"))
    assert done.returncode == status, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == (said is not None), lines
    assert said is None or said in lines[0]


def test_a_build_whose_reader_has_gone_is_built(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(bundle("plain"), tmp_path / "out"))
    (out / "unet.onnx").unlink()
    words = '"$0" -m export build --checkpoint "$1" --out "$2" | true; exit ${PIPESTATUS[0]}'
    done = run("bash", "-c", words, sys.executable, checkpoint("plain"), out)
    assert (done.returncode, done.stderr) == (141, "")
    assert (out / "unet.onnx").exists()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "out of memory"),
        (MemoryError("Unable to allocate 9 GiB"), "out of memory: Unable to allocate 9 GiB"),
        (OSError(28, "No space left on device", "/x/y"), "No space left on device: '/x/y'"),
        (RuntimeError("first\nsecond"), "RuntimeError: first second (--debug tells where)"),
        (KeyError("x"), "KeyError: 'x' (--debug tells where)"),
        (RuntimeError(), "RuntimeError (--debug tells where)"),
    ],
    ids=repr,
)
def test_any_error_is_one_line(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("export.commands._inspect", fail)
    assert main(["inspect", "x"]) == 1
    assert capsys.readouterr().err == f"error: {line}\n"
    assert main(["inspect", "x", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "doing"), [("verify", "verifying"), ("inspect", "inspecting")])
def test_what_needs_the_export_packages_is_said_by_command(
    command: str, doing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(f"export.commands._{command}", fail)
    assert main([command, "x"]) == 1
    wanted = f"error: {doing} needs the export packages: {install_command('cpu', 'export')}\n"
    assert capsys.readouterr().err == wanted


@pytest.mark.parametrize("stranger", ["runtime.py", "runtime/__init__.py"])
def test_a_module_of_the_users_that_hides_ours_is_named(stranger: str, tmp_path: Path) -> None:
    path = tmp_path / stranger
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise SystemExit('somebody else')")
    done = run(*EXPORT, "inspect", "x", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {path} hides our package 'runtime'")
    assert len(done.stderr.splitlines()) == 1


NOT_POSIX = "import os, sys, warnings; sys.modules['fcntl'] = None; del os.link; warnings.simplefilter('ignore')\n"


def test_everything_is_imported_without_fcntl_and_hard_links() -> None:
    code = NOT_POSIX + (
        "import importlib, pkgutil, export, runtime\n"
        "for package in (runtime, export):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not module.name.endswith(('__main__', 'ray_app')): importlib.import_module(module.name)\n"
    )
    done = run(sys.executable, "-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_second_build_and_a_run_without_fcntl_and_hard_links(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(bundle("plain"), tmp_path / "out"))
    before = (out / "unet.onnx").stat().st_ino
    code = NOT_POSIX + (
        "from export.__main__ import main\n"
        "assert main(['build', '--checkpoint', sys.argv[1], '--out', sys.argv[2]]) == 0\n"
        "from runtime.cli import main\n"
        "words = ['rain', '--engines', sys.argv[2], '--steps', '1', '--duration', '0.64', '--output', sys.argv[3]]\n"
        "assert main(words) == 0\n"
    )
    done = run(sys.executable, "-c", code, checkpoint("plain"), out, tmp_path / "a.wav", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "unet: unchanged" in done.stdout
    assert (out / "unet.onnx").stat().st_ino != before  # copied: a second name would be the same file
    assert (tmp_path / "a.wav").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "out"]
