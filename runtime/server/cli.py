"""`trt-audioldm2-serve`: the service as a program."""

import argparse
import logging
import os
import socket
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING

from runtime.errors import AudioLDM2Error, InputError, MissingDependencyError
from runtime.flags import Parser, check_counts, number, numbers, whole
from runtime.install import install_command
from runtime.options import add_machine, pipeline_options
from runtime.wording import last_words

if TYPE_CHECKING:
    from runtime.server.service import Service

KEYS_VARIABLE = "TRT_AUDIOLDM2_API_KEY"


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal. Returns 0 after SIGTERM or Ctrl-C, 1 with one line on standard error where it cannot."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        return _serve(options)
    except (AudioLDM2Error, OSError) as error:
        print(f"error: {last_words(error)}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="trt-audioldm2-serve", description="Text to audio over HTTP, from one bundle.")
    add = parser.add_argument
    add("--engines", metavar="FOLDER", help="the bundle (default: $TRT_AUDIOLDM2_ENGINES, or the only one in engines/)")
    add("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s, this machine alone)")
    add("--port", type=whole, default=8000, help="0 takes a free one (default: %(default)s)")
    add_machine(add)
    add("--max-batch", type=whole, default=1, metavar="N", help="calls that run as one (default: %(default)s)")
    add("--batch-wait-ms", type=number, default=0.0, metavar="MS", help="for more calls to come (default: %(default)s)")
    add("--max-queue", type=whole, default=64, metavar="N", help="calls that wait (default: %(default)s)")
    add("--max-duration", type=number, default=60.0, metavar="SECONDS", help="of one call (default: %(default)s)")
    add("--max-steps", type=whole, default=200, metavar="N", help="of one call (default: %(default)s)")
    add(
        "--warm-up", type=numbers, metavar="SECONDS[,...]", help="durations to be ready for (default: the checkpoint's)"
    )
    add("--api-key", action="append", default=[], metavar="KEY", help=f"may be given again; or ${KEYS_VARIABLE}")
    add(
        "--drain-s",
        type=number,
        default=30.0,
        metavar="SECONDS",
        help="to finish calls at the end (default: %(default)s)",
    )
    return parser


def _serve(options: argparse.Namespace) -> int:
    try:
        import uvicorn

        from runtime.server.app import create_app
    except ImportError as error:
        raise MissingDependencyError(f"the service is not installed: {install_command('serve')}") from error
    from runtime.server.fields import Limits

    check_counts(options, "--threads", "--max-batch", "--max-queue", "--max-steps")
    listener = _listen(options.host, options.port)
    service, model = _open_service(options)
    keys = [*options.api_key, *filter(None, [os.environ.get(KEYS_VARIABLE)])]
    limits = Limits(max_duration_s=options.max_duration, max_steps=options.max_steps)
    app = create_app(service, model=model, limits=limits, api_keys=keys)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level=logging.WARNING,
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
    threading.Thread(target=_tell, args=(service, f"http://{host}:{port}"), daemon=True).start()
    Server(config).run(sockets=[listener])
    return 0


def _open_service(options: argparse.Namespace) -> "tuple[Service, str]":
    """The service over the bundle that is asked for, not yet started, and the model's name."""
    from runtime.bundle import Bundle, find_bundle, preferred_backend
    from runtime.pipeline import AudioLDM2Pipeline
    from runtime.server.service import Service

    bundle = Bundle.read(find_bundle(options.engines, os.environ, options.device))
    backend = options.backend or preferred_backend(bundle, os.environ)
    pipeline = AudioLDM2Pipeline(bundle, backend=backend, **pipeline_options(options))
    service = Service(
        pipeline,
        max_batch=options.max_batch,
        max_queue=options.max_queue,
        batch_wait_s=options.batch_wait_ms / 1000,
    )
    return service, bundle.folder.resolve().name


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket: a port in use is found before anything is loaded. Raises InputError."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}:{port}: {error}") from error


def _tell(service: "Service", address: str) -> None:
    while not service.is_ready:
        time.sleep(0.01)
    print(f"serving on {address}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
