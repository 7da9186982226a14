"""A create with an Idempotency-Key is done once, however often it is sent."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlmodel import SQLModel

import hero_api.storage.keyed
import hero_api.storage.rows
from hero_api.app import create_app
from hero_api.database.keys import KEY_STATEMENTS
from hero_api.database.sessions import fetch
from hero_api.dependencies import MAX_KEY, get_read_session, get_write_session
from hero_api.settings import Settings
from hero_api.testing import running

from .clusters import Cluster, connection_to, stored
from .test_triggers import lock_of

HERO = {"name": "Zoë", "age": 0, "secret_name": "Dive Wilson"}
COUNT = "SELECT count(*) FROM hero_api_idempotency"


async def create(client: httpx.AsyncClient, key: str, **fields: object) -> httpx.Response:
    headers = {"Idempotency-Key": key}
    return await client.post("/heroes/", json=HERO | fields, headers=headers)


async def create_bulk(client: httpx.AsyncClient, key: str, *heroes: object) -> httpx.Response:
    headers = {"Idempotency-Key": key, "Content-Type": "application/jsonl"}
    content = "".join(f"{json.dumps(hero)}\n" for hero in heroes)
    return await client.post("/heroes/", content=content, headers=headers)


def is_replay(answer: httpx.Response) -> bool:
    return "Idempotent-Replayed" in answer.headers


def statuses(answers: Sequence[httpx.Response]) -> list[int]:
    return [answer.status_code for answer in answers]


def count_keys(settings: Settings) -> int:
    with connection_to(settings) as connection:
        count: int = connection.execute(COUNT).fetchone()[0]
        return count


def watch(monkeypatch: pytest.MonkeyPatch, room: ModuleType) -> list[tuple[str, object]]:
    """Record each statement that a module executes from now on, and its items."""
    executed: list[tuple[str, object]] = []

    async def recorded(
        session: AsyncSession, statement: str, parameters: Mapping[str, object]
    ) -> Sequence[Any]:
        executed.append((statement, parameters.get("items")))
        return await fetch(session, statement, parameters)

    monkeypatch.setattr(room, "fetch", recorded)
    return executed


@pytest.fixture(params=["wary", "optimistic"], autouse=True)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether keys are looked for before their heroes are stored, or only once one was known."""
    mode: str = request.param
    if mode == "optimistic":
        monkeypatch.setattr(hero_api.storage.keyed, "_WARY", 0)
        monkeypatch.setattr(hero_api.storage.keyed, "_EVERY", float("nan"))  # no number is 0 modulo
    return mode


@pytest.mark.parametrize("fields", [{}, {"id": 7}], ids=["drawn", "chosen"])
async def test_a_create_that_is_sent_again_is_answered_the_same_and_done_once(
    client: httpx.AsyncClient, fields: dict[str, int]
) -> None:
    first, again = [await create(client, "a", **fields) for _ in range(2)]
    assert (first.status_code, is_replay(first)) == (200, False)
    assert (again.status_code, is_replay(again), again.content) == (200, True, first.content)
    for name in ("ETag", "Location", "Content-Type"):
        assert again.headers[name] == first.headers[name]
    assert (await client.get("/heroes/")).json() == [first.json()]


async def test_the_first_answer_is_given_again_though_the_hero_has_changed(
    client: httpx.AsyncClient,
) -> None:
    first = await create(client, "a")
    await client.patch("/heroes/1", json={"age": 5})
    assert (await create(client, "a")).content == first.content


async def test_creates_without_a_key_and_with_other_keys_are_others(
    client: httpx.AsyncClient,
) -> None:
    keys = [{}, {}, {"Idempotency-Key": "a"}, {"Idempotency-Key": '"a"'}]
    asks = (client.post("/heroes/", json=HERO, headers=key) for key in keys)
    answers = await asyncio.gather(*asks)
    assert sorted(answer.json()["id"] for answer in answers) == [1, 2, 3, 4]


async def test_a_key_with_another_body_is_422(client: httpx.AsyncClient) -> None:
    await create(client, "a")
    for fields in ({"age": 1}, {"id": 9}):
        assert (await create(client, "a", **fields)).status_code == 422
    assert len((await client.get("/heroes/")).json()) == 1


async def test_one_key_many_times_at_once_makes_one_hero(client: httpx.AsyncClient) -> None:
    asks = [create(client, key) for _ in range(10) for key in "abc"]
    asks += [create(client, "a", age=1), create(client, "b", id=50)]
    answers = await asyncio.gather(*asks)
    assert statuses(answers) == [*[200] * 30, 422, 422]
    assert len({answer.content for answer in answers[:30]}) == 3
    assert sum(not is_replay(answer) for answer in answers[:30]) == 3
    assert len((await client.get("/heroes/")).json()) == 3


async def test_what_was_refused_leaves_no_key(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    await client.post("/heroes/", json=HERO | {"id": 7})
    assert statuses([await create(client, "a", id=7) for _ in range(2)]) == [409, 409]
    assert (await create(client, "b", name="")).status_code == 422
    assert count_keys(settings) == 0
    await client.delete("/heroes/7")
    assert (await create(client, "a", id=7)).status_code == 200


async def test_a_hero_that_the_database_refuses_leaves_the_others_their_keys(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    with connection_to(settings) as connection:
        connection.execute("CREATE UNIQUE INDEX one_bad ON hero (name) WHERE name = 'bad'")
    await client.post("/heroes/", json=HERO | {"name": "bad"})
    names = ["bad" if n in {3, 17} else f"n{n}" for n in range(24)]
    for _ in range(2):
        answers = await asyncio.gather(*(create(client, str(n), name=n) for n in names))
        assert statuses(answers) == [409 if name == "bad" else 200 for name in names]
    assert count_keys(settings) == 22
    assert len(stored(settings)) == 23


async def test_the_answer_goes_with_its_hero_and_the_key_says_so(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    await create(client, "a")
    assert (await client.delete("/heroes/1")).status_code == 200
    with connection_to(settings) as connection:
        rows = connection.execute("SELECT * FROM hero_api_idempotency").fetchall()
    assert len(rows) == 1
    assert "Wilson" not in str(rows)
    for fields in ({}, {"age": 1}):
        answer = await create(client, "a", **fields)
        assert (answer.status_code, "deleted" in answer.json()["detail"]) == (410, True)
    assert stored(settings) == []


async def test_a_hero_that_another_program_has_deleted_is_gone_too(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    await create(client, "a")
    with connection_to(settings) as connection:
        connection.execute("DELETE FROM hero")
    assert (await create(client, "a")).status_code == 410


@pytest.mark.parametrize("keys", [[""], ["x" * (MAX_KEY + 1)], ["a", "b"], ["a\0b"]])
async def test_what_can_be_no_key_is_400(client: httpx.AsyncClient, keys: list[str]) -> None:
    headers = [("Idempotency-Key", key) for key in keys]
    answer = await client.post("/heroes/", json=HERO, headers=headers)
    assert (answer.status_code, "255" in answer.json()["detail"]) == (400, True)
    assert (await client.get("/heroes/")).json() == []


@pytest.mark.parametrize("key", ["x" * MAX_KEY, "'; DROP TABLE hero; --", '{"\\u0000', "é\xff %s"])
async def test_whatever_a_key_holds_it_is_that_key(client: httpx.AsyncClient, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode("latin-1"))]
    answers = [await client.post("/heroes/", json=HERO, headers=headers) for _ in range(2)]
    assert [(answer.status_code, is_replay(answer)) for answer in answers] == [
        (200, False),
        (200, True),
    ]


@pytest.mark.parametrize("mode", ["wary"], indirect=True)
async def test_keys_expire_and_are_cleared_away_in_small_bites(settings: Settings) -> None:
    async with running(create_app(settings)) as client:
        await asyncio.gather(*(create(client, f"old {n}") for n in range(20)))
        with connection_to(settings) as connection:
            connection.execute("UPDATE hero_api_idempotency SET created = created - 86500")
        left = []
        for n in range(4):
            assert (await create(client, f"new {n}")).status_code == 200
            left.append(count_keys(settings) - n - 1)
    assert left == [12, 4, 0, 0]


async def test_where_most_batches_do_not_look_for_their_keys_old_ones_are_cleared_away_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hero_api.storage.keyed, "_WARY", 0)
    monkeypatch.setattr(hero_api.storage.keyed, "_EVERY", 10)
    async with running(create_app(settings)) as client:
        await asyncio.gather(*(create(client, f"old {n}") for n in range(20)))
        with connection_to(settings) as connection:
            connection.execute("UPDATE hero_api_idempotency SET created = created - 86500")
        for n in range(20):
            assert (await create(client, f"new {n}")).status_code == 200
    assert count_keys(settings) == 20


@pytest.mark.parametrize("mode", ["optimistic"], indirect=True)
async def test_after_a_key_that_was_known_keys_are_looked_for_before_heroes_are_stored(
    client: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hero_api.storage.keyed, "_WARY", 3)
    with connection_to(settings) as connection:
        connection.execute("CREATE UNIQUE INDEX one_bad ON hero (name) WHERE name = 'bad'")
    await client.post("/heroes/", json=HERO | {"name": "bad"})
    finds = {each.find for each in KEY_STATEMENTS.values()}
    executed = watch(monkeypatch, hero_api.storage.keyed)

    async def looks_for(key: int) -> int:
        executed.clear()
        await create(client, str(key))
        return sum(statement in finds for statement, _ in executed)

    looks = [await looks_for(key) for key in [*range(5), 4, *range(4, 10)]]
    assert looks == [1, 1, 1, 0, 0, *[1, 1], 1, 1, 1, 0, 0]
    # What the database refuses might have been known. Its batch is divided, and counts once.
    names = ["good"] * 8 + ["bad"] + ["good"] * 7
    await asyncio.gather(*(create(client, f"n {n}", name=name) for n, name in enumerate(names)))
    assert [await looks_for(key) for key in range(10, 15)] == [1, 1, 1, 0, 0]


async def test_a_create_that_the_database_would_refuse_is_answered_the_same_again(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    with connection_to(settings) as connection:
        connection.execute("CREATE UNIQUE INDEX once ON hero (name)")
    names = [f"n{n}" for n in range(9)]
    first, again = [
        await asyncio.gather(*(create(client, name, name=name) for name in names)) for _ in range(2)
    ]
    assert [answer.content for answer in again] == [answer.content for answer in first]
    alone = await create(client, "n4", name="n4")
    assert (alone.content, is_replay(alone)) == (first[4].content, True)
    others = [create(client, f"{name} again", name=name) for name in names]
    assert {*statuses(await asyncio.gather(*others))} == {409}
    assert len(stored(settings)) == 9


async def test_how_long_keys_are_kept_is_a_setting(settings: Settings) -> None:
    longer = settings.model_copy(update={"idempotency_hours": 48})
    async with running(create_app(longer)) as client:
        await create(client, "a")
        with connection_to(settings) as connection:
            connection.execute("UPDATE hero_api_idempotency SET created = created - 86500")
        assert is_replay(await create(client, "a"))


async def test_a_key_is_known_after_a_restart(settings: Settings) -> None:
    async with running(create_app(settings)) as client:
        first = await create(client, "a")
    async with running(create_app(settings)) as client:
        assert (await create(client, "a")).content == first.content


async def test_a_database_without_the_table_of_keys_gets_it_at_the_start(
    settings: Settings,
) -> None:
    async with running(create_app(settings)) as client:
        await client.post("/heroes/", json=HERO)
    with connection_to(settings) as connection:
        connection.execute("DROP TABLE hero_api_idempotency")
    async with running(create_app(settings)) as client:
        assert statuses([await create(client, "a") for _ in range(2)]) == [200, 200]
    assert len(stored(settings)) == 2


async def test_where_there_is_no_table_of_keys_everything_else_is_served(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hero_api.database.schema.make_keys", lambda _: None)
    async with running(create_app(settings)) as client:
        assert (await client.post("/heroes/", json=HERO)).status_code == 200
        answer = await create(client, "a")
        assert (answer.status_code, "nothing was changed" in answer.json()["detail"]) == (500, True)
        assert (await client.delete("/heroes/1")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200


# Several heroes under one key

BULK = [HERO | {"age": n} | ({"id": 40} if n == 1 else {}) for n in range(4)]


async def test_a_bulk_that_is_sent_again_is_answered_the_same_and_done_once(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    first, again = [await create_bulk(client, "a", *BULK) for _ in range(2)]
    assert (first.status_code, is_replay(first)) == (200, False)
    assert [json.loads(line)["age"] for line in first.content.splitlines()] == [0, 1, 2, 3]
    assert (again.status_code, is_replay(again), again.content) == (200, True, first.content)
    assert len(stored(settings)) == 4


async def test_of_a_bulk_its_key_keeps_the_ids_alone_and_shows_the_heroes_as_they_are(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    await create_bulk(client, "a", *BULK)
    with connection_to(settings) as connection:
        rows = connection.execute("SELECT * FROM hero_api_idempotency").fetchall()
    assert len(rows) == 1
    assert "Wilson" not in str(rows)
    await client.patch("/heroes/40", json={"age": 9})
    again = await create_bulk(client, "a", *BULK)
    assert [json.loads(line)["age"] for line in again.content.splitlines()] == [0, 9, 2, 3]


@pytest.mark.parametrize("place", [0, 1, 3])
async def test_a_bulk_of_which_a_hero_was_deleted_is_410(
    client: httpx.AsyncClient, place: int
) -> None:
    created = (await create_bulk(client, "a", *BULK)).text.splitlines()
    await client.delete(f"/heroes/{json.loads(created[place])['id']}")
    assert (await create_bulk(client, "a", *BULK)).status_code == 410


async def test_the_key_of_a_bulk_with_another_body_is_422(client: httpx.AsyncClient) -> None:
    await create_bulk(client, "a", *BULK)
    await create_bulk(client, "b", HERO)
    await create(client, "c")
    assert (await create_bulk(client, "a", *BULK[:3])).status_code == 422
    assert (await create(client, "b")).status_code == 422
    assert (await create_bulk(client, "c", HERO)).status_code == 422
    assert len((await client.get("/heroes/")).json()) == 6


async def test_a_bulk_that_was_refused_leaves_no_key(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    await client.post("/heroes/", json=HERO | {"id": 40})
    refused = await create_bulk(client, "a", *BULK)
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", 2])
    assert (count_keys(settings), len(stored(settings))) == (0, 1)
    await client.delete("/heroes/40")
    assert (await create_bulk(client, "a", *BULK)).status_code == 200


async def test_one_key_of_a_bulk_many_times_at_once_stores_its_heroes_once(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    asks = [create_bulk(client, "a", *BULK) for _ in range(8)]
    answers = await asyncio.gather(*asks, create(client, "b"))
    assert {*statuses(answers)} == {200}
    assert len({answer.content for answer in answers[:8]}) == 1
    assert sum(not is_replay(answer) for answer in answers[:8]) == 1
    assert len(stored(settings)) == 5


# PostgreSQL, where several processes serve


@pytest.mark.parametrize("mode", ["wary"], indirect=True)
@pytest.mark.parametrize(
    "again",
    [
        lambda client: create(client, "a"),
        lambda client: create(client, "b", id=7),
        lambda client: create_bulk(client, "c", *BULK),
    ],
    ids=["drawn", "chosen", "bulk"],
)
async def test_a_key_that_another_process_stores_after_the_first_look_is_known_all_the_same(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, again: Callable[..., Any]
) -> None:
    looks = 0

    async def fetch_first_from_an_old_snapshot(
        session: AsyncSession, statement: str, parameters: Mapping[str, object]
    ) -> Sequence[Any]:
        nonlocal looks
        looks += statement == KEY_STATEMENTS["postgresql"].find
        if statement == KEY_STATEMENTS["postgresql"].find and looks == 1:
            return [(False, None, None, None, None)]
        return await fetch(session, statement, parameters)

    settings = Settings(database_url=cluster.new_schema())
    async with running(create_app(settings)) as one, running(create_app(settings)) as other:
        firsts = [
            await create(one, "a"),
            await create(one, "b", id=7),
            await create_bulk(one, "c", *BULK),
        ]
        monkeypatch.setattr(hero_api.storage.keyed, "fetch", fetch_first_from_an_old_snapshot)
        answer = await again(other)
    assert (answer.status_code, is_replay(answer)) == (200, True)
    assert answer.content in {first.content for first in firsts}
    assert len(stored(settings)) == 6


async def test_a_role_that_may_make_no_table_serves_without_keys(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(database_url=cluster.new_schema())
    async with running(create_app(settings)):
        pass
    schema = settings.url.query["options"]
    assert isinstance(schema, str)
    role = f"role_{schema.rpartition('=')[2]}"
    with connection_to(settings) as connection:
        connection.execute("DROP TABLE hero_api_idempotency")
        connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute(f"GRANT USAGE ON SCHEMA {schema.rpartition('=')[2]} TO {role}")
        connection.execute(f"GRANT ALL ON hero, hero_id_seq TO {role}")
    limited = Settings(database_url=settings.url.set(username=role).render_as_string())
    async with running(create_app(limited)) as client:
        assert (await client.post("/heroes/", json=HERO)).status_code == 200
        assert (await create(client, "a")).status_code == 500
    assert "hero-api upgrade" in caplog.text


async def test_the_same_keys_at_the_same_instant_in_several_processes_make_one_hero_each(
    cluster: Cluster,
) -> None:
    settings = Settings(database_url=cluster.new_schema())
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(running(create_app(settings))) for _ in "123"]
        for start in range(0, 100, 10):
            keys = [str(key) for key in range(start, start + 10)]
            asks = [create(client, key) for client in clients for key in keys]
            asks += [
                create(client, f"{key} c", id=5000 - int(key)) for client in clients for key in keys
            ]
            answers = await asyncio.gather(*asks)
            assert {*statuses(answers)} == {200}
            assert len({answer.content for answer in answers}) == 20
            assert sum(not is_replay(answer) for answer in answers) == 20
    assert len(stored(settings)) == 200


@pytest.mark.parametrize(
    "create_it",
    [lambda client: create(client, "a"), lambda client: create_bulk(client, "a", HERO)],
    ids=["one", "bulk"],
)
async def test_who_sends_a_key_that_is_under_way_elsewhere_waits_and_nobody_else_does(
    cluster: Cluster, create_it: Callable[..., Any]
) -> None:
    settings = Settings(database_url=cluster.new_schema())
    lock = "SELECT pg_advisory_xact_lock(hashtext('hero_api_idempotency'), hashtext('a'))"
    async with running(create_app(settings)) as client:
        with lock_of(settings, lock) as holder:
            waiting = [asyncio.create_task(create_it(client)) for _ in range(3)]
            others = await asyncio.gather(*(create(client, key) for key in "bcd"))
            assert {*statuses(others)} == {200}
            assert not any(task.done() for task in waiting)
            holder.rollback()
            answers = await asyncio.gather(*waiting)
    assert statuses(answers) == [200] * 3
    assert len({answer.content for answer in answers}) == 1
    assert len(stored(settings)) == 4


async def test_a_key_that_is_under_way_elsewhere_for_too_long_is_503_and_nothing_is_done(
    cluster: Cluster,
) -> None:
    settings = Settings(database_url=cluster.new_schema(), busy_timeout=0.1)
    lock = "SELECT pg_advisory_xact_lock(hashtext('hero_api_idempotency'), hashtext('a'))"
    async with running(create_app(settings)) as client:
        with lock_of(settings, lock):
            answer = await create(client, "a")
    assert answer.status_code == 503
    assert "nothing was changed" in answer.json()["detail"]
    assert stored(settings) == []


async def test_a_lock_on_the_whole_table_is_waited_for_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(database_url=cluster.new_schema(), busy_timeout=0.1)
    async with running(create_app(settings)) as client:
        await create(client, "a")
        executed = watch(monkeypatch, hero_api.storage.rows)
        with lock_of(settings, "LOCK TABLE hero IN SHARE MODE"):
            answer = await create(client, "b")
        tries = sum("INSERT INTO hero " in each and items != "[]" for each, items in executed)
        assert (answer.status_code, tries) == (503, 1)
        assert "nothing was changed" in answer.json()["detail"]
        assert (await create(client, "b")).status_code == 200


# A session of a test's own


async def test_a_session_of_a_tests_own_keeps_keys_too(app: FastAPI, settings: Settings) -> None:
    on_postgresql = settings.url.set(drivername="postgresql+psycopg")
    engine = create_async_engine(on_postgresql if settings.is_postgresql else "sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    async with AsyncSession(engine) as session:
        app.dependency_overrides[get_read_session] = lambda: session
        app.dependency_overrides[get_write_session] = lambda: session
        async with running(app) as client:
            answers = [await create(client, "a") for _ in range(2)]
            assert [is_replay(answer) for answer in answers] == [False, True]
            assert (await create(client, "b", id=7)).json()["id"] == 7
            assert (await client.patch("/heroes/1", json={"age": 5})).json()["age"] == 5
            assert (await client.delete("/heroes/1")).status_code == 200
            assert (await create(client, "a")).status_code == 410
    await engine.dispose()


async def test_what_a_trigger_on_the_keys_refuses_is_refused_and_not_tried_again(
    settings: Settings,
) -> None:
    act = "INSERT INTO seen VALUES (NEW.fingerprint);"
    async with running(create_app(settings)) as client:
        with connection_to(settings) as other:
            other.execute("CREATE TABLE seen (fingerprint text UNIQUE)")
            when = "CREATE TRIGGER see AFTER INSERT ON hero_api_idempotency"
            if settings.is_postgresql:
                body = f"BEGIN {act} RETURN NEW; END"
                other.execute(
                    f"CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $${body}$$"
                )
                other.execute(f"{when} FOR EACH ROW EXECUTE FUNCTION see()")
            else:
                other.execute(f"{when} BEGIN {act} END")
        answers = [await create(client, key) for key in "ab"]
    assert statuses(answers) == [200, 409]
    assert len(stored(settings)) == 1
