"""The application."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.telemetry import TelemetryConfig

from hero_api import routes
from hero_api.batching import BatchQueues
from hero_api.database.sessions import open_database
from hero_api.heroes import heroes
from hero_api.models import Problem
from hero_api.settings import Settings
from hero_api.storage import AnyStorage
from hero_api.web import operations
from hero_api.web.body_limit import BodyLimitMiddleware
from hero_api.web.exception_handlers import add_exception_handlers

_EVERYWHERE = {
    400: "The body cannot be parsed",
    401: "The token is missing or wrong",
    413: "The body is too large",
    500: "A stored hero is damaged, or an error that the log has",
    503: "The database is not available now; `detail` says whether anything was done",
    507: "The database has no room left",
}
_NO_TELEMETRY = TelemetryConfig(tracing=False, metrics=False, logs=False)


def create_app(
    settings: Settings | None = None, *, storages: Sequence[AnyStorage] = (heroes,)
) -> FastAPI:
    """Make an application of its own; without `settings`, those of the environment.

    The tables of its `storages` are made where they are not there, and watched by `/readyz`.
    """
    settings = settings or Settings.from_environment()
    app = FastAPI(
        title="Hero API",
        lifespan=_lifespan,
        telemetry=None if settings.telemetry else _NO_TELEMETRY,
        responses={
            status: {"model": Problem, "description": description}
            for status, description in _EVERYWHERE.items()
            if status != 401 or settings.token  # noqa: PLR2004
        },
    )
    app.state.settings = settings
    app.state.storages = storages
    app.state.cheap_requests = routes.CHEAP
    app.add_middleware(BodyLimitMiddleware, max_body_size=settings.max_body_size)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[
                "ETag",
                "Idempotent-Replayed",
                "Link",
                "Location",
                "Retry-After",
                "X-Request-ID",
                "X-Total-Count",
            ],
        )
    add_exception_handlers(app)
    documentation = app.routes[:]
    routes.add_routes(app, settings)
    operations.add_routes(app)
    # A request is matched against the routes in order: what is asked most comes first.
    app.routes.sort(key=documentation.__contains__)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    queues = BatchQueues(
        max_waiting=settings.max_waiting,
        timeout=settings.request_timeout,
        readers=settings.read_connections,
    )
    tables = [storage.table for storage in app.state.storages]
    async with open_database(settings, queues.info, tables) as database:
        # On app.state, since what a lifespan yields does not exist under httpx's ASGITransport.
        app.state.queues = queues
        app.state.database = database
        app.state.draining = False
        try:
            yield
        finally:
            await queues.close()
