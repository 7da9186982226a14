"""`python -m tests.benchmarks.layers`: what of a get is spent in which layer, in one process."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import typer
import uvloop
from fastapi import FastAPI, Response

from hero_api.app import create_app
from hero_api.heroes import heroes
from hero_api.models import HeroCreate
from hero_api.settings import Settings
from hero_api.web.fast_route import FastRoute, FastRoutesMiddleware
from hero_api.web.tagged_response import TaggedJSON

_HEROES = 1_000
_CALLERS = 64
_GETS = 30  # of each caller in a round
_ROUNDS = 9

Ask = Callable[[int], Awaitable[Any]]


def measure() -> None:
    """Ask from the outermost layer, from each below it, and so on: CPU time, and the difference."""
    uvloop.run(_measure())


async def _measure() -> None:
    with tempfile.TemporaryDirectory(prefix="hero-layers-") as directory:
        app = create_app(Settings(database_url=f"sqlite:///{directory}/heroes.db"))
        async with app.router.lifespan_context(app):
            session = app.state.database.write_session()
            hero = HeroCreate(name="Deadpond", secret_name="Dive Wilson", age=30)
            await asyncio.gather(*(heroes.create(session, hero) for _ in range(_HEROES)))
            await app(_scope(app, 1), _receive, _send)  # the layers are made by the first request
            asks = dict(_layers(app))
            seconds: dict[str, list[float]] = {name: [] for name in asks}
            for _ in range(_ROUNDS):
                for name, ask in asks.items():
                    seconds[name].append(await _time(ask))
    previous = None
    for name, each in seconds.items():
        took = median(each) * 1_000_000
        less = f"{previous - took:8.1f} less" if previous else ""
        typer.echo(f"{name:28}{took:8.1f} µs{less}")
        previous = took


def _layers(app: FastAPI) -> Iterator[tuple[str, Ask]]:
    layer: Any = app
    while True:
        yield type(layer).__name__, partial(_ask, layer, app)
        if isinstance(layer, FastRoutesMiddleware):
            break
        layer = app.middleware_stack if layer is app else layer.app
    [route] = [each for each in app.routes if getattr(each, "name", "") == "read_hero"]
    assert isinstance(route, FastRoute)

    async def ask_route(number: int) -> None:
        scope = _scope(app, number)
        scope |= route.matches(scope)[1]
        await route.serve(scope, _receive, _send, app)

    async def read(number: int) -> str:
        return await heroes.get(app.state.database.read_session(), number)

    async def read_and_tag(number: int) -> None:
        TaggedJSON(await read(number))

    async def read_and_answer(number: int) -> None:
        Response(await read(number), media_type="application/json")

    yield "the route", ask_route
    yield "a hero, and its answer", read_and_tag
    yield "... without a tag", read_and_answer
    yield "a hero", read


async def _ask(layer: Any, app: FastAPI, number: int) -> None:  # noqa: ANN401 - an ASGI application
    await layer(_scope(app, number), _receive, _send)


async def _time(ask: Ask) -> float:
    async def call() -> None:
        for number in range(1, _GETS + 1):
            await ask(number)

    begun = time.process_time()
    await asyncio.gather(*(call() for _ in range(_CALLERS)))
    return (time.process_time() - begun) / (_CALLERS * _GETS)


def _scope(app: FastAPI, number: int) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": f"/heroes/{number}",
        "raw_path": b"/heroes/%d" % number,
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8_000),
        "state": {},
        "app": app,
        "router": app.router,
    }


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(_message: Any) -> None:  # noqa: ANN401 - ASGI's
    pass


if __name__ == "__main__":
    typer.run(measure)
