"""The HTTP app: plain FastAPI over `Services`, ignorant of Ray."""

import importlib.metadata
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from serve_app.api import analyses, analyze, chat, docs, events, files, health, metrics, page, stats, uploads
from serve_app.api.access import show_role
from serve_app.api.admission import Admission, Kind
from serve_app.api.bodies import SmallBodies
from serve_app.api.drain import InFlight
from serve_app.api.errors import ErrorAnswer, add_error_handlers
from serve_app.api.hosts import KnownHosts
from serve_app.api.request_log import RequestLog
from serve_app.services import Services
from serve_app.settings import AdmissionSettings

ROUTERS = (
    # Routes are tried in turn: what is polled comes first.
    analyses.router,
    health.router,
    files.router,
    uploads.router,
    analyze.router,
    events.router,
    chat.router,
    stats.router,
    metrics.router,
    page.router,
    docs.router,
)


def create_app(
    services: Services, *, admission: AdmissionSettings | None = None, behind_proxy: bool = False
) -> FastAPI:
    """Return the app; its routes speak to `services` and to nothing else.

    Serve's proxy puts X-Request-ID on every answer by itself, so `behind_proxy` leaves that header to it.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with services.running():
            yield

    app = FastAPI(
        lifespan=lifespan,
        docs_url=None,  # docs.py
        redoc_url=None,
        title="Vidray",
        version=importlib.metadata.version("vidray"),
        summary="Self-hosted video understanding on Ray",
        responses={status: {"model": ErrorAnswer} for status in (400, 403, 422, 500, 503)},
    )
    app.state.services = services
    app.state.routers = ROUTERS
    app.state.metrics = metrics.HttpMetrics()
    app.state.under_way = Counter[Kind]()
    # The last one added sees a request first.
    app.add_middleware(SmallBodies)
    app.add_middleware(Admission, settings=admission or AdmissionSettings(), under_way=app.state.under_way)
    app.add_middleware(KnownHosts, names=services.host_names)
    app.add_middleware(InFlight, draining=services.draining)
    app.add_middleware(RequestLog, behind_proxy=behind_proxy, metrics=app.state.metrics)
    add_error_handlers(app)
    for router in ROUTERS:
        show_role(router)
        app.include_router(router)
    return app
