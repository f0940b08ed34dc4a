"""What becomes of a command when its streams close or a signal ends it. It imports little: Ctrl-C is caught early."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

INTERRUPTED, READER_GONE = 130, 141  # as shells have it: 128 and the number of the signal, SIGINT and SIGPIPE


def run(main: Callable[[], int]) -> int:
    """Run a command and return its exit status, whatever becomes of its streams.

    What cannot be written ends no work: a reader such as `head` may have had enough, and a closed stream has no reader.
    Work that went well ends in 141 if the reader had gone, as shells show it, and in 1, with a line on standard error,
    if its words found no room. Ctrl-C before `main` can say more of it ends with one line and status 130.
    """
    sys.stdout, sys.stderr = _open(sys.stdout), _open(sys.stderr)
    try:
        with _lenient("stdout") as output, _lenient("stderr"):
            status = main()
            output.flush()
            return status or _status(output)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _status(output: "Lenient") -> int:
    """The exit status of work that went well, by what became of its words."""
    if output.failure is None:
        return 0
    if isinstance(output.failure, BrokenPipeError):
        return READER_GONE
    print(f"error: standard output cannot be written: {output.failure.strerror}", file=sys.stderr)
    return 1


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise SystemExit, with 128 and their number, so that the work cleans up.

    A signal that the process was started to ignore, as `nohup` does, stays ignored. Elsewhere than in the main thread,
    where Python allows no handlers, nothing changes.
    """
    names = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    earlier: dict[int, Any] = {}

    def end(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not stop the cleaning
        raise SystemExit(128 + number)

    with contextlib.suppress(ValueError):  # not the main thread
        for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
            if signal.getsignal(number) != signal.SIG_IGN:
                earlier[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class Lenient:
    """A text stream that takes everything: after a write that fails it writes to nowhere, and keeps the `failure`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text`. Returns its length."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Write out what waits in the buffer."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.failure = self.failure or error
        with contextlib.suppress(OSError, ValueError):  # ValueError: not a stream of the system's
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # what is in the buffer goes there too
            os.close(nowhere)


@contextlib.contextmanager
def _lenient(name: str) -> Iterator[Lenient]:
    """`sys.stdout` or `sys.stderr` as a Lenient that shows each line as it comes, and any character in some form."""
    stream = getattr(sys, name)
    with contextlib.suppress(AttributeError):  # a stand-in, such as a test's
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    lenient = Lenient(stream)
    setattr(sys, name, lenient)
    try:
        yield lenient
    finally:
        setattr(sys, name, stream)


def _open(stream: TextIO | None) -> TextIO:
    """`stream`, or in place of a closed one a file that swallows everything: libraries expect to find one."""
    return open(os.devnull, "w") if stream is None else stream  # noqa: PTH123 - it lives as long as the process
