"""What SQLModel's tutorial tests of its FastAPI application, on one session in memory.

After sqlmodel.tiangolo.com/tutorial/fastapi/tests. The session is asynchronous, which makes one
difference: an object that the test has committed is refreshed before the test looks at it.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import StaticPool
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from hero_api.app import create_app
from hero_api.dependencies import get_read_session, get_write_session
from hero_api.models import Hero
from hero_api.settings import Settings
from hero_api.testing import running


@pytest.fixture
async def session() -> AsyncIterator[AsyncSession]:
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


@pytest.fixture
async def client(session: AsyncSession, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(database_url=f"sqlite:///{tmp_path}/heroes.db"))
    app.dependency_overrides[get_read_session] = lambda: session
    app.dependency_overrides[get_write_session] = lambda: session
    async with running(app) as client:
        yield client


async def store(session: AsyncSession, *heroes: Hero) -> None:
    session.add_all(heroes)
    await session.commit()
    for hero in heroes:
        await session.refresh(hero)


async def test_a_hero_is_created(client: httpx.AsyncClient) -> None:
    answer = await client.post("/heroes/", json={"name": "Deadpond", "secret_name": "Dive Wilson"})
    assert answer.status_code == 200
    hero = answer.json()
    assert (hero["name"], hero["secret_name"]) == ("Deadpond", "Dive Wilson")
    assert hero["age"] is None
    assert hero["id"] is not None


async def test_a_hero_without_a_secret_name_is_refused(client: httpx.AsyncClient) -> None:
    assert (await client.post("/heroes/", json={"name": "Deadpond"})).status_code == 422


async def test_a_hero_whose_secret_name_is_an_object_is_refused(client: httpx.AsyncClient) -> None:
    hero = {"name": "Deadpond", "secret_name": {"message": "Do you wanna know my secret identity?"}}
    assert (await client.post("/heroes/", json=hero)).status_code == 422


async def test_heroes_are_listed(session: AsyncSession, client: httpx.AsyncClient) -> None:
    first = Hero(name="Deadpond", secret_name="Dive Wilson")
    second = Hero(name="Rusty-Man", secret_name="Tommy Sharp", age=48)
    await store(session, first, second)
    answer = await client.get("/heroes/")
    assert answer.status_code == 200
    assert answer.json() == [first.model_dump(), second.model_dump()]


async def test_a_hero_is_read(session: AsyncSession, client: httpx.AsyncClient) -> None:
    hero = Hero(name="Deadpond", secret_name="Dive Wilson")
    await store(session, hero)
    answer = await client.get(f"/heroes/{hero.id}")
    assert answer.status_code == 200
    assert answer.json() == hero.model_dump()


async def test_a_hero_is_updated(session: AsyncSession, client: httpx.AsyncClient) -> None:
    hero = Hero(name="Deadpond", secret_name="Dive Wilson")
    await store(session, hero)
    answer = await client.patch(f"/heroes/{hero.id}", json={"name": "Deadpuddle"})
    assert answer.status_code == 200
    assert answer.json() == hero.model_dump()
    assert hero.model_dump(exclude={"id"}) == {
        "name": "Deadpuddle",
        "secret_name": "Dive Wilson",
        "age": None,
    }


async def test_a_hero_is_deleted(session: AsyncSession, client: httpx.AsyncClient) -> None:
    hero = Hero(name="Deadpond", secret_name="Dive Wilson")
    await store(session, hero)
    answer = await client.delete(f"/heroes/{hero.id}")
    assert answer.status_code == 200
    assert await session.get(Hero, hero.id) is None
