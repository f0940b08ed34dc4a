"""The service on many machines: an application for Ray Serve, each of whose replicas has a worker of its own.

Ray's proxies take the requests and spread them over the replicas; whatever waits beyond two batches a replica waits
with them. What a request means, and what it is answered, is decided by the same application as of trt-audioldm2-serve.
"""

import os
import time
from pathlib import Path
from typing import Annotated, Any

from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.bundle import Bundle, preferred_backend
from runtime.errors import InputError, MissingDependencyError
from runtime.flags import numbers
from runtime.install import install_command
from runtime.server.app import create_app
from runtime.server.cli import KEYS_VARIABLE
from runtime.server.fields import Limits
from runtime.server.service import Service
from runtime.server.worker import Worker

try:
    import ray
    from pydantic import BaseModel, ConfigDict, PositiveInt
    from pydantic.types import NonNegativeFloat, StringConstraints
    from ray import serve
    from ray.serve.config import BackpressureConfig
except ModuleNotFoundError as error:
    raise MissingDependencyError(f"{error.name} is not installed: {install_command('ray')}") from error

DEPLOYMENT = "audioldm2"  # its name in a config file
MOST_WAITING = 1024  # in a replica: Ray's max_ongoing_requests is what bounds it
BATCHES = 2  # a replica has at once: one runs, and one is made of what waits
MOST_QUEUED = 64  # requests that wait in one of Ray's proxies: more are answered by 429
RETRY_AFTER_S = 5.0
DRAIN_S = 60.0  # for a replica that is to end to finish its calls
HEALTH_S = 2.0  # between two of Ray's checks; the third that fails in a row ends a replica
LOOK_S = 0.05  # between two looks whether it is warm


class Settings(BaseModel):
    """The arguments of `build`: in the `args` of a config file, or behind `serve run` as name=value.

    `engines` is an absolute path that holds the bundle on every machine. `warm_up` are seconds with commas between.
    With `needs_key` a replica does not start where the variable TRT_AUDIOLDM2_API_KEY is missing: else it would answer
    everyone. `jobs` allows `Prefer: respond-async`; only one replica can have them, since they live in its memory.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    engines: Annotated[str, StringConstraints(pattern="^/")]
    model: str | None = None
    backend: str | None = None
    precision: str = "auto"
    low_memory: bool = False
    free_text: bool = False
    warm_up: str | None = None
    max_batch: PositiveInt = 1
    batch_wait_ms: NonNegativeFloat = 0.0
    max_duration: NonNegativeFloat = Limits().max_duration_s
    max_steps: PositiveInt = Limits().max_steps
    max_waveforms: PositiveInt = Limits().max_waveforms
    needs_key: bool = False
    jobs: bool = False

    @property
    def limits(self) -> Limits:
        """What one call may ask."""
        return Limits(max_duration_s=self.max_duration, max_steps=self.max_steps, max_waveforms=self.max_waveforms)


class Replica:
    """A worker, its service, and the application over it, in one of Ray's processes.

    Ray sends nothing before `__init__` is over. It ends the application, which ends the service, when what was begun
    is done.
    """

    def __init__(self, settings: Settings) -> None:
        """Wait until it is warm. Raises what keeps it from that."""
        key = os.environ.get(KEYS_VARIABLE)
        if settings.needs_key and not key:
            raise InputError(f"{KEYS_VARIABLE} is not set in this replica: set it where `ray start` runs")
        if settings.jobs and serve.get_replica_context().world_size > 1:
            raise InputError("jobs live in the memory of one replica: set num_replicas to 1, or jobs to false")
        self._settings, self._keys = settings, [key] if key else []
        self._bundle = Bundle.read(Path(settings.engines))
        self._service = Service(
            Worker(self._bundle, **_options(settings, self._bundle)),
            max_batch=settings.max_batch,
            max_queue=MOST_WAITING,
            batch_wait_s=settings.batch_wait_ms / 1000,
        )
        self._service.start(numbers(settings.warm_up) if settings.warm_up else [None])
        while not self._service.is_ready:
            if (failure := self._service.failure) is not None:
                self._service.close()
                raise failure
            time.sleep(LOOK_S)

    def __serve_build_asgi_app__(self) -> Starlette:  # Ray's name
        """The application, for Ray."""
        settings = self._settings
        app = create_app(
            self._service,
            self._bundle.manifest,
            model=settings.model or self._bundle.folder.resolve().name,
            limits=settings.limits,
            api_keys=self._keys,
            jobs=settings.jobs,
        )
        app.add_middleware(_OneId)
        return app

    def check_health(self) -> None:
        """Raises why the worker could not be started again, whereupon Ray puts another replica in the place of this."""
        if (failure := self._service.failure) is not None:
            raise failure


class _OneId:
    """ASGI middleware that leaves X-Request-Id to Ray, whose proxy gives every request one and tells it: not twice."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0].lower() != b"x-request-id"]
            await send(message)

        await self._app(scope, receive, send_without)


def build(settings: Settings) -> serve.Application:
    """The application that `serve run runtime.server.ray_app:build` and config files name."""
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=DEPLOYMENT,
        max_ongoing_requests=BATCHES * settings.max_batch,
        max_queued_requests=MOST_QUEUED,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        graceful_shutdown_timeout_s=DRAIN_S,
        health_check_period_s=HEALTH_S,
    )
    return deployment.bind(settings)


def _options(settings: Settings, bundle: Bundle) -> dict[str, Any]:
    """How the pipeline is opened: on the GPU that Ray gives to this replica, else on as many threads as cores."""
    given = ray.get_runtime_context().get_assigned_resources()
    return {
        "device": "cuda" if given.get("GPU") else "cpu",
        "threads": max(1, int(given.get("CPU", 1))),
        "backend": settings.backend or preferred_backend(bundle, os.environ),
        "precision": settings.precision,
        "low_memory": settings.low_memory,
        "free_text": settings.free_text,
    }
