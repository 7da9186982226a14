"""The sessions of the application: an ORM's, though most of them only carry a call to its batch."""

import asyncio
import copy
from collections.abc import Sequence
from itertools import permutations

import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import async_object_session
from sqlmodel import select, update

from hero_api.batching import QueueSpec, batched
from hero_api.database.sessions import Database, ReadWriteSession
from hero_api.errors import TakenError
from hero_api.heroes import heroes
from hero_api.models import Hero, HeroCreate, HeroPage
from hero_api.testing import running

DEADPOND = HeroCreate(name="Deadpond", secret_name="Dive Wilson")


async def test_a_session_works_as_any_of_the_orm(app: FastAPI) -> None:
    async with running(app) as client:
        async with app.state.database.write_session() as session:
            hero = Hero(name="Deadpond", secret_name="Dive Wilson")
            session.add(hero)
            assert hero in session
            assert async_object_session(hero) == session
            await session.commit()
            await session.refresh(hero)
        async with app.state.database.read_session() as session:
            found = (await session.execute(select(Hero))).scalar_one()
            assert found.name == "Deadpond"
        assert (await client.get(f"/heroes/{hero.id}")).status_code == 200


async def test_a_session_has_what_its_class_has_and_no_more(app: FastAPI) -> None:
    async with running(app):
        session = app.state.database.read_session()
        assert not session.in_transaction()
        with pytest.raises(AttributeError, match="tenant"):
            _ = session.tenant
        with pytest.raises(AttributeError, match="tenant"):
            _ = copy.copy(session).tenant


async def test_what_a_handler_puts_into_its_info_its_events_find_and_no_other_session(
    app: FastAPI,
) -> None:
    async with running(app):
        session = app.state.database.read_session()
        session.info["user"] = "Deadpond"
        assert session.sync_session.info["user"] == "Deadpond"
        session.sync_session.info["role"] = "hero"
        assert session.info["role"] == "hero"
        assert app.state.database.read_session().info.keys().isdisjoint({"user", "role"})


async def test_who_leaves_and_closes_its_session_takes_nothing_from_the_others_of_its_batch(
    app: FastAPI,
) -> None:
    begun, go_on = asyncio.Queue[int](), asyncio.Queue[None]()

    async def create(session: ReadWriteSession, names: Sequence[str]) -> Sequence[str]:
        session.add_all(Hero(name=name, secret_name="Dive Wilson") for name in names)
        await session.flush()
        begun.put_nowait(len(names))
        await go_on.get()
        return names

    call = batched(create, QueueSpec("write", writes=True), name="create")

    async def start(name: str) -> None:
        async with app.state.database.write_session() as session:
            await call(session, name)

    async with running(app), asyncio.TaskGroup() as tasks:
        tasks.create_task(start("first"))
        assert await begun.get() == 1
        leaves, _ = [tasks.create_task(start(name)) for name in ("leaves", "stays")]
        go_on.put_nowait(None)
        assert await begun.get() == 2
        leaves.cancel()
        await asyncio.wait([leaves])
        go_on.put_nowait(None)
    async with running(app) as client:
        assert len((await client.get("/heroes/?name=stays")).json()) == 1


async def test_a_session_carries_several_calls_at_a_time(app: FastAPI) -> None:
    async with running(app):
        created = await heroes.create(app.state.database.write_session(), DEADPOND)
        async with app.state.database.read_session() as session:
            body, page = await asyncio.gather(
                heroes.get(session, created.id), heroes.list_page(session, HeroPage())
            )
        assert page.body == f"[{body}]"


async def test_a_get_on_a_session_that_writes_does_not_wait_for_who_writes(app: FastAPI) -> None:
    async with running(app):
        created = await heroes.create(app.state.database.write_session(), DEADPOND)
        async with app.state.database.write_session() as session:
            await session.execute(update(Hero).values(age=30))
            got = await asyncio.gather(
                *(heroes.get(app.state.database.write_session(), created.id) for _ in range(2))
            )
        assert got == [created.body] * 2


async def test_a_batch_knows_nothing_of_the_sessions_of_its_calls(app: FastAPI) -> None:
    class TenantSession(ReadWriteSession):
        def __init__(self, database: Database, tenant: str) -> None:
            super().__init__(database)
            self.info["tenant"] = tenant

    async def tenants(session: ReadWriteSession, names: Sequence[str]) -> Sequence[object]:
        return [session.info.get("tenant") for _ in names]

    call = batched(tenants, QueueSpec("write", writes=True), name="tenants")
    async with running(app):
        assert await call(TenantSession(app.state.database, "Shield"), "Deadpond") is None


async def test_what_a_handler_has_begun_is_committed_with_its_call(app: FastAPI) -> None:
    async with running(app):
        other = asyncio.create_task(_create(app.state.database.write_session()))
        async with app.state.database.write_session() as session:
            hero = Hero(name="Rusty-Man", secret_name="Tommy Sharp")
            session.add(hero)
            await session.flush()
            # On SQLite nobody else can write now.
            await asyncio.gather(_create(app.state.database.write_session()), _create(session))
            assert hero.name == "Rusty-Man"
        await other
        async with app.state.database.read_session() as session:
            assert len((await session.execute(select(Hero))).all()) == 4


async def test_what_a_handler_has_begun_is_not_committed_where_its_call_is_refused(
    app: FastAPI,
) -> None:
    async with running(app):
        created = await heroes.create(app.state.database.write_session(), DEADPOND)
        async with app.state.database.write_session() as session:
            session.add(Hero(name="Rusty-Man", secret_name="Tommy Sharp"))
            with pytest.raises(TakenError):
                await heroes.create(session, DEADPOND.model_copy(update={"id": created.id}))
        async with app.state.database.read_session() as session:
            assert len((await session.execute(select(Hero))).all()) == 1


async def test_a_handler_that_writes_by_itself_has_its_turn_among_batches(app: FastAPI) -> None:
    async def create_all_the_time() -> None:
        while True:
            await _create(app.state.database.write_session())

    async with running(app):
        creators = [asyncio.create_task(create_all_the_time()) for _ in range(4)]
        async with asyncio.timeout(5), app.state.database.write_session() as session:
            await _create(app.state.database.write_session())  # they are at it
            session.add(Hero(name="Rusty-Man", secret_name="Tommy Sharp"))
            await session.commit()
        for task in creators:
            task.cancel()
        await asyncio.wait(creators)


async def test_a_handler_that_is_cancelled_leaves_nothing_to_who_writes_next(app: FastAPI) -> None:
    async def write() -> None:
        async with app.state.database.write_session() as session:
            session.add(Hero(name="Rusty-Man", secret_name="Tommy Sharp"))
            await _create(session)

    async with running(app):
        for steps in range(20):
            task = asyncio.create_task(write())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await _create(app.state.database.write_session())


async def _create(session: ReadWriteSession) -> None:
    await heroes.create(session, DEADPOND)


@pytest.mark.sqlite
async def test_sqlite_prepares_no_statement_for_a_mixture_of_pages(app: FastAPI) -> None:
    """It would take longer than to run it."""
    kinds = [
        HeroPage(),
        HeroPage(name="?"),
        HeroPage(age=1),
        HeroPage(after=1),
        HeroPage(count=True),
    ]
    async with running(app), app.state.database.read_session() as session:
        for kind in kinds:
            await heroes.rows.list_many(session, [kind])
        statements = await heroes.rows.statements(session)
        compiled = statements.pages.cache_info().misses
        for mixture in permutations(kinds, 3):
            assert len(await heroes.rows.list_many(session, mixture)) == 3
        assert statements.pages.cache_info().misses == compiled
