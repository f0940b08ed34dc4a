"""HTTP: one application object over a `Service`, for uvicorn and whatever else runs ASGI applications."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from runtime.bundle.manifest import Manifest
from runtime.errors import AudioLDM2Error
from runtime.server.fields import Limits
from runtime.server.handlers import Handlers
from runtime.server.metrics import Metrics
from runtime.server.model import Model
from runtime.server.page import routes as page_routes
from runtime.server.requests import Requests, client_gone, http_refusal, own_refusal
from runtime.server.service import Service


def create_app(
    service: Service,
    manifest: Manifest,
    *,
    model: str,
    limits: Limits | None = None,
    api_keys: Sequence[str] = (),
    cors_origins: Sequence[str] = (),
    jobs: bool = True,
) -> Starlette:
    """The application over a service, whose bundle has this manifest. It ends the service when it ends itself.

    `model` is the name that it tells and takes. With `api_keys`, whatever costs work needs one of them. Pages of
    `cors_origins` may use it from a browser, "*" for all; others may not. Without `jobs` it refuses
    `Prefer: respond-async`: the client's next request may come to another process, which does not know the job.
    """
    metrics = Metrics(service)
    handlers = Handlers(
        service,
        Model(model, manifest, limits or Limits()),
        metrics,
        api_keys=api_keys,
        cors_origins=cors_origins,
        jobs=jobs,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    middleware = [Middleware(Requests, metrics)]
    if cors_origins:
        exposed = ["X-Request-Id", "X-Seed", "X-Sample-Rate", "X-Audio-Duration", "X-Scores", "Server-Timing"]
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(cors_origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["Authorization", "Content-Type", "Prefer"],
                expose_headers=exposed,
            )
        )
    return Starlette(
        routes=_routes(handlers),
        middleware=middleware,
        exception_handlers={
            AudioLDM2Error: own_refusal,
            ClientDisconnect: client_gone,
            HTTPException: http_refusal,
        },
        lifespan=lifespan,
    )


def _routes(handlers: Handlers) -> list[Route]:
    return [
        *page_routes(),
        Route("/health", handlers.health),
        Route("/ready", handlers.ready),
        Route("/metrics", handlers.metrics),
        Route("/openapi.json", handlers.openapi),
        Route("/docs", handlers.docs),
        Route("/v1/models", handlers.models),
        Route("/v1/models/{model:path}", handlers.one_model),
        Route("/v1/audio/generate", handlers.generate, methods=["POST"]),
        Route("/v1/audio/speech", handlers.speech, methods=["POST"]),
        Route("/v1/audio/edit", handlers.edit, methods=["POST"]),
        Route("/v1/jobs/{job}", handlers.job, methods=["GET"]),
        Route("/v1/jobs/{job}", handlers.delete_job, methods=["DELETE"]),
        Route("/v1/jobs/{job}/result", handlers.job_result),
        Route("/", handlers.inputs, methods=["POST"]),
        Route("/models/{model:path}", handlers.inputs, methods=["POST"]),
    ]
