"""The servers that are measured, each in a process of its own on a free port of the loopback."""

import argparse
import os
import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import ProcessError, last_line
from export.demo import trained
from runtime.server.cli import KEYS_VARIABLE, MAX_BATCH

PLAIN, RIVAL, THEIRS = "ours, one at a time", "diffusers behind FastAPI", "the server"
BATCH_OF_A_STRANGER = 4  # calls that a server of the user's own may run as one: it is warmed up for so many
SERVING = "serving on "  # and the address: the line by which a server says that it is ready
END_S = 10.0  # that a server may take to end


@dataclass
class Subject:
    """A server. One without a command was started by the user."""

    name: str
    command: list[str] = field(default_factory=list)
    url: str = ""
    key: str | None = None
    flags: list[str] = field(default_factory=list)
    batch: int = 1  # calls that it may run as one
    process: subprocess.Popen[str] | None = None

    def start(self, log: Path) -> None:
        """Start the server and wait until it is ready. Raises ProcessError with its last words if it ends instead."""
        environment = {name: value for name, value in os.environ.items() if name != KEYS_VARIABLE}
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command], stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith(SERVING):
            self.stop()
            why = last_line(log.read_text(errors="replace"), self.process.returncode)
            raise ProcessError(f"{self.name} did not start: {why.removeprefix('error: ')}")
        self.url = line.removeprefix(SERVING).strip()

    def stop(self) -> None:
        """End the server's process, if this started one, and wait for it."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


def chosen(options: argparse.Namespace) -> list[Subject]:
    """The servers that take part, not yet started."""
    if options.url:
        return [Subject(THEIRS, url=options.url, key=options.api_key, batch=BATCH_OF_A_STRANGER)]
    subjects = [ours(options.engines, shlex.split(flags)) for flags in options.serve_flags or [""]]
    if options.overhead:
        return subjects[:1]
    if "plain" not in options.without:
        first = subjects[0].flags
        subjects.append(ours(options.engines, [*first, "--max-batch", "1"], PLAIN))  # the last of two counts
    if "rival" not in options.without:
        subjects.append(Subject(RIVAL, ["bench.serve.rival", str(checkpoint_folder(options.checkpoint))]))
    return subjects


def ours(engines: Path, flags: list[str], name: str | None = None) -> Subject:
    """Our server over a bundle, with flags of its own."""
    known = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False, add_help=False)
    known.add_argument("--max-batch", type=int, default=MAX_BATCH)
    try:
        batch = known.parse_known_args(flags)[0].max_batch
    except argparse.ArgumentError:  # the server says what is wrong with it
        batch = 1
    command = ["runtime.server.cli", "--engines", str(engines), "--port", "0", *flags]
    return Subject(name or " ".join(["ours", *flags]), command, flags=flags, batch=batch)


def checkpoint_folder(name: str) -> Path:
    """The folder of the rival's weights."""
    return trained() if name == "demo" else Path(name)


def listen() -> socket.socket:
    """A socket on a free port of the loopback, for a server in this process."""
    return socket.create_server(("127.0.0.1", 0))


def tell(listener: socket.socket) -> None:
    """Say on stdout that the server of this process is ready: see `Subject.start`."""
    host, port = listener.getsockname()[:2]
    print(f"{SERVING}http://{host}:{port}", flush=True)
