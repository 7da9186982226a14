import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import StaticPool, inspect
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlmodel import Session
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession

from hero_api.app import create_app
from hero_api.dependencies import get_read_session, get_write_session
from hero_api.models import Hero
from hero_api.settings import Settings
from hero_api.testing import running

DEADPOND = {"name": "Deadpond", "secret_name": "Dive Wilson"}


@pytest.fixture
async def engine() -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    async with engine.begin() as connection:
        await connection.run_sync(Hero.metadata.create_all)
    yield engine
    await engine.dispose()


@pytest.fixture(params=[True, False], ids=["expires", "keeps"])
def expires(request: pytest.FixtureRequest) -> bool:
    """Say whether the test's session expires its objects on its own commits."""
    expires: bool = request.param
    return expires


@pytest.fixture(params=[AsyncSession, SQLModelSession], ids=["sqlalchemy", "sqlmodel"])
async def session(
    engine: AsyncEngine, request: pytest.FixtureRequest, *, expires: bool
) -> AsyncIterator[AsyncSession]:
    async with request.param(engine, expire_on_commit=expires) as session:
        yield session


@pytest.fixture
async def hero(session: AsyncSession) -> Hero:
    """Return a hero that the test has stored, and holds."""
    hero = Hero(name="Zoë", age=30, secret_name="?")
    session.add(hero)
    await session.commit()
    await session.refresh(hero)
    return hero


@pytest.fixture
def overridden(app: FastAPI, session: AsyncSession) -> FastAPI:
    app.dependency_overrides[get_read_session] = lambda: session
    app.dependency_overrides[get_write_session] = lambda: session
    return app


@pytest.fixture
async def on_session(overridden: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with running(overridden) as client:
        yield client


# A client on an application of its own


async def test_an_application_runs_again_after_it_ended(app: FastAPI) -> None:
    async with running(app) as client:
        created = await client.post("/heroes/", json=DEADPOND)
    async with running(app) as client:
        assert (await client.get("/heroes/")).json() == [created.json()]


async def test_what_a_test_raises_leaves_the_client_as_it_is(app: FastAPI) -> None:
    with pytest.raises(LookupError):
        async with running(app):
            raise LookupError


async def test_two_applications_in_one_process_never_meet(tmp_path: Path) -> None:
    first = create_app(Settings(database_url=f"sqlite:///{tmp_path}/first.db"))
    second = create_app(Settings(database_url=f"sqlite:///{tmp_path}/second.db"))
    async with running(first) as one, running(second) as other:
        await asyncio.gather(
            *(client.post("/heroes/", json=DEADPOND) for client in [one, other, one] * 10)
        )
        assert len((await one.get("/heroes/")).json()) == 20
        assert len((await other.get("/heroes/")).json()) == 10


# A session of the test's own


async def test_what_the_api_writes_is_seen_on_the_tests_session(
    on_session: httpx.AsyncClient, session: AsyncSession
) -> None:
    created = (await on_session.post("/heroes/", json=DEADPOND)).json()
    hero = await session.get(Hero, created["id"])
    assert hero is not None
    assert hero.model_dump() == created


async def test_what_the_api_writes_is_committed(
    on_session: httpx.AsyncClient, session: AsyncSession
) -> None:
    await on_session.post("/heroes/", json=DEADPOND)
    assert not session.in_transaction()
    await session.rollback()
    assert len((await on_session.get("/heroes/")).json()) == 1


async def test_what_the_test_committed_is_served(
    on_session: httpx.AsyncClient, session: AsyncSession
) -> None:
    session.add(Hero(name="Zoë", age=30, secret_name="?"))
    await session.commit()
    hero = {"id": 1, "name": "Zoë", "age": 30, "secret_name": "?"}
    assert (await on_session.get("/heroes/1")).json() == hero
    assert (await on_session.get("/heroes/")).json() == [hero]


async def test_what_the_test_added_and_did_not_commit_is_served(
    on_session: httpx.AsyncClient, session: AsyncSession
) -> None:
    session.add(Hero(name="Zoë", secret_name="?"))
    assert (await on_session.get("/heroes/1")).json()["name"] == "Zoë"


async def test_the_tests_session_is_still_usable_after_every_handler(
    on_session: httpx.AsyncClient, session: AsyncSession
) -> None:
    await on_session.post("/heroes/", json=DEADPOND)
    await on_session.patch("/heroes/1", json={"age": 31})
    await on_session.get("/heroes/")
    await on_session.get("/heroes/?count=true")
    session.add(Hero(name="Zoë", secret_name="?"))
    await session.commit()
    await on_session.delete("/heroes/1")
    assert await session.get(Hero, 1) is None
    assert await session.get(Hero, 2) is not None


async def test_a_change_of_the_api_is_seen_in_the_tests_object(
    on_session: httpx.AsyncClient, hero: Hero
) -> None:
    await on_session.patch("/heroes/1", json={"age": 31})
    assert (hero.id, hero.name, hero.age) == (1, "Zoë", 31)


async def test_what_the_api_deletes_is_gone_from_the_tests_session(
    on_session: httpx.AsyncClient, session: AsyncSession, hero: Hero
) -> None:
    await on_session.delete("/heroes/1")
    assert hero not in session
    assert hero.name == "Zoë"
    assert await session.get(Hero, 1) is None


async def test_a_read_leaves_the_tests_object_as_it_is(
    on_session: httpx.AsyncClient, hero: Hero
) -> None:
    assert (await on_session.get("/heroes/1")).json() == hero.model_dump()
    assert (await on_session.get("/heroes/")).json() == [hero.model_dump()]


async def test_a_read_does_not_commit_what_the_test_may_still_take_back(
    on_session: httpx.AsyncClient, session: AsyncSession
) -> None:
    session.add(Hero(name="Zoë", secret_name="?"))
    assert (await on_session.get("/heroes/1")).status_code == 200
    await session.rollback()
    assert (await on_session.get("/heroes/1")).status_code == 404


async def test_a_session_expires_its_objects_afterwards_as_it_did_before(
    on_session: httpx.AsyncClient, session: AsyncSession, hero: Hero, *, expires: bool
) -> None:
    await on_session.patch("/heroes/1", json={"age": 31})
    await session.commit()
    assert inspect(hero).expired == expires


async def test_a_service_with_an_overridden_session_is_ready(
    on_session: httpx.AsyncClient,
) -> None:
    assert (await on_session.get("/readyz")).status_code == 200


async def test_calls_on_the_tests_session_wait_for_each_other(
    on_session: httpx.AsyncClient, hero: Hero
) -> None:
    creates = (on_session.post("/heroes/", json=DEADPOND) for _ in range(20))
    patches = (on_session.patch("/heroes/1", json={"age": age}) for age in range(20))
    answers = await asyncio.gather(*creates, *patches, on_session.get("/heroes/"))
    assert [answer.status_code for answer in answers] == [200] * 41
    assert {answer.json()["id"] for answer in answers[:20]} == {*range(2, 22)}
    assert hero.age == (await on_session.get("/heroes/1")).json()["age"]


async def test_a_call_that_is_refused_does_not_disturb_those_that_wait(
    on_session: httpx.AsyncClient,
) -> None:
    heroes = [DEADPOND | {"id": number} for number in (1, 1, 2, 2, 3)]
    answers = await asyncio.gather(*(on_session.post("/heroes/", json=hero) for hero in heroes))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 409, 409]
    assert len((await on_session.get("/heroes/")).json()) == 3


@pytest.mark.sqlite
@pytest.mark.parametrize("wrong", [Session(), None, "session"], ids=["Session", "NoneType", "str"])
async def test_an_override_that_is_no_async_session_is_told_so(app: FastAPI, wrong: object) -> None:
    app.dependency_overrides[get_read_session] = lambda: wrong
    async with running(app) as client:
        answer = await client.get("/heroes/1")
    assert answer.status_code == 500
    detail = answer.json()["detail"]
    assert f"overridden with a {type(wrong).__name__}: override it with an AsyncSession" in detail


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_a_hero_that_is_not_on_the_tests_session_is_not_found(
    on_session: httpx.AsyncClient, method: str
) -> None:
    response = await on_session.request(method, "/heroes/1", json={"age": 1})
    assert response.status_code == 404


async def test_a_taken_id_is_a_conflict_on_the_tests_session_too(
    on_session: httpx.AsyncClient, session: AsyncSession
) -> None:
    hero = Hero(id=7, name="Zoë", secret_name="?")
    session.add(hero)
    await session.commit()
    assert (await on_session.post("/heroes/", json={"id": 7} | DEADPOND)).status_code == 409
    await session.refresh(hero)
    assert hero.name == "Zoë"


async def test_the_applications_own_database_is_not_touched(
    overridden: FastAPI, settings: Settings
) -> None:
    async with running(overridden) as client:
        await client.post("/heroes/", json=DEADPOND)
    async with running(create_app(settings)) as client:
        assert (await client.get("/heroes/")).json() == []
