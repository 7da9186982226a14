"""The application."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from itertools import chain
from operator import attrgetter

from fastapi import Depends, FastAPI
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline

from hero_api import routes
from hero_api.answers import EVERYWHERE, HEADERS, UNAUTHORIZED
from hero_api.batching import BatchQueues
from hero_api.database.sessions import open_database
from hero_api.errors import StartError
from hero_api.heroes import heroes
from hero_api.lines import MEDIA_TYPE
from hero_api.models import Invalid, Problem
from hero_api.settings import Settings
from hero_api.storage import AnyStorage
from hero_api.web import health
from hero_api.web.body_limit import BodyLimitMiddleware
from hero_api.web.cors import JSONCORSMiddleware
from hero_api.web.declared_query import DeclaredQuery
from hero_api.web.exception_handlers import add_exception_handlers
from hero_api.web.fast_route import FastRoutesMiddleware
from hero_api.web.head import HeadMiddleware
from hero_api.web.metrics import Metrics, add_metrics
from hero_api.web.openapi import complete_document
from hero_api.web.opened_sessions import CloseSessionsMiddleware
from hero_api.web.prefix import PrefixMiddleware, RedirectSlashes

_NO_TELEMETRY = TelemetryConfig(tracing=False, metrics=False, logs=False)


def create_app(
    settings: Settings | None = None, *, storages: Sequence[AnyStorage] = (heroes,)
) -> FastAPI:
    """Make an application of its own; without `settings`, those of the environment.

    The tables of its `storages` are made where they are not there, and watched by `/readyz`.
    """
    settings = settings or Settings.from_environment()
    app = FastAPIOffline(  # whose documentation pages need no network
        title="Hero API",
        version=version("hero-api"),
        generate_unique_id_function=attrgetter("name"),
        servers=[{"url": settings.root_path or "/"}],
        lifespan=_lifespan,
        telemetry=None if settings.telemetry else _NO_TELEMETRY,
        responses=EVERYWHERE | (UNAUTHORIZED if settings.token else {}),
        swagger_ui_oauth2_redirect_url="",
    )
    # Nobody signs in by OAuth2: the page for it goes, which the documentation names without prefix.
    app.routes[:] = documentation = [each for each in app.routes if getattr(each, "path", None)]
    app.state.settings = settings
    app.state.storages = storages
    # FastAPI reports how it solved the dependencies of a request only where it serves it.
    if not settings.telemetry:
        app.add_middleware(FastRoutesMiddleware)
    app.add_middleware(CloseSessionsMiddleware)
    app.add_middleware(
        BodyLimitMiddleware,
        max_body_size=settings.max_body_size,
        by_type={MEDIA_TYPE: settings.max_lines_size},
    )
    if settings.cors_origins:
        app.add_middleware(
            JSONCORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[*HEADERS],
        )
    app.router.default = RedirectSlashes(app.router.default)
    app.router.redirect_slashes = False
    complete_document(app, [Invalid, Problem])
    add_exception_handlers(app)
    declared_query = Depends(DeclaredQuery())
    routes.add_routes(app, settings, declared_query)
    app.router.dependencies.append(declared_query)
    health.add_routes(app)
    add_metrics(app)
    # These two pass on a copy of the scope: the middlewares around them do not learn the route.
    app.add_middleware(HeadMiddleware)
    if settings.root_path:
        app.add_middleware(PrefixMiddleware, prefix=settings.root_path)
    # A request is matched against the routes in order: what is asked most comes first.
    app.routes.sort(key=documentation.__contains__)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise StartError("The service runs on asyncio alone, and not on trio") from None
    settings: Settings = app.state.settings
    queues = BatchQueues(
        timeout=settings.request_timeout,
        readers=settings.read_connections,
        in_turn=not settings.is_postgresql,
    )
    tables = [storage.table for storage in app.state.storages]
    # Every series of the metrics is there from the start.
    metrics: Metrics = app.state.metrics
    metrics.requests.expect(app.routes)
    for spec in chain.from_iterable(storage.queues for storage in app.state.storages):
        queues.queue(spec)
    async with open_database(settings, queues.info, tables) as database:
        # On app.state, since what a lifespan yields does not exist under httpx's ASGITransport.
        app.state.queues = queues
        app.state.database = database
        app.state.draining = False
        try:
            yield
        finally:
            await queues.close()
