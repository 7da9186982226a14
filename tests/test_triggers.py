"""Triggers and locks of others: what is answered is what is stored, and the others do not pay."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import psycopg
import pytest

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running

from .clusters import Cluster, connection_to, stored

HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}
SOON = 30.0  # seconds: far more than anything here takes

INSTEAD = {
    "BEFORE INSERT": "INSERT INTO hero (name, secret_name) VALUES ('instead', '?')",
    "BEFORE UPDATE": "UPDATE hero SET age = -1 WHERE id = OLD.id",
    "BEFORE DELETE": "UPDATE hero SET age = -1 WHERE id = OLD.id",
}


@pytest.fixture
def postgresql(cluster: Cluster) -> Settings:
    return Settings(database_url=cluster.new_schema(), busy_timeout=1, request_timeout=5)


def trigger(other: Any, when: str, body: str) -> None:  # noqa: ANN401 - a connection of psycopg's
    other.execute(f"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
    other.execute(f"CREATE TRIGGER act {when} ON hero FOR EACH ROW EXECUTE FUNCTION act()")


async def create(client: httpx.AsyncClient, **hero: object) -> httpx.Response:
    return await client.post("/heroes/", json=HERO | hero)


async def ask_for(client: httpx.AsyncClient, when: str) -> httpx.Response:
    """Ask for the change that a trigger of this kind stands before."""
    if when == "BEFORE INSERT":
        return await create(client, id=77)
    if when == "BEFORE UPDATE":
        return await client.patch("/heroes/1", json={"name": "changed"})
    return await client.delete("/heroes/1")


@pytest.mark.parametrize("when", INSTEAD)
async def test_what_a_trigger_does_instead_of_a_change_is_undone(
    settings: Settings, when: str
) -> None:
    async with running(create_app(settings)) as client:
        assert (await create(client)).status_code == 200
        with connection_to(settings) as other:
            if settings.is_postgresql:
                guard = "IF pg_trigger_depth() > 1 THEN RETURN NEW; END IF;"
                trigger(other, when, f"BEGIN {guard} {INSTEAD[when]}; RETURN NULL; END")
            else:
                body = f"{INSTEAD[when]}; SELECT RAISE(IGNORE);"
                other.execute(f"CREATE TRIGGER act {when} ON hero BEGIN {body} END")
        before = stored(settings)
        answers = [await ask_for(client, when)]
        answers += await asyncio.gather(*(ask_for(client, when) for _ in range(3)))
    assert {answer.status_code for answer in answers} == {409}
    assert stored(settings) == before


async def test_a_trigger_that_stores_the_row_itself_does_not_store_it_again_and_again(
    postgresql: Settings,
) -> None:
    async with running(create_app(postgresql)) as client:
        with connection_to(postgresql) as other:
            other.execute("CREATE TABLE part () INHERITS (hero)")
            body = "BEGIN INSERT INTO part VALUES (NEW.*); RETURN NULL; END"
            trigger(other, "BEFORE INSERT", body)
        assert (await create(client)).status_code == 409
        assert (await create(client, id=5)).status_code == 409
    assert stored(postgresql) == []


@pytest.mark.parametrize("change", ["NEW.id # 1", "NEW.id | 1", "NEW.id + 1"])
async def test_a_trigger_that_exchanges_ids_exchanges_no_answers(
    postgresql: Settings, change: str
) -> None:
    async with running(create_app(postgresql)) as client:
        with connection_to(postgresql) as other:
            trigger(other, "BEFORE INSERT", f"BEGIN NEW.id := {change}; RETURN NEW; END")
        answers = await asyncio.gather(*(create(client, name=f"n{n}") for n in range(20)))
    rows = {row[0]: row[1] for row in stored(postgresql)}
    for number, answer in enumerate(answers):
        assert answer.status_code in {200, 409}
        if answer.status_code == 200:
            assert answer.json()["name"] == f"n{number}" == rows[answer.json()["id"]]
    assert len(rows) == sum(answer.status_code == 200 for answer in answers)


async def test_the_answer_shows_what_a_deferred_trigger_has_made_of_a_row(
    postgresql: Settings,
) -> None:
    async with running(create_app(postgresql)) as client:
        with connection_to(postgresql) as other:
            body = "BEGIN UPDATE hero SET age = 77 WHERE id = NEW.id; RETURN NULL; END"
            other.execute(f"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
            other.execute(
                "CREATE CONSTRAINT TRIGGER act AFTER INSERT ON hero DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION act()"
            )
        assert (await create(client)).json()["age"] == 77


@pytest.mark.parametrize("state", ["08001", "53300", "57P01", "57014", "58030", "28000", "40003"])
async def test_no_state_that_a_trigger_raises_is_taken_for_an_outage(
    postgresql: Settings, state: str
) -> None:
    async with running(create_app(postgresql)) as client:
        assert (await create(client)).status_code == 200
        with connection_to(postgresql) as other:
            body = (
                "BEGIN IF NEW.name = 'bad' THEN RAISE EXCEPTION 'no' "
                f"USING ERRCODE = '{state}'; END IF; RETURN NEW; END"
            )
            trigger(other, "BEFORE INSERT", body)
        names = ["good", "bad", *["good"] * 20]
        asks = [create(client, name=name) for name in names]
        patches = [client.patch("/heroes/1", json={"age": 1}) for _ in range(3)]
        answers = await asyncio.gather(*asks, *patches)
    assert [answer.status_code for answer in answers] == [200, 409, *[200] * 23]


async def test_a_create_that_waits_for_a_lock_is_stored_once_however_often_others_are_tried_again(
    postgresql: Settings,
) -> None:
    async with running(create_app(postgresql)) as client:
        with connection_to(postgresql) as other:
            other.execute("CREATE TABLE gate (id int PRIMARY KEY)")
            other.execute("INSERT INTO gate VALUES (1)")
            other.execute("CREATE SEQUENCE times")
            body = """
                BEGIN
                    IF NEW.name = 'gated' THEN PERFORM FROM gate FOR UPDATE; END IF;
                    IF NEW.name = 'unlucky' AND nextval('times') < 4 THEN
                        RAISE EXCEPTION 'again' USING ERRCODE = '40001';
                    END IF;
                    RETURN NEW;
                END"""
            trigger(other, "BEFORE INSERT", body)
        with lock_of(postgresql, "SELECT FROM gate FOR UPDATE") as holder:
            names = ["good", "gated", "good", "unlucky", "good"]
            asks = [asyncio.create_task(create(client, name=name)) for name in names]
            await asyncio.wait([asks[0], asks[2], asks[4]], timeout=SOON)
            holder.rollback()
            answers = await asyncio.gather(*asks)
    names_stored = [row[1] for row in stored(postgresql)]
    for name, answer in zip(names, answers, strict=True):
        assert answer.status_code in {200, 503}, name
    assert names_stored.count("gated") == (answers[1].status_code == 200)
    assert names_stored.count("good") == 3


async def test_a_row_that_others_refer_to_meanwhile_can_be_changed(postgresql: Settings) -> None:
    async with running(create_app(postgresql)) as client:
        assert (await create(client)).status_code == 200
        with connection_to(postgresql) as other:
            other.execute("CREATE TABLE missions (hero_id bigint REFERENCES hero)")
        with lock_of(postgresql, "INSERT INTO missions VALUES (1)"):
            answer = await client.patch("/heroes/1", json={"age": 5})
            assert (answer.status_code, answer.json()["age"]) == (200, 5)
            assert (await client.delete("/heroes/1")).status_code == 503


async def test_many_locked_rows_do_not_hold_up_one_that_is_free_again(
    postgresql: Settings,
) -> None:
    async with running(create_app(postgresql)) as client:
        for _ in range(9):
            assert (await create(client)).status_code == 200
        patient = client.patch
        with lock_of(postgresql, "SELECT FROM hero WHERE id < 9 FOR UPDATE"):
            waiting = [
                asyncio.create_task(patient(f"/heroes/{row}", json={"age": 1}))
                for row in range(1, 9)
            ]
            with lock_of(postgresql, "SELECT FROM hero WHERE id = 9 FOR UPDATE") as holder:
                last = asyncio.create_task(patient("/heroes/9", json={"age": 9}))
                await create(client)  # a batch after the one that found the rows locked
                holder.rollback()
                assert (await last).status_code == 200
            answers: Sequence[httpx.Response] = await asyncio.gather(*waiting)
        assert {answer.status_code for answer in answers} == {503}
        assert {"lock" in answer.json()["detail"] for answer in answers} == {True}


async def test_two_patches_of_one_locked_row_are_both_told_that_it_is_locked(
    postgresql: Settings,
) -> None:
    async with running(create_app(postgresql)) as client:
        assert (await create(client)).status_code == 200
        with lock_of(postgresql, "SELECT FROM hero FOR UPDATE"):
            asks = (client.patch("/heroes/1", json={"age": n}) for n in range(2))
            answers = await asyncio.gather(*asks)
        assert [answer.status_code for answer in answers] == [503, 503]
        assert all("nothing was changed" in answer.json()["detail"] for answer in answers)


@pytest.mark.sqlite
async def test_a_text_column_that_sqlite_takes_for_a_number_is_answered_as_text(
    settings: Settings,
) -> None:
    with connection_to(settings) as other:
        other.execute(
            "CREATE TABLE hero (id INTEGER PRIMARY KEY, name STRING NOT NULL, age INTEGER, "
            "secret_name VARCHAR NOT NULL)"
        )
    async with running(create_app(settings)) as client:
        answers = await asyncio.gather(*(create(client, name=name) for name in ("123", "x")))
        assert [answer.json()["name"] for answer in answers] == ["123", "x"]
        assert (await client.get("/heroes/1")).json()["name"] == "123"
        assert [hero["name"] for hero in (await client.get("/heroes/")).json()] == ["123", "x"]
        assert len((await client.get("/heroes/?name=123")).json()) == 1


def lock_of(settings: Settings, statement: str) -> "psycopg.Connection[Any]":
    """Return a connection that has executed a statement and not ended its transaction."""
    url = settings.url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = psycopg.connect(url)
    connection.execute(statement)
    return connection
