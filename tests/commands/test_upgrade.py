"""`hero-api upgrade`, on both engines, with tables of the test's own."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.schema import SchemaItem
from sqlmodel import Field, SQLModel

from hero_api.app import create_app
from hero_api.commands.backup import backup, restore
from hero_api.commands.check import find_damage
from hero_api.commands.copy import copy
from hero_api.commands.progress import Progress
from hero_api.commands.upgrade import upgrade
from hero_api.database.sqlite import engine as sqlite
from hero_api.errors import StartError
from hero_api.heroes import heroes
from hero_api.settings import Settings
from hero_api.storage import Storage
from hero_api.testing import running
from tests import command
from tests.clusters import Cluster, connection_to
from tests.test_cli import run

ID = {
    "sqlite": "id INTEGER PRIMARY KEY AUTOINCREMENT",
    "postgresql": "id BIGSERIAL PRIMARY KEY",
}
DEFAULT = "50% of 'all' \\ \"é\" :x"


class GadgetBase(SQLModel):
    id: int | None = None
    name: str
    maker: str | None = Field(default=None, index=True)
    weight: int = 7
    is_new: bool = True
    note: str = DEFAULT
    ratio: float = -0.5


class Gadget(GadgetBase, table=True):
    __table_args__ = {"sqlite_autoincrement": True}

    id: int | None = Field(
        default=None,
        sa_column=Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    )


class GadgetPublic(GadgetBase):
    id: int


gadgets: Storage[GadgetBase, GadgetBase] = Storage(Gadget, public=GadgetPublic, filters={})
ADDED = ("maker", "weight", "is_new", "note", "ratio")


def engine(settings: Settings) -> str:
    return "postgresql" if settings.is_postgresql else "sqlite"


def execute(settings: Settings, *statements: str) -> list[tuple[Any, ...]]:
    with connection_to(settings) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []


@pytest.fixture
def old(settings: Settings) -> Settings:
    """Settings of a database with gadgets as they were, the last of which was deleted."""
    execute(
        settings,
        f"CREATE TABLE gadget ({ID[engine(settings)]}, name VARCHAR NOT NULL)",
        "INSERT INTO gadget (name) VALUES ('a'), ('b'), ('c')",
        "DELETE FROM gadget WHERE name IN ('a', 'c')",
    )
    return settings


def schema(settings: Settings) -> list[tuple[Any, ...]]:
    """Return what tells whether anything was changed."""
    if settings.is_postgresql:
        return execute(
            settings,
            "SELECT attrelid::regclass::text, attname FROM pg_attribute WHERE attrelid IN "
            "(SELECT oid FROM pg_class WHERE relnamespace = current_schema()::regnamespace) "
            "ORDER BY 1, 2",
        )
    return execute(settings, "SELECT name, sql FROM sqlite_master ORDER BY 1")


def test_an_old_table_gets_columns_and_index_and_keeps_its_rows(old: Settings) -> None:
    lines = upgrade(old, [gadgets.table])
    assert lines == [
        *(f"Added {name} to the table gadget" for name in ADDED),
        "Made the index ix_gadget_maker",
    ]
    [row] = execute(old, f"SELECT id, name, {', '.join(ADDED)} FROM gadget")
    assert row == (2, "b", None, 7, True, DEFAULT, -0.5)
    assert any("ix_gadget_maker" in map(str, row) for row in schema(old))


async def test_an_upgraded_table_is_served_and_gives_no_id_again(old: Settings) -> None:
    await asyncio.to_thread(upgrade, old, [gadgets.table])
    app = create_app(old, storages=[gadgets])
    async with running(app), app.state.database.write_session() as session:
        created = await gadgets.create(session, GadgetBase(name="d"))
        assert created.id == 4
        assert '"maker":null,"weight":7' in await gadgets.get(session, 2)


def test_a_second_run_does_nothing(old: Settings) -> None:
    upgrade(old, [gadgets.table])
    before = schema(old)
    assert upgrade(old, [gadgets.table]) == []
    assert schema(old) == before


def gadget(*parts: SchemaItem) -> Table:
    """Return a table of gadgets that has more than an old one, one column first."""
    return Table(
        "gadget",
        MetaData(),
        Column("id", BigInteger, primary_key=True),
        Column("name", String, nullable=False),
        Column("harmless", Integer),
        *parts,
    )


REFUSED: dict[str, Callable[[], list[SchemaItem]]] = {
    "a unique column": lambda: [Column("added", Integer, unique=True)],
    "a column with a unique index": lambda: [Column("added", Integer, unique=True, index=True)],
    "a foreign key": lambda: [Column("added", Integer, ForeignKey("gadget.id"))],
    "half of a unique key": lambda: [Column("added", Integer), UniqueConstraint("name", "added")],
    "a checked column": lambda: [Column("added", Integer, CheckConstraint("added > 0"))],
    "a column that needs a value": lambda: [Column("added", Integer, nullable=False)],
    "a column whose default is a function": lambda: [
        Column("added", Integer, nullable=False, default=lambda: 1)
    ],
}


@pytest.mark.parametrize("parts", REFUSED.values(), ids=REFUSED.keys())
def test_what_needs_more_than_an_addition_is_refused_and_nothing_is_changed(
    old: Settings, parts: Callable[[], list[SchemaItem]]
) -> None:
    before = schema(old)
    with pytest.raises(StartError, match=r"\ANothing was changed.* added .*\Z"):
        upgrade(old, [gadget(*parts())])
    assert schema(old) == before


def test_what_the_database_refuses_is_one_line_and_nothing_is_changed(old: Settings) -> None:
    execute(old, "INSERT INTO gadget (name) VALUES ('b')")
    before = schema(old)
    table = gadget(Index("names", "name", unique=True))
    with pytest.raises(StartError, match=r"\ANothing was changed.*(?i:unique).*\Z"):
        upgrade(old, [table])
    assert schema(old) == before


def test_a_default_of_the_database_is_kept(old: Settings) -> None:
    upgrade(old, [gadget(Column("added", Integer, nullable=False, server_default=text("3")))])
    assert execute(old, "SELECT id, harmless, added FROM gadget") == [(2, None, 3)]


def test_an_index_over_an_expression_is_made_once(old: Settings) -> None:
    table = gadget()
    Index("lower_names", func.lower(table.c.name))
    assert upgrade(old, [table])[-1] == "Made the index lower_names"
    assert upgrade(old, [table]) == []


def test_a_missing_table_is_made_whole(settings: Settings) -> None:
    assert upgrade(settings, [gadgets.table]) == ["Made the table gadget"]
    assert upgrade(settings, [gadgets.table]) == []


def test_a_database_that_cannot_be_used_is_one_line() -> None:
    settings = Settings(database_url="postgresql://me:secret@127.0.0.1:1/heroes")
    with pytest.raises(StartError, match=r"\A.*127\.0\.0\.1.*\Z") as caught:
        upgrade(settings, [gadgets.table])
    assert "secret" not in str(caught.value)


# What names the command


LACKS = r"\A.*its table gadget lacks maker, weight, .*; run `hero-api upgrade`\Z"


async def test_the_start_names_the_command(old: Settings) -> None:
    with pytest.raises(StartError, match=LACKS):
        async with running(create_app(old, storages=[gadgets])):
            pass


@pytest.mark.sqlite
def test_the_check_names_the_command(old: Settings) -> None:
    with pytest.raises(StartError, match=LACKS) as caught:
        list(find_damage(old.path, gadgets.table))
    assert str(old.path) in str(caught.value)


@pytest.fixture
def new(old: Settings, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of a database of the other engine, with no table yet."""
    if old.is_postgresql:
        return Settings(database_url=f"sqlite:///{tmp_path}/new.db")
    cluster: Cluster = request.getfixturevalue("cluster")
    return Settings(database_url=cluster.new_schema())


def test_a_copy_from_an_old_table_names_the_command(old: Settings, new: Settings) -> None:
    with pytest.raises(StartError, match=LACKS), Progress() as progress:
        copy(old, new, gadgets.table, progress)


def test_a_copy_to_an_old_table_names_the_command(old: Settings, new: Settings) -> None:
    upgrade(new, [gadgets.table])
    with pytest.raises(StartError, match=LACKS), Progress() as progress:
        copy(new, old, gadgets.table, progress)


# The command


@pytest.mark.sqlite
def test_the_command_says_what_it_did_and_that_there_is_nothing_more_to_do(
    settings: Settings,
) -> None:
    execute(settings, "CREATE TABLE hero (id INTEGER PRIMARY KEY, name TEXT, secret_name TEXT)")
    ended = run("upgrade", path=settings.path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Added age to the table hero" in ended.stdout
    assert "Made the table hero_api_idempotency" in ended.stdout
    assert len(ended.stdout.splitlines()) == 5
    ended = run("upgrade", path=settings.path)
    assert (ended.returncode, ended.stderr) == (0, "")
    [line] = ended.stdout.splitlines()
    assert "all that the service needs" in line


@pytest.mark.sqlite
def test_a_file_that_another_process_keeps_locked_is_one_line(
    old: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "has_wal_reset_fault", lambda: False)
    patient = Settings(database_url=old.database_url, busy_timeout=0.1)
    with connection_to(old) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StartError, match=r"\ANothing was changed.*locked\Z"):
            upgrade(patient, [gadgets.table])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_upgrade_that_is_stopped_says_what_to_do(
    old: Settings, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    columns_of = "hero_api.commands.upgrade.columns_of"
    monkeypatch.setattr(columns_of, lambda *_: signal.raise_signal(number))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    execute(old, f"CREATE TABLE hero ({ID[engine(old)]})")
    ended = command.run("upgrade", database_url=old.database_url)
    signal.signal(signal.SIGTERM, before)
    assert ended.returncode == 1
    assert ended.stderr.startswith("hero-api: Stopped; all was added or nothing; run the same")


# Files of others, and of other versions


TUTORIAL = "id INTEGER NOT NULL, name VARCHAR NOT NULL, age INTEGER, secret_name VARCHAR NOT NULL"
OURS = (
    "id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, name VARCHAR NOT NULL, age INTEGER, "
    "secret_name VARCHAR NOT NULL"
)
INDEXES = ("CREATE INDEX ix_hero_name ON hero (name)", "CREATE INDEX ix_hero_age ON hero (age)")
BOTH_MADE = ["Made the index ix_hero_age", "Made the index ix_hero_name"]
# What a file has, what an upgrade does to it, and which id comes after 1, and 2 that was deleted.
FORMS: dict[str, tuple[list[str], list[str], int]] = {
    "FastAPI's tutorial": (
        [f"CREATE TABLE hero ({TUTORIAL}, PRIMARY KEY (id))", *INDEXES],
        [],
        2,
    ),
    "the first chapters of SQLModel's tutorial": (
        [f"CREATE TABLE hero ({TUTORIAL}, PRIMARY KEY (id))"],
        BOTH_MADE,
        2,
    ),
    "SQLModel's tutorial, with teams": (
        [
            (
                "CREATE TABLE team (id INTEGER NOT NULL, name VARCHAR NOT NULL, "
                "headquarters VARCHAR NOT NULL, PRIMARY KEY (id))"
            ),
            (
                f"CREATE TABLE hero ({TUTORIAL}, team_id INTEGER, PRIMARY KEY (id), "
                "FOREIGN KEY(team_id) REFERENCES team (id))"
            ),
            *INDEXES,
        ],
        [],
        2,
    ),
    "a table without ages": (
        [f"CREATE TABLE hero ({OURS.replace('age INTEGER, ', '')})", INDEXES[0]],
        ["Added age to the table hero", "Made the index ix_hero_age"],
        3,
    ),
    "the service's own": ([f"CREATE TABLE hero ({OURS})", *INDEXES], [], 3),
    "a later service's, with more columns": (
        [
            f"CREATE TABLE hero ({OURS}, team VARCHAR, is_new BOOLEAN NOT NULL DEFAULT 1)",
            *INDEXES,
            "CREATE INDEX ix_hero_team ON hero (team)",
            "CREATE TABLE idempotency (key VARCHAR PRIMARY KEY)",
        ],
        [],
        3,
    ),
}


@pytest.mark.sqlite
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
@pytest.mark.parametrize(("made", "said", "next_id"), FORMS.values(), ids=FORMS.keys())
async def test_a_file_of_any_form_is_upgraded_once_and_served_as_it_was(  # noqa: PLR0913, PLR0917
    settings: Settings, tmp_path: Path, made: list[str], said: list[str], next_id: int, mode: str
) -> None:
    execute(settings, f"PRAGMA journal_mode={mode}", *made)
    execute(
        settings,
        "INSERT INTO hero (name, secret_name) VALUES ('Deadpond', 's'), ('gone', 's')",
        "DELETE FROM hero WHERE name = 'gone'",
    )
    before = execute(settings, "SELECT * FROM hero")
    assert sorted(await asyncio.to_thread(upgrade, settings, [heroes.table])) == sorted(said)
    assert await asyncio.to_thread(upgrade, settings, [heroes.table]) == []
    saved = tmp_path / "saved.db"
    await asyncio.to_thread(backup, settings, saved)
    hero = {"id": 1, "name": "Deadpond", "age": None, "secret_name": "s"}
    async with running(create_app(settings)) as client:
        assert (await client.get("/heroes/")).json() == [hero]
        created = await client.post("/heroes/", json={"name": "new", "secret_name": "s"})
        assert created.json()["id"] == next_id
    await asyncio.to_thread(restore, settings, saved, heroes.table)
    assert [row[: len(before[0])] for row in execute(settings, "SELECT * FROM hero")] == before


@pytest.mark.sqlite
async def test_a_later_column_that_needs_a_value_is_refused_in_a_line(settings: Settings) -> None:
    execute(settings, f"CREATE TABLE hero ({OURS}, team VARCHAR NOT NULL)")
    with pytest.raises(StartError, match=r"\A.*its table hero needs values for team.*\Z"):
        async with running(create_app(settings)):
            pass
