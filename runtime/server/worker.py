"""A pipeline in a process of its own: if that dies, its callers get an error, and the next call a new one."""

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from runtime.arguments import arguments_of, options_of
from runtime.backends.device import Array
from runtime.bundle import Bundle
from runtime.errors import AudioLDM2Error
from runtime.memory import check_memory
from runtime.output import AudioOutput
from runtime.request import Request, check_request

TO_END_S = 10.0  # for a process that was told to
WARNINGS = {"form": "text", "level": "warning"}  # see runtime.server.log


class WorkerDiedError(AudioLDM2Error):
    """The process that ran a call ended in the middle of it."""


class StoppedError(AudioLDM2Error):
    """The call was ended by `stop`."""


class Worker:
    """The pipeline of a bundle in a child process, which sees what it is told through a pipe. `child` is its other end.

    One thread launches it and lets it render. Any thread may check a call, stop the one that runs, and close it.
    `options` are those of a pipeline, `log` says what its process writes to standard error.
    """

    def __init__(self, bundle: Bundle, *, log: Mapping[str, str] = WARNINGS, **options: Any) -> None:
        self.bundle = bundle
        self._options, self._log = options_of(options), log
        self._process: subprocess.Popen[bytes] | None = None
        self._sending = threading.Lock()
        self._free_bytes: int | None = None
        self.backend: str | None = None  # what runs graphs, once it is open; None: as each engine says
        self._is_open = False
        self.on_death: Callable[[], None] = lambda: None  # is called when a process has ended, by a thread of its own

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start a process in the place of the one before, if any. It opens the bundle while the caller goes on."""
        self.close()
        here = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "runtime.server.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": here},  # it imports what this process would import
        )
        threading.Thread(target=self._watch, args=(self._process,), name="watch", daemon=True).start()
        self._send(str(self.bundle.folder.resolve()), dataclasses.asdict(self._options), self._log)

    def opened(self) -> None:
        """Wait until the process has opened the bundle. Raises what opening it raised, or WorkerDiedError."""
        if not self._is_open:
            try:
                self._free_bytes, self.backend = self._answer()
            except BaseException:
                self.close()  # a process without a pipeline is of no use
                raise
            self._is_open = True

    def warm_up(self, duration_s: float | None, rows: int) -> None:
        """See AudioLDM2Pipeline.warm_up. Raises what that raises, or WorkerDiedError."""
        self._send("warm_up", duration_s, rows)
        self._free_bytes = self._answer()

    def check(self, **arguments: Any) -> Request:
        """A call that is checked, also that there is memory for it, as far as is known. Raises InputError."""
        request = check_request(self.bundle.manifest, arguments_of(arguments))
        check_memory(self.bundle.manifest, request, self._free_bytes, self._options)
        return request

    def render(
        self,
        number: int,
        request: Request,
        on_step: Callable[[int], object] | None = None,
        on_audio: Callable[[Array], object] | None = None,
    ) -> AudioOutput:
        """Run a checked call that has no callbacks. Meanwhile `on_step` hears how many steps are done, `on_audio` the
        next samples (rows, samples) as they are made. `number` names the call for `stop`; the next one's is larger.

        Raises what the call raises, StoppedError after `stop`, or WorkerDiedError.
        """
        self._send("render", number, request, on_step is not None, on_audio is not None)
        output: AudioOutput
        output, self._free_bytes = self._answer(step=on_step, audio=on_audio)
        return output

    def stop(self, number: int) -> None:
        """End the call of this number before its next step or window: it runs, or will be the next that does."""
        self._send("stop", number)

    def close(self) -> None:
        """End the process, whatever it does."""
        process, self._process, self._is_open = self._process, None, False
        if process is None or process.stdin is None or process.stdout is None:
            return
        process.kill()
        process.wait(TO_END_S)
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what was buffered for a process that is gone
                pipe.close()

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        process.wait()
        self.on_death()

    def _send(self, *message: object) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        with self._sending, suppress(OSError, ValueError):  # it is gone: who waits for an answer is told
            pickle.dump(message, process.stdin)
            process.stdin.flush()

    def _answer(self, **hears: Callable[[Any], object] | None) -> Any:
        """What the process answers at last. What it tells before goes to the functions in `hears`, by its kind."""
        while True:
            kind, value = self._next()
            if kind == "done":
                return value
            if kind == "failed":
                raise value
            hear = hears[kind]
            if hear is not None:
                hear(value)

    def _next(self) -> Any:
        process = self._process
        try:
            if process is None or process.stdout is None:
                raise EOFError
            return pickle.load(process.stdout)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:  # ValueError: the pipe was closed
            raise WorkerDiedError(f"the process of the pipeline ended {_how(process)}") from error


def _how(process: "subprocess.Popen[bytes] | None") -> str:
    """How a process ended, in words."""
    if process is None:
        return "before it was asked"
    try:
        status = process.wait(TO_END_S)
    except subprocess.TimeoutExpired:
        return "its side of the pipe"
    if status >= 0:
        return f"with status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    return f"by {name}" + (": perhaps memory ran out" if name == "SIGKILL" else "")
