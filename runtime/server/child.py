"""The process of a `Worker`: it reads calls from its standard input and answers on its standard output."""

import os
import pickle
import signal
import sys
import threading
from dataclasses import replace
from itertools import count
from queue import SimpleQueue
from typing import Any, BinaryIO

from runtime.backends.device import Array
from runtime.bundle import Bundle
from runtime.errors import AudioLDM2Error, EngineError
from runtime.output import AudioOutput
from runtime.pipeline import AudioLDM2Pipeline
from runtime.request import Request
from runtime.server.log import set_up_log
from runtime.server.worker import StoppedError
from runtime.wording import one_line


class _Child:
    """The calls of one pipeline, one after the other, while a thread listens for the word to stop one."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._asked: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self._stopped = 0  # the number of the last call that is not wanted any more
        threading.Thread(target=self._listen, daemon=True).start()

    def run(self) -> None:
        folder, options, log = self._asked.get()
        set_up_log(**log)
        self._answer(self._open, folder, options)
        while True:
            name, *values = self._asked.get()
            self._answer(getattr(self, name), *values)

    def _listen(self) -> None:
        """Take what comes. When nothing more can come, nobody is there for an answer either: end at once."""
        try:
            while True:
                message = pickle.load(sys.stdin.buffer)
                if message[0] == "stop":
                    self._stopped = message[1]
                else:
                    self._asked.put(message)
        except BaseException:
            os._exit(0)

    def _answer(self, function: Any, *values: Any) -> None:
        try:
            self._tell("done", function(*values))
        except AudioLDM2Error as error:
            self._tell("failed", error)
        except Exception as error:  # whatever a library raises: it need not be one that the other side can read
            self._tell("failed", EngineError(one_line(error)))

    def _tell(self, kind: str, value: object) -> None:
        pickle.dump((kind, value), self._out)
        self._out.flush()

    def _open(self, folder: str, options: dict[str, Any]) -> tuple[int | None, str | None]:
        bundle = Bundle.read(folder)
        self._pipeline = AudioLDM2Pipeline(bundle, **options)
        return self._pipeline.engines.free_bytes(), self._pipeline.engines.backend

    def warm_up(self, duration_s: float | None, rows: int) -> int | None:
        self._pipeline.warm_up(duration_s, rows=rows)
        return self._pipeline.engines.free_bytes()

    def render(self, number: int, request: Request, steps: bool, audio: bool) -> tuple[AudioOutput, int | None]:
        def go_on() -> None:
            if self._stopped >= number:
                raise StoppedError("the call was stopped")

        told = count(1)  # the callback's own number begins later for schedulers that warm up

        def step(*_: object) -> None:
            go_on()
            if steps:
                self._tell("step", next(told))

        def hear(part: Array) -> None:
            go_on()
            self._tell("audio", part)

        request = replace(request, callback=step, audio_callback=hear if audio else None)
        return self._pipeline.render(request), self._pipeline.engines.free_bytes()


def main() -> None:
    """Serve the process that started this one, until it ends. Signals are its business."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get among the answers
    _Child(out).run()


if __name__ == "__main__":
    main()
