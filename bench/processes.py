"""Run what is measured in processes of its own, so that neither memory nor failures are shared."""

import contextlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO


class ProcessError(Exception):
    """What went wrong in another process, in one line."""


def run_python(*arguments: str) -> str | None:
    """Run Python with these arguments. Returns the last line of its stderr if it fails, else None."""
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, errors="replace", check=False)
    if result.returncode == 0:
        return None
    print(result.stderr[-4000:], file=sys.stderr)
    return last_line(result.stderr, result.returncode)


def in_a_process(module: str, case: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """What `python -m module` finds of a case (see `report_to`); `failed` says why it found nothing."""
    out = work / "found.json"
    out.unlink(missing_ok=True)
    failed = run_python("-m", module, json.dumps(case), str(out))
    if not out.exists():  # it was killed, or could not start
        return {"failed": failed or "it gave no result"}
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def report_to(out: Path, find: Callable[[], dict[str, Any]]) -> int:
    """In that process, write to `out` what `find` returns, or its error as `failed`. Returns the exit status."""
    try:
        found = find()
    except Exception as error:
        traceback.print_exc()
        found = {"failed": one_line(error)}
    out.write_text(json.dumps(found))
    return int("failed" in found)


def one_line(error: Exception) -> str:
    """The class of an exception and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def last_line(stderr: str, returncode: int | None) -> str:
    """Why a process ended: the signal that killed it, else its last words, or its exit status."""
    if returncode is not None and returncode < 0:
        return f"killed by signal {-returncode}"
    return (stderr.strip().splitlines() or [f"exit status {returncode}"])[-1]


def status_gib(field: str) -> float:
    """Resident memory of this process in GiB, from Linux: VmHWM is the most that it had so far, VmRSS what it has."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**20


class Worker:
    """`python -m module CASE`, kept alive: it answers each line of JSON with another (see `answer_requests`)."""

    def __init__(self, module: str, case: Mapping[str, Any], log: Path) -> None:
        self._log = log
        command = [sys.executable, "-m", module, json.dumps(case)]
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
            )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer. Raises ProcessError with the worker's own error."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has died: `answer` says why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer, whether it was asked for or not. Raises ProcessError."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ProcessError(last_line(self._log.read_text(errors="replace"), self._process.wait()))
        found: dict[str, Any] = json.loads(line)
        if "failed" in found:
            raise ProcessError(found["failed"])
        return found

    def close(self) -> None:
        """End the process and wait for it."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=30)
        self._process.kill()
        self._process.wait()


def answer_requests(serve: Callable[[Iterator[dict[str, Any]]], Iterator[dict[str, Any]]]) -> int:
    """In the process of a worker, write each answer that `serve` yields; at an error, write that and end.

    What libraries print goes to stderr. Returns the exit status.
    """
    channel: TextIO = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    status, answers = 0, serve(json.loads(line) for line in sys.stdin)
    while True:
        try:
            answer = next(answers)
        except StopIteration:
            return status
        except Exception as error:
            traceback.print_exc()
            answer, status = {"failed": one_line(error)}, 1
        print(json.dumps(answer), file=channel, flush=True)
