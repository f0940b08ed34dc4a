"""A running service for tests, and what its sounds are compared with."""

import http.client
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from runtime import AudioLDM2Pipeline
from tests.unit.helpers import ROOT

SHORT: dict[str, Any] = {"num_inference_steps": 2, "audio_length": 0.64}
KEY = "a secret"
SERVE = (sys.executable, "-m", "runtime.server.cli")


class Server:
    """A running service, and requests to it."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.process = subprocess.Popen(
            [*SERVE, "--engines", str(folder), "--port", "0", "--log-level", "warning", *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("serving on http://127.0.0.1:"), self.process.communicate()
        self.port = int(line.rsplit(":", 1)[1])

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (in small letters) and body of an answer. A body that is no bytes is sent as JSON."""
        connection = self.connection()
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, {"Authorization": f"Bearer {KEY}", **(headers or {})})
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return found

    def generate(self, **fields: Any) -> tuple[int, dict[str, str], bytes]:
        return self.ask("POST", "/v1/audio/generate", {**SHORT, **fields})

    def stop(self) -> tuple[int, str]:
        """Exit status and standard error after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        error = self.process.communicate(timeout=30)[1]
        return self.process.returncode, error


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Server]:
    server = Server(folder, *flags)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


def alone(pipe: AudioLDM2Pipeline, prompt: str, seed: int, **more: Any) -> np.ndarray:
    """16-bit samples of a call of the pipeline's own."""
    return as_pcm(pipe(prompt, seed=seed, **{"num_inference_steps": 2, "audio_length_in_s": 0.64, **more}).audios[0])


def as_pcm(audio: np.ndarray) -> np.ndarray:
    """16-bit samples of a waveform, which is scaled down where it is too loud."""
    return np.round(audio / max(1.0, float(np.abs(audio).max())) * 32767).astype(np.int64)


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    assert np.abs(expected).max() > 300  # it can be heard
    return found.shape == expected.shape and bool(np.abs(found - expected).max() <= 2)


def samples(body: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(body), dtype="int16")[0].astype(np.int64)


def worker_of(server: Server) -> int:
    """The process id of the service's worker."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True)
    return int(found.stdout.split()[0])
