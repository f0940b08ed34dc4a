"""The program's words and its ends: standard streams that may be closed, full or narrow, and signals that stop it."""

import contextlib
import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Protocol, TextIO

from runtime.wording import one_line

READER_GONE = 141  # what a shell shows for a program that its reader's end has stopped: 128 + SIGPIPE


class Bar(Protocol):
    """A progress bar, as far as other words on the same terminal have to know it."""

    def clear(self) -> object:
        """Take the bar off the terminal."""

    def refresh(self) -> object:
        """Draw it again."""


class Console:
    """Where words go: results to one stream, errors and warnings to standard error.

    A stream that takes no more words stops no work: later words are dropped, and the exit status tells of it.
    """

    def __init__(self, results: TextIO, *, quiet: bool = False, as_json: bool = False) -> None:
        self._results, self._quiet, self._as_json = results, quiet, as_json
        self._failure: OSError | None = None
        self.bar: Bar | None = None
        self.written = 0  # files so far: what is told if the program is stopped

    def result(self, fields: dict[str, Any], line: str) -> None:
        """Say a result: as a line of JSON, as a line of words, or not at all if only errors are to be said."""
        if self._as_json:
            self._print(json.dumps(fields), self._results)
        elif not self._quiet:
            self._print(line, self._results)

    def say(self, line: str) -> None:
        """Say a result that is for people alone, in words."""
        self._print(line, self._results)

    def error(self, text: str) -> None:
        """Say what is wrong."""
        self.note(f"error: {text}")

    def note(self, text: str) -> None:
        """Say something that is no result."""
        self._print(text, sys.stderr)

    def exit_status(self, status: int) -> int:
        """The status of the whole run, whose work ended in `status`.

        Work that is done ends in 1 if its results could not be said, and in 141 if their reader has gone, without a
        word: a reader that has seen enough is no error.
        """
        _flush(sys.stdout)
        if status != 0 or self._failure is None:
            return status
        if isinstance(self._failure, BrokenPipeError):
            return READER_GONE
        self.error(f"the results could not be said: {one_line(self._failure)}; files that were made are there")
        return 1

    @contextlib.contextmanager
    def warnings(self, *, debug: bool) -> Iterator[None]:
        """Take what is logged inside the block; with `debug` the tracebacks of errors too."""
        root, ours, handler = logging.getLogger(), logging.getLogger("runtime"), _Handler(self)
        handler.setLevel(logging.DEBUG if debug else logging.ERROR if self._quiet else logging.WARNING)
        level = ours.level
        root.addHandler(handler)
        ours.setLevel(logging.DEBUG if debug else level)
        try:
            yield
        finally:
            ours.setLevel(level)
            root.removeHandler(handler)

    def _print(self, text: str, stream: TextIO) -> None:
        if self.bar is not None:
            self.bar.clear()
        try:
            print(text, file=stream, flush=True)
        except OSError as error:
            _discard(stream)
            self._failure = error if stream is self._results else self._failure
        if self.bar is not None:
            self.bar.refresh()


class _Handler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._console.note(self.format(record))


def open_streams() -> list[str]:
    """Make all three standard streams usable: called before anything is opened. Returns which were closed.

    A closed one gets the null device, else the next file that is opened would get its number, and with it the words of
    every library. Characters that a terminal's encoding lacks are escaped.
    """
    closed = []
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            closed.append(name)
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return closed


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        _discard(stream)


def _discard(stream: TextIO) -> None:
    """Send what the stream holds, and all that follows, to the null device: Python writes it again when it ends."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class Stopped(KeyboardInterrupt):
    """A signal that ends the program, as an exception: what is half written is removed."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C, SIGTERM and the end of the terminal raise `Stopped` inside the block, once.

    From then on all are ignored: the program is to end, and a second one would only disturb its cleaning up.
    """
    handlers: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if hasattr(signal, "SIGHUP"):  # not on Windows
        handlers[signal.SIGHUP] = signal.SIG_DFL
    if threading.current_thread() is not threading.main_thread():
        handlers = {}  # signals are the main thread's
    ours = {number: usual for number, usual in handlers.items() if signal.getsignal(number) is usual}

    def stop(number: int, _: FrameType | None) -> None:
        for each in ours:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, usual in ours.items():
            if signal.getsignal(number) is stop:
                signal.signal(number, usual)


def status_of(interrupt: KeyboardInterrupt) -> int:
    """The exit status that shells give to a program that a signal has ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (interrupt.number if isinstance(interrupt, Stopped) else signal.SIGINT)
