"""`trt-audioldm2-serve`: the service as a program."""

import argparse
import os
import socket
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from runtime.bundle import Bundle, find_bundle, preferred_backend
from runtime.errors import AudioLDM2Error, InputError, MissingDependencyError
from runtime.flags import Parser, check_counts, number, numbers, whole
from runtime.install import install_command
from runtime.options import add_machine, pipeline_options
from runtime.server import log
from runtime.server.fields import Limits
from runtime.server.service import Service
from runtime.server.worker import Worker
from runtime.wording import last_words, one_line

KEYS_VARIABLE = "TRT_AUDIOLDM2_API_KEY"
PACKAGES = ("starlette", "uvicorn", "prometheus_client")  # what the extra `serve` brings
MAX_BATCH = 4  # for OpenVINO 1: it compiles for each number of rows and each length, and keeps two programs
LEVELS = ("debug", "info", "warning", "error")


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal. Returns 0 after SIGTERM or Ctrl-C, 1 with one line on standard error where it cannot."""
    options = _parser().parse_args(arguments)
    try:
        return _serve(options)
    except (AudioLDM2Error, OSError) as error:
        print(f"error: {last_words(error)}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="trt-audioldm2-serve", description="Text to audio over HTTP, from one bundle.")
    add, limits = parser.add_argument, Limits()
    add("--engines", metavar="FOLDER", help="the bundle (default: $TRT_AUDIOLDM2_ENGINES, or the only one in engines/)")
    add("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s, this machine alone)")
    add("--port", type=whole, default=8000, help="0 takes a free one (default: %(default)s)")
    add_machine(add)
    add("--warm-up", type=numbers, metavar="SECONDS[,...]", help="durations to be ready for (default: the model's)")
    add("--max-batch", type=whole, metavar="N", help=f"calls that run as one (default: {MAX_BATCH}, of openvino 1)")
    add("--batch-wait-ms", type=number, default=0.0, metavar="MS", help="for more calls to come (default: %(default)s)")
    add("--max-queue", type=whole, default=64, metavar="N", help="calls that wait (default: %(default)s)")
    of_one = "of one call (default: %(default)s)"
    add("--max-duration", type=number, default=limits.max_duration_s, metavar="SECONDS", help=of_one)
    add("--max-steps", type=whole, default=limits.max_steps, metavar="N", help=of_one)
    add("--max-waveforms", type=whole, default=limits.max_waveforms, metavar="N", help=of_one)
    keys = f"may be given again; or ${KEYS_VARIABLE}, which other users of the machine cannot see"
    add("--api-key", action="append", default=[], metavar="KEY", help=keys)
    add("--api-key-file", metavar="FILE", help="keys, one a line")
    pages = "whose pages may ask, such as https://example.org, or * (default: only the service's own)"
    add("--cors-origin", action="append", default=[], metavar="ORIGIN", help=pages)
    end = "to finish calls at the end (default: %(default)s)"
    add("--drain-s", type=number, default=30.0, metavar="SECONDS", help=end)
    add("--log-format", choices=log.FORMATS, default="text", help="of the lines on standard error")
    add("--log-level", choices=LEVELS, default="info", help="info: a line a request (default: %(default)s)")
    return parser


def _serve(options: argparse.Namespace) -> int:
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise MissingDependencyError(f"{missing[0]} is not installed: {install_command('serve')}")
    check_counts(options, "--threads", "--max-batch", "--max-queue", "--max-steps", "--max-waveforms")
    keys = _keys(options)
    listener = _listen(options.host, options.port)
    worker = _launch(options)
    try:
        _run(options, worker, keys, listener)
    finally:
        worker.close()
    return 0


def _run(options: argparse.Namespace, worker: Worker, keys: list[str], listener: socket.socket) -> None:
    import uvicorn  # after the worker was launched, which opens its pipeline meanwhile

    from runtime.server.app import create_app
    from runtime.server.protocol import Protocol, allow_many_files, watch_over

    allow_many_files()
    watch_over(listener)
    log.set_up_log(options.log_format, options.log_level)
    worker.opened()
    service = Service(
        worker,
        max_batch=options.max_batch or (1 if worker.backend == "openvino" else MAX_BATCH),
        max_queue=options.max_queue,
        batch_wait_s=options.batch_wait_ms / 1000,
    )
    app = create_app(
        service,
        worker.bundle.manifest,
        model=worker.bundle.folder.resolve().name,
        limits=Limits(
            max_duration_s=options.max_duration, max_steps=options.max_steps, max_waveforms=options.max_waveforms
        ),
        api_keys=keys,
        cors_origins=options.cors_origin,
    )
    config = uvicorn.Config(
        app,
        http=Protocol,
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(options.drain_s)),
    )

    class Server(uvicorn.Server):
        """A server that ends with status 0 after a signal, when it has finished what it has."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
            """The first signal: take nothing new. The second: end at once."""
            self.force_exit = self.should_exit
            self.should_exit = True
            service.drain(0)

    service.start(options.warm_up or [None])
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    threading.Thread(target=_tell, args=(service, address), daemon=True).start()
    Server(config).run(sockets=[listener])


def _launch(options: argparse.Namespace) -> Worker:
    """The process of the bundle's pipeline, which opens it from now on."""
    bundle = Bundle.read(find_bundle(options.engines, os.environ, options.device))
    backend = options.backend or preferred_backend(bundle, os.environ)
    logs = {"form": options.log_format, "level": options.log_level}
    worker = Worker(bundle, backend=backend, log=logs, **pipeline_options(options))
    worker.launch()
    return worker


def _keys(options: argparse.Namespace) -> list[str]:
    """All keys that are taken. Raises InputError for a file that cannot be read, or that holds none."""
    given = [*options.api_key, *filter(None, [os.environ.get(KEYS_VARIABLE)])]
    if options.api_key_file is None:
        return given
    try:
        lines = Path(options.api_key_file).read_text("utf-8").split("\n")
    except (OSError, UnicodeError) as error:
        raise InputError(f"--api-key-file cannot be read: {one_line(error)}") from error
    if not (found := [line.strip() for line in lines if line.strip()]):
        raise InputError(f"--api-key-file '{options.api_key_file}' holds no key")
    return [*given, *found]


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket: a port in use is found before anything is loaded. Raises InputError."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}:{port}: {error}") from error


def _tell(service: Service, address: str) -> None:
    while not service.is_ready:
        time.sleep(0.01)
    print(f"serving on {address}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
