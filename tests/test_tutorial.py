import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from hero_api.app import create_app
from hero_api.database.keys import KEYS
from hero_api.settings import Settings
from hero_api.testing import running

PROGRAM = """
from sqlmodel import Field, Session, SQLModel, create_engine

class Hero(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(index=True)
    age: int | None = Field(default=None, index=True)
    secret_name: str

sqlite_file_name = "database.db"
sqlite_url = f"sqlite:///{sqlite_file_name}"

connect_args = {"check_same_thread": False}
engine = create_engine(sqlite_url, connect_args=connect_args)

SQLModel.metadata.create_all(engine)
with Session(engine) as session:
    session.add(Hero(id=0, name="Zero", secret_name="Nobody"))
    session.add(Hero(id=7, name="Deadpond", secret_name="Dive Wilson", age=30))
    session.commit()
"""
HEROES = [
    {"id": 0, "name": "Zero", "age": None, "secret_name": "Nobody"},
    {"id": 7, "name": "Deadpond", "age": 30, "secret_name": "Dive Wilson"},
]
NEW = {"name": "Rusty-Man", "secret_name": "Tommy Sharp"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the file that the tutorial's own program makes."""
    directory = tmp_path_factory.mktemp("tutorial")
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=directory, check=True)
    return (directory / "database.db").read_bytes()


@pytest.fixture
def database(made: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "database.db"
    path.write_bytes(made)
    return path


@pytest.fixture
def of_file(database: Path) -> Settings:
    """Settings for that file."""
    return Settings(database_url=f"sqlite:///{database}")


@pytest.fixture
async def client(of_file: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with running(create_app(of_file)) as client:
        yield client


def schema(database: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT name, sql FROM sqlite_master ORDER BY name"
        return connection.execute(query).fetchall()


async def test_the_tutorials_own_flow_works_unchanged(settings: Settings) -> None:
    async with running(create_app(settings)) as client:
        dead_pond = {"id": 999, "name": "Dead Pond", "age": 30, "secret_name": "Dive Wilson"}
        response = await client.post("/heroes/", json=dead_pond)
        assert response.status_code == 200
        assert response.json() == dead_pond

        spider_boy = {"name": "Spider-Boy", "age": 20, "secret_name": "Pedro Parqueador"}
        response = await client.post("/heroes/", json=spider_boy)
        assert response.status_code == 200
        spider_boy["id"] = response.json()["id"]
        assert response.json() == spider_boy

        rusty_man = {"name": "Rusty-Man", "secret_name": "Tommy Sharp"}
        response = await client.post("/heroes/", json=rusty_man)
        assert response.status_code == 200
        expected = {"id": response.json()["id"], "age": None, **rusty_man}
        assert response.json() == expected

        response = await client.get(f"/heroes/{spider_boy['id']}")
        assert response.status_code == 200
        assert response.json() == spider_boy

        response = await client.get("/heroes/")
        assert response.status_code == 200
        assert response.json() == [dead_pond, spider_boy, expected]

        response = await client.get("/heroes/", params={"offset": 1, "limit": 1})
        assert response.status_code == 200
        assert response.json() == [spider_boy]

        response = await client.delete(f"/heroes/{spider_boy['id']}")
        assert response.status_code == 200
        assert response.json() == {"ok": True}

        response = await client.get(f"/heroes/{spider_boy['id']}")
        assert response.status_code == 404
        assert response.json() == {"detail": "Hero not found"}

        response = await client.delete(f"/heroes/{spider_boy['id']}")
        assert response.status_code == 404
        assert response.json() == {"detail": "Hero not found"}


async def test_the_tutorials_file_opens_with_its_heroes(client: httpx.AsyncClient) -> None:
    assert (await client.get("/heroes/")).json() == HEROES


async def test_the_tutorials_file_keeps_its_table(database: Path, of_file: Settings) -> None:
    before = schema(database)
    async with running(create_app(of_file)) as client:
        await client.post("/heroes/", json=NEW)
    after = schema(database)
    # The table of the idempotency keys stands beside it.
    assert [each for each in after if KEYS.name not in each[0]] == before
    assert "AUTOINCREMENT" not in dict(before)["hero"]


async def test_the_tutorials_file_goes_on_with_the_highest_id_plus_one(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.post("/heroes/", json=NEW)).json()["id"] == 8
    assert (await client.delete("/heroes/8")).status_code == 200
    assert (await client.post("/heroes/", json=NEW)).json()["id"] == 8


async def test_heroes_of_the_tutorials_file_are_changed_and_deleted_as_any_other(
    client: httpx.AsyncClient,
) -> None:
    changed = await client.patch("/heroes/0", json={"age": 0})
    assert changed.json() == HEROES[0] | {"age": 0}
    assert (await client.delete("/heroes/7")).json() == {"ok": True}


async def test_the_tutorials_program_reads_on_what_the_service_wrote(
    database: Path, of_file: Settings
) -> None:
    async with running(create_app(of_file)) as client:
        created = (await client.post("/heroes/", json={**NEW, "age": 48})).json()
    with closing(sqlite3.connect(database)) as connection:
        row = connection.execute("SELECT id, name, age, secret_name FROM hero WHERE id = 8")
        assert row.fetchone() == tuple(created.values())
