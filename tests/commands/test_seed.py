"""`hero-api seed`, into each engine."""

import asyncio
import re
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from sqlalchemy import Boolean, Column, String

from hero_api.app import create_app
from hero_api.commands.seed import values_of
from hero_api.database.pages import MAX_CHOSEN_ID
from hero_api.errors import StartError
from hero_api.models import HeroCreate
from hero_api.settings import Settings
from hero_api.testing import running
from tests.clusters import connection_to, insert, stored
from tests.command import run
from tests.commands.test_copy import MEASURED, next_id
from tests.test_cli import room_for

DEADPOND = (7, "Deadpond", 30, "Dive Wilson")


def seed(settings: Settings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run("seed", *arguments, database_url=settings.database_url)


def test_heroes_are_stored_and_the_last_line_says_so(settings: Settings) -> None:
    ended = seed(settings, "1234")
    assert ended.returncode == 0
    assert re.fullmatch(
        r"1,234 heroes stored in \S+, of the ids 1 to 1,234 \(--seed 0\)\n", ended.stdout
    )
    assert ended.stderr == "seeded 1,234 of 1,234 heroes\n"
    assert [row[0] for row in stored(settings)] == [*range(1, 1235)]


def test_each_is_one_that_a_client_could_have_sent(settings: Settings) -> None:
    seed(settings, "500")
    heroes = [
        HeroCreate.model_validate(dict(zip(HeroCreate.model_fields, row, strict=True)))
        for row in stored(settings)
    ]
    assert len({hero.name for hero in heroes}) > 400
    assert {hero.age is None for hero in heroes} == {True, False}


def test_one_seed_makes_the_same_heroes_on_each_engine_and_another_makes_others(
    settings: Settings, tmp_path: Path
) -> None:
    other = Settings(database_url=f"sqlite:///{tmp_path}/other.db")
    seed(settings, "100", "--seed", "5")
    seed(other, "100", "--seed", "5")
    assert stored(settings) == stored(other)
    seed(other, "100", "--seed", "6", "--replace")
    assert stored(settings) != stored(other)


def test_more_heroes_come_behind_those_that_are_there(settings: Settings) -> None:
    seed(settings, "0")
    insert(settings, DEADPOND)
    assert "of the ids 8 to 10 " in seed(settings, "3").stdout
    assert [row[0] for row in stored(settings)] == [7, 8, 9, 10]


def test_no_id_of_a_deleted_hero_is_given_again(settings: Settings) -> None:
    async def create_and_delete() -> None:
        async with running(create_app(settings)) as client:
            created = await client.post("/heroes/", json={"name": "n", "secret_name": "s"})
            await client.delete(created.headers["Location"])

    asyncio.run(create_and_delete())
    assert "of the ids 2 to 4 " in seed(settings, "3").stdout


def test_what_is_replaced_is_gone_and_ids_begin_with_1(settings: Settings) -> None:
    seed(settings, "0")
    insert(settings, DEADPOND)
    assert "of the ids 1 to 3 " in seed(settings, "3", "--replace").stdout
    assert DEADPOND not in stored(settings)
    assert len(stored(settings)) == 3


def test_what_is_replaced_is_not_kept_under_its_key_either(settings: Settings) -> None:
    async def create() -> httpx.Response:
        async with running(create_app(settings)) as client:
            hero, key = {"name": "n", "secret_name": "s"}, {"Idempotency-Key": "a"}
            return await client.post("/heroes/", json=hero, headers=key)

    asyncio.run(create())
    seed(settings, "3", "--replace")
    assert asyncio.run(create()).json()["id"] == 4


def test_none_is_deleted_where_the_first_cannot_be_stored(settings: Settings) -> None:
    seed(settings, "3")
    before = stored(settings)
    with connection_to(settings) as connection:
        connection.execute("CREATE UNIQUE INDEX only_one ON hero ((1)) WHERE id > 3")
    ended = seed(settings, "100", "--replace")
    assert ended.returncode == 1
    assert ended.stderr.endswith("; 0 heroes were stored until then\n")
    assert stored(settings) == before


def test_the_service_goes_on_behind_the_last_of_them(settings: Settings) -> None:
    seed(settings, "20")
    assert next_id(settings) == 21


def test_none_at_all_makes_the_table(settings: Settings) -> None:
    ended = seed(settings, "0")
    assert (ended.returncode, stored(settings)) == (0, [])
    assert ended.stdout.startswith("0 heroes stored in ")


def test_where_no_ids_are_left_is_one_line_and_nothing_is_stored(settings: Settings) -> None:
    seed(settings, "0")
    insert(settings, (MAX_CHOSEN_ID - 1, "n", 1, "s"))
    for arguments in (["2"], [str(MAX_CHOSEN_ID + 1), "--replace"]):
        ended = seed(settings, *arguments)
        assert ended.returncode == 1
        [line] = ended.stderr.splitlines()
        assert re.search(r"has no [\d,]+ ids left", line)
        assert len(stored(settings)) == 1


@pytest.mark.sqlite
def test_a_seed_that_finds_no_room_says_how_many_are_stored(settings: Settings) -> None:
    with room_for(8_000_000):
        ended = seed(settings, "200000")
    assert ended.returncode == 1
    [*_, line] = ended.stderr.splitlines()
    said = re.search(r"(?:full|disk I/O error); ([\d,]+) heroes were stored until then\Z", line)
    assert said is not None, line
    assert int(said[1].replace(",", "")) == len(stored(settings)) > 0


@pytest.mark.sqlite
def test_a_directory_that_is_not_there_is_one_line(settings: Settings) -> None:
    nowhere = Settings(database_url=f"sqlite:///{settings.path.parent}/nowhere/heroes.db")
    ended = seed(nowhere, "1")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["x"], ["-1"], ["1", "--seed", "-1"]])
@pytest.mark.sqlite
def test_a_number_that_is_none_is_status_2(settings: Settings, arguments: list[str]) -> None:
    assert seed(settings, *arguments).returncode == 2
    assert not settings.path.exists()


def peak(settings: Settings, count: int) -> float:
    """Return the most memory that it had, in megabytes."""
    url = settings.database_url
    ended = run("seed", str(count), database_url=url, program=("-c", MEASURED))
    return int(ended.stdout.split()[-1]) / 1024


@pytest.mark.sqlite
def test_the_memory_does_not_grow_with_the_heroes(settings: Settings) -> None:
    few = peak(settings, 50_000)
    assert peak(settings, 150_000) - few < 25


def test_a_column_that_is_not_known_has_its_default_or_nothing() -> None:
    columns: list[Column[Any]] = [
        Column("team", String, nullable=True),
        Column("active", Boolean, default=True),
    ]
    values = [next(values_of(column)(Random(0), 1)) for column in columns]
    assert values == [None, True]


def test_a_column_that_needs_a_value_is_named() -> None:
    with pytest.raises(StartError, match="column team needs a value"):
        values_of(Column("team", String, nullable=False))
