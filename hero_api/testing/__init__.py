"""For async integration tests: an HTTP client on an application with its lifespan running."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI


@asynccontextmanager
async def running(
    app: FastAPI, *, raise_app_exceptions: bool = True
) -> AsyncIterator[httpx.AsyncClient]:
    """Run the lifespan of `app` (httpx alone does not), and yield a client on it.

    What a handler raises reaches the test; without `raise_app_exceptions` the client gets its 500.
    """
    transport = httpx.ASGITransport(app, raise_app_exceptions=raise_app_exceptions)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://hero-api") as client,
    ):
        yield client
