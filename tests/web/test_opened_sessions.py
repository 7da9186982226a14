"""Handlers of an application's own, which use their session as the ORM's and do not close it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from sqlmodel import select

from hero_api.dependencies import ReadSession, WriteSession
from hero_api.models import Hero
from hero_api.testing import running
from hero_api.web.fast_route import FastRoute

HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}


async def reads(session: ReadSession) -> Response:
    await session.execute(select(Hero))
    return Response()


async def writes(session: WriteSession) -> Response:
    session.add(Hero(name="Rusty-Man", secret_name="Tommy Sharp"))
    await session.flush()
    return Response()


async def fails(session: WriteSession) -> Response:
    await writes(session)
    raise LookupError


async def streams(session: ReadSession) -> Response:
    await session.execute(select(Hero))

    async def names() -> AsyncIterator[str]:
        for hero in (await session.execute(select(Hero))).scalars():
            yield hero.name

    return StreamingResponse(names())


@pytest.fixture(params=[APIRoute, FastRoute])
def route(request: pytest.FixtureRequest) -> type[APIRoute]:
    kind: type[APIRoute] = request.param
    return kind


@pytest.mark.parametrize("handler", [reads, writes, fails, streams])
async def test_what_a_handler_has_opened_is_closed_after_its_response(
    app: FastAPI, route: type[APIRoute], handler: Callable[..., Awaitable[Response]]
) -> None:
    app.router.add_api_route("/own", handler, route_class_override=route)
    async with running(app, raise_app_exceptions=False) as client:
        await client.post("/heroes/", json=HERO)
        answer = await client.get("/own")
        assert answer.status_code == (500 if handler is fails else 200)
        assert answer.text == "Deadpond" or handler is not streams
        for engine in (app.state.database.reader, app.state.database.writer):
            assert not engine.pool.checkedout()
        assert (await client.post("/heroes/", json=HERO)).status_code == 200
        assert len((await client.get("/heroes/")).json()) == 2


async def test_each_session_is_closed_whatever_the_others_do(
    app: FastAPI, route: type[APIRoute]
) -> None:
    async def uses_two(first: ReadSession, second: WriteSession) -> Response:
        close = first.close

        async def close_and_fail() -> None:
            await close()
            raise ConnectionError

        await reads(first)
        first.close = close_and_fail  # type: ignore[method-assign]
        return await writes(second)

    app.router.add_api_route("/own", uses_two, route_class_override=route)
    async with running(app, raise_app_exceptions=False) as client:
        assert (await client.get("/own")).status_code == 200
        assert not app.state.database.writer.pool.checkedout()


async def test_what_a_handler_has_opened_is_closed_where_it_is_cancelled(
    app: FastAPI, route: type[APIRoute]
) -> None:
    has_written = asyncio.Event()

    async def waits(session: WriteSession) -> Response:
        await writes(session)
        has_written.set()
        await asyncio.Event().wait()
        return Response()

    app.router.add_api_route("/own", waits, route_class_override=route)
    async with running(app) as client:
        task = asyncio.create_task(client.get("/own"))
        await asyncio.wait_for(has_written.wait(), 5)
        task.cancel()
        await asyncio.wait([task])
        assert not app.state.database.writer.pool.checkedout()
