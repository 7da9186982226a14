"""The ETag of a hero: who knows it is told nothing twice, and overwrites nobody's change."""

import asyncio
from contextlib import AsyncExitStack

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from hero_api.app import create_app
from hero_api.dependencies import get_read_session, get_write_session
from hero_api.etags import tag_of
from hero_api.settings import Settings
from hero_api.testing import running

from .clusters import Cluster, connection_to, insert, stored
from .test_triggers import lock_of, trigger

HERO = {"name": "Zoë", "age": 0, "secret_name": "?"}
OTHER = '"00000000000000000000000000000000"'


async def create(client: httpx.AsyncClient) -> str:
    """Create hero 1, and return its tag."""
    answer = await client.post("/heroes/", json=HERO)
    assert answer.status_code == 200
    return answer.headers["ETag"]


def tag(answer: httpx.Response) -> str:
    return answer.headers["ETag"]


async def increment(client: httpx.AsyncClient) -> None:
    """Add one to the age of hero 1, and try again until nobody else was first."""
    status = 0
    while status != 200:
        known = await client.get("/heroes/1")
        changes, condition = {"age": known.json()["age"] + 1}, {"If-Match": tag(known)}
        status = (await client.patch("/heroes/1", json=changes, headers=condition)).status_code
        assert status in {200, 412}


async def test_every_answer_that_shows_a_hero_has_its_tag(client: httpx.AsyncClient) -> None:
    created = await client.post("/heroes/", json=HERO)
    changed = await client.patch("/heroes/1", json={"age": 1})
    again = await client.patch("/heroes/1", json={"age": 0})
    assert tag(created) == tag(again) == tag(await client.get("/heroes/1")) == tag_of(again.text)
    assert tag(changed) != tag(created)


async def test_a_chosen_id_changes_nothing_about_that(client: httpx.AsyncClient) -> None:
    created = await client.post("/heroes/", json=HERO | {"id": 7})
    assert tag(created) == tag(await client.get("/heroes/7"))


async def test_what_a_trigger_makes_of_a_hero_is_in_its_tag(settings: Settings) -> None:
    async with running(create_app(settings)) as client:
        with connection_to(settings) as other:
            if settings.is_postgresql:
                body = "BEGIN NEW.age := COALESCE(NEW.age, 0) + 5; RETURN NEW; END"
                trigger(other, "BEFORE INSERT OR UPDATE", body)
            else:
                body = "BEGIN UPDATE hero SET age = age + 5 WHERE id = NEW.id; END"
                other.execute(f"CREATE TRIGGER one AFTER INSERT ON hero {body}")
                other.execute(f"CREATE TRIGGER two AFTER UPDATE OF name ON hero {body}")
        created = await create(client)
        assert created == tag(await client.get("/heroes/1"))
        condition = {"If-Match": created}
        changed = await client.patch("/heroes/1", json={"name": "b"}, headers=condition)
        assert (changed.status_code, changed.json()["age"]) == (200, 10)
        assert tag(changed) == tag(await client.get("/heroes/1"))


# If-None-Match


@pytest.mark.parametrize("form", ["{}", f"{OTHER}, {{}}", "W/{}", f'W/"a,b" ,W/{{}},{OTHER}', "*"])
async def test_who_has_a_hero_already_is_told_so(client: httpx.AsyncClient, form: str) -> None:
    known = await create(client)
    answer = await client.get("/heroes/1", headers={"If-None-Match": form.format(known)})
    assert (answer.status_code, answer.content, tag(answer)) == (304, b"", known)
    assert "content-type" not in answer.headers


async def test_the_tags_may_stand_in_two_headers(client: httpx.AsyncClient) -> None:
    known = await create(client)
    headers = [("If-None-Match", OTHER), ("If-None-Match", known)]
    assert (await client.get("/heroes/1", headers=headers)).status_code == 304


@pytest.mark.parametrize("form", [OTHER, "w/{}", "W/ {}", "", "\xff", "no {}", '"'])
async def test_who_has_another_hero_gets_this_one(client: httpx.AsyncClient, form: str) -> None:
    headers = {"If-None-Match": form.format(await create(client)).encode("latin-1")}
    answer = await client.get("/heroes/1", headers=headers)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()) == (200, HERO | {"id": 1})


async def test_a_hero_that_is_not_there_is_not_known_either(client: httpx.AsyncClient) -> None:
    assert (await client.get("/heroes/1", headers={"If-None-Match": "*"})).status_code == 404


async def test_a_create_heeds_no_condition(client: httpx.AsyncClient) -> None:
    for headers in ({"If-None-Match": "*"}, {"If-Match": OTHER}):
        answers = [
            await client.post("/heroes/", json=HERO | fields, headers=headers)
            for fields in ({"id": 7}, {"id": 7}, {})
        ]
        assert [answer.status_code for answer in answers] == [200, 409, 200]
        assert (await client.delete("/heroes/7")).status_code == 200


# If-Match


@pytest.mark.parametrize("form", ["{}", f"{OTHER},{{}}", f'W/{OTHER}, "a,b" , {{}}', "*"])
async def test_a_change_of_what_the_client_knows_is_done(
    client: httpx.AsyncClient, form: str
) -> None:
    condition = {"If-Match": form.format(await create(client))}
    answer = await client.patch("/heroes/1", json={"age": 1}, headers=condition)
    assert (answer.status_code, answer.json()["age"]) == (200, 1)
    condition = {"If-Match": form.format(tag(answer))}
    assert (await client.delete("/heroes/1", headers=condition)).status_code == 200


@pytest.mark.parametrize("form", [OTHER, "W/{}", "W/ {}", "w/{}", "", "no {}", f"{OTHER}{{}}"])
async def test_a_change_of_what_is_another_hero_now_is_412(
    client: httpx.AsyncClient, form: str
) -> None:
    condition = {"If-Match": form.format(await create(client))}
    answers = [
        await client.patch("/heroes/1", json={"age": 1}, headers=condition),
        await client.delete("/heroes/1", headers=condition),
    ]
    assert [answer.status_code for answer in answers] == [412, 412]
    assert "nothing was changed" in answers[0].json()["detail"]
    assert (await client.get("/heroes/1")).json() == HERO | {"id": 1}


@pytest.mark.parametrize("condition", [OTHER, "*"])
async def test_a_hero_that_is_not_there_is_404_whatever_is_expected_of_it(
    client: httpx.AsyncClient, condition: str
) -> None:
    headers = {"If-Match": condition}
    assert (await client.patch("/heroes/1", json={}, headers=headers)).status_code == 404
    assert (await client.delete("/heroes/1", headers=headers)).status_code == 404


async def test_of_changes_at_the_same_time_that_know_the_same_hero_one_is_done(
    client: httpx.AsyncClient,
) -> None:
    condition = {"If-Match": await create(client)}
    asks = [client.patch("/heroes/1", json={"age": n}, headers=condition) for n in range(1, 9)]
    asks += [client.delete("/heroes/1", headers=condition) for _ in range(4)]
    statuses = sorted(answer.status_code for answer in await asyncio.gather(*asks))
    assert statuses.count(200) == 1
    assert {*statuses} <= {200, 404, 412}


async def test_a_change_that_knows_an_old_hero_does_not_keep_others_from_it(
    client: httpx.AsyncClient,
) -> None:
    await create(client)
    stale = {"If-Match": OTHER}
    answers = await asyncio.gather(
        *(client.patch("/heroes/1", json={"age": 1}, headers=stale) for _ in range(5)),
        client.patch("/heroes/1", json={"age": 2}),
        client.delete("/heroes/1", headers=stale),
    )
    assert [answer.status_code for answer in answers] == [*[412] * 5, 200, 412]
    assert (await client.get("/heroes/1")).json()["age"] == 2


async def test_clients_that_increment_one_hero_lose_no_update(client: httpx.AsyncClient) -> None:
    await create(client)
    await asyncio.gather(*(increment(client) for _ in range(64)))
    assert (await client.get("/heroes/1")).json()["age"] == 64


async def test_nor_do_those_of_several_processes(cluster: Cluster) -> None:
    settings = Settings(database_url=cluster.new_schema())
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(running(create_app(settings))) for _ in "123"]
        await create(clients[0])
        await asyncio.gather(*(increment(client) for client in clients for _ in range(12)))
        assert (await clients[0].get("/heroes/1")).json()["age"] == 36


async def test_what_another_program_does_with_a_row_that_it_has_locked_counts(
    cluster: Cluster,
) -> None:
    settings = Settings(database_url=cluster.new_schema())
    async with running(create_app(settings)) as client:
        condition = {"If-Match": await create(client)}
        with lock_of(settings, "UPDATE hero SET age = 50") as holder:
            asks = [client.patch("/heroes/1", json={"age": n}, headers=condition) for n in "123"]
            asks.append(client.delete("/heroes/1", headers=condition))
            tasks = [asyncio.create_task(ask) for ask in asks]
            await client.post("/heroes/", json=HERO)  # a batch after the one that found it locked
            holder.commit()
            answers = await asyncio.gather(*tasks)
    assert [answer.status_code for answer in answers] == [412] * 4
    assert stored(settings)[0][2] == 50


@pytest.mark.sqlite
async def test_a_row_that_nobody_can_read_is_not_what_a_client_knows(settings: Settings) -> None:
    async with running(create_app(settings)) as client:
        insert(settings, (1, b"blob", None, "?"))  # type: ignore[arg-type]
        assert (await client.delete("/heroes/1", headers={"If-Match": OTHER})).status_code == 500
        assert (await client.delete("/heroes/1")).status_code == 200


@pytest.mark.sqlite
async def test_a_session_of_a_tests_own_loses_no_update_of_another_connection(
    app: FastAPI, settings: Settings
) -> None:
    async with running(app) as client:
        await create(client)
        engine = create_async_engine(settings.database_url)
        async with AsyncSession(engine) as session:
            on_session = create_app(settings)
            on_session.dependency_overrides[get_read_session] = lambda: session
            on_session.dependency_overrides[get_write_session] = lambda: session
            async with running(on_session) as other:
                both = [client, other] * 8
                await asyncio.gather(*(increment(each) for each in both))
                assert (await other.get("/heroes/1")).json()["age"] == 16
        await engine.dispose()
