"""One bundle in a process of its own, so that its start and its memory are its own too."""

import multiprocessing
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from runtime.errors import AudioLDM2Error, EngineError
from runtime.wording import one_line

Answer = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """What is measured: a bundle's folder, and what opens it (see `AudioLDM2Pipeline.from_pretrained`)."""

    folder: str
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """How tables call it: the folder's name, and the backend that was asked for."""
        backend = self.options.get("backend", "auto")
        return Path(self.folder).name + ("" if backend == "auto" else f" {backend}")


class Subject:
    """The other end of a process that has opened a bundle and makes sounds when it is told to.

    Raises the process's own AudioLDM2Error, or EngineError where it has died, with its exit status.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        context = multiprocessing.get_context("spawn")  # nothing of this process is in the other
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, setup), daemon=True)
        self._started = time.perf_counter()
        self._process.start()
        theirs.close()
        try:
            self._answer()
            self.ready_s = self.since_start_s()
        except BaseException:
            self.close()
            raise

    def render(self, arguments: Mapping[str, Any]) -> Answer:
        """Make one sound: `seconds`, seconds by stage in `timings`, `audio_s` of each waveform, and `label`."""
        return self._answer_to(dict(arguments))

    def since_start_s(self) -> float:
        """Seconds since the process was started."""
        return time.perf_counter() - self._started

    def peak_bytes(self) -> int | None:
        """The most memory that the process has had so far; None where that is not known."""
        peak: int | None = self._answer_to(None)["peak_bytes"]
        return peak

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._connection.close()
        self._process.terminate()
        self._process.join()

    def _answer_to(self, asked: Mapping[str, Any] | None) -> Answer:
        with suppress(OSError):  # it has died: reading says how
            self._connection.send(asked)
        return self._answer()

    def _answer(self) -> Answer:
        try:
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise EngineError(f"{self.setup.name}: its process ended with {self._process.exitcode}") from error
        if isinstance(answer, AudioLDM2Error):
            raise answer
        return dict(answer)


def _serve(connection: Connection, setup: Setup) -> None:
    """Answer until the other end closes."""
    from runtime.pipeline import AudioLDM2Pipeline  # part of what a start takes

    opened: list[AudioLDM2Pipeline] = []

    def answer(asked: Mapping[str, Any] | None) -> Answer:
        if not opened:
            opened.append(AudioLDM2Pipeline.from_pretrained(setup.folder, **setup.options))
            return {}
        if asked is None:
            return {"peak_bytes": _peak_bytes()}
        start = time.perf_counter()
        output = opened[0](**asked)
        seconds, audio_s = time.perf_counter() - start, output.audios.shape[1] / output.sampling_rate
        return {"seconds": seconds, "timings": dict(output.timings), "audio_s": audio_s, "label": opened[0].label}

    asked: Mapping[str, Any] | None = None
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            try:
                told: Answer | AudioLDM2Error = answer(asked)
            except AudioLDM2Error as error:
                told = error
            except Exception as error:  # whatever a library raises: it need not be one that the other side can read
                told = EngineError(one_line(error))
            connection.send(told)
            asked = connection.recv()


def _peak_bytes() -> int | None:
    """The most resident memory of this process: of this program alone, where Linux tells."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    with suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None
