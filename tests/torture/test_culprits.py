"""One bad request beside good ones: it is refused alone, whatever it is that refuses it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running
from tests.clusters import Cluster, connection_to, stored

from .faults import Faults
from .refusals import (
    NARROW_IDS,
    REFUSALS,
    SERIALIZABLE,
    SKIPPED,
    TRIED,
    WIDE_IDS,
    Refusal,
    new_hero,
)

GOOD = 32
ROUNDS = 30
FEW = 12  # transactions, for what would be 33 if each request had its own
PREPARED = 12  # times, after which psycopg has long prepared a statement on each connection


@dataclass(frozen=True)
class Service:
    """A service on a database that refuses something."""

    client: httpx.AsyncClient
    refusal: Refusal
    settings: Settings

    async def ask(self, *bad: int) -> tuple[Sequence[httpx.Response], Sequence[httpx.Response]]:
        """Ask at once for good heroes and, at these places among them, for what is refused."""
        assert self.refusal.bad is not None
        asked = [self.request("POST", "/heroes/", new_hero(number)) for number in range(GOOD)]
        for number, place in enumerate(bad):
            asked.insert(place, self.request(*self.refusal.bad(number)))
        answers = await asyncio.gather(*asked)
        return (
            [answer for place, answer in enumerate(answers) if place not in bad],
            [answers[place] for place in bad],
        )

    async def request(self, method: str, path: str, content: object = None) -> httpx.Response:
        if content is None:
            return await self.client.request(method, path)
        return await self.client.request(method, path, json=content)


REFUSING = [refusal for refusal in REFUSALS if refusal.bad is not None and not refusal.half]
RENAMING = [refusal for refusal in REFUSALS if refusal.changes_names]
ONE = (GOOD // 2,)
AS_MANY = tuple(range(1, 2 * GOOD, 2))
each_refusal = pytest.mark.parametrize(
    "refusal", REFUSING, ids=lambda refusal: f"{refusal.engine}: {refusal.name}"
)
each_share = pytest.mark.parametrize("bad", [ONE, AS_MANY], ids=["one is bad", "half are bad"])


@pytest.fixture
async def prepared(request: pytest.FixtureRequest, refusal: Refusal, tmp_path: Path) -> Settings:
    on_postgresql = refusal.engine == "postgresql"
    cluster: Cluster | None = request.getfixturevalue("cluster") if on_postgresql else None
    return await refusal.prepare(tmp_path, cluster)


@pytest.fixture
async def service(refusal: Refusal, prepared: Settings) -> AsyncIterator[Service]:
    async with running(create_app(prepared)) as client:
        yield Service(client, refusal, prepared)


@each_share
@each_refusal
async def test_good_heroes_are_stored_beside_what_the_database_refuses_and_says_so(
    service: Service, bad: tuple[int, ...]
) -> None:
    before = stored(service.settings)
    good, refused = await service.ask(*bad)
    assert [answer.status_code for answer in good] == [200] * GOOD
    rows = stored(service.settings)
    heroes = {hero_id: fields for hero_id, *fields in rows}
    for number, answer in enumerate(good):
        assert heroes[answer.json()["id"]] == [*new_hero(number).values()]
    assert {answer.status_code for answer in refused} <= {409, 422}
    assert all(answer.json()["detail"] for answer in refused)
    ids = {answer.json()["id"] for answer in good}
    assert [row for row in rows if row[0] not in ids] == before


@each_refusal
async def test_a_bad_request_alone_is_told_so_too(service: Service) -> None:
    assert service.refusal.bad is not None
    answer = await service.request(*service.refusal.bad(0))
    assert answer.status_code in {409, 422}
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "refusal", [refusal for refusal in REFUSING if refusal.deletes], ids=lambda each: each.engine
)
async def test_heroes_are_deleted_beside_one_that_the_database_keeps(service: Service) -> None:
    assert service.refusal.bad is not None
    good, _ = await service.ask(*ONE)
    deletes = [service.request("DELETE", answer.headers["Location"]) for answer in good]
    kept = service.request(*service.refusal.bad(0))
    answers = await asyncio.gather(*deletes, kept)
    assert [answer.status_code for answer in answers] == [200] * GOOD + [409]
    assert [name for _, name, *_ in stored(service.settings)] == ["named"]


@pytest.mark.usefixtures("unhurried_probe")
@each_refusal
async def test_a_service_is_ready_while_it_refuses(service: Service) -> None:
    _, probe = await asyncio.gather(
        service.ask(*AS_MANY[::4]), service.client.get("/readyz"), return_exceptions=True
    )
    assert isinstance(probe, httpx.Response)
    assert probe.status_code == 200


@pytest.mark.parametrize(
    "refusal",
    [refusal for refusal in REFUSING if refusal.engine == "sqlite"],
    ids=lambda refusal: refusal.name,
)
async def test_good_heroes_share_few_transactions_beside_a_bad_one(
    faults: Faults, prepared: Settings, refusal: Refusal
) -> None:
    async with running(create_app(prepared)) as client:
        commits = faults.count("COMMIT")
        await Service(client, refusal, prepared).ask(*ONE)
        assert commits.met <= FEW


@pytest.mark.parametrize("refusal", [SKIPPED], ids=lambda refusal: refusal.name)
async def test_a_hero_that_a_trigger_drops_is_not_tried_again_and_again(service: Service) -> None:
    await service.ask(*ONE)
    with connection_to(service.settings) as connection:
        [tried] = connection.execute(TRIED).fetchone()
    assert tried <= FEW


@pytest.mark.parametrize(
    "refusal", RENAMING, ids=lambda refusal: f"{refusal.engine}: {refusal.name}"
)
async def test_an_answer_shows_the_hero_as_a_trigger_has_left_it(service: Service) -> None:
    heroes = [new_hero(number) for number in range(GOOD)]
    answers = await asyncio.gather(*(service.client.post("/heroes/", json=hero) for hero in heroes))
    expected = [hero | {"name": str(hero["name"]).upper()} for hero in heroes]
    assert [answer.status_code for answer in answers] == [200] * GOOD
    answered = [answer.json() for answer in answers]
    rows = {hero_id: fields for hero_id, *fields in stored(service.settings)}
    assert [rows[hero.pop("id")] for hero in answered] == [[*hero.values()] for hero in expected]
    assert answered == expected


@pytest.mark.parametrize("refusal", [SERIALIZABLE], ids=lambda refusal: refusal.name)
async def test_two_services_get_along_where_transactions_are_serializable(
    prepared: Settings,
) -> None:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(running(create_app(prepared)))
            for _ in range(SERIALIZABLE.servers)
        ]
        hero = await clients[0].post("/heroes/", json=new_hero(0))
        answers = []
        for number in range(1, ROUNDS):
            creates = [client.post("/heroes/", json=new_hero(number)) for client in clients]
            # Of one hero, so that one of the two has to see what the other has made of it.
            patches = [
                client.patch(hero.headers["Location"], json={"age": number}) for client in clients
            ]
            answers += await asyncio.gather(*creates, *patches)
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert len(stored(prepared)) == 1 + len(answers) // 2


@pytest.mark.parametrize(
    "refusal", [Refusal("narrow ids", "postgresql", NARROW_IDS, None)], ids=["narrow ids"]
)
async def test_heroes_are_served_on_after_the_type_of_their_ids_was_changed(
    service: Service,
) -> None:
    async def statuses() -> list[int]:
        # At once, so that every connection is used.
        create = service.client.post("/heroes/", json=new_hero(1))
        gets = [service.client.get("/heroes/1") for _ in range(GOOD)]
        pages = [service.client.get(f"/heroes/?limit={number}") for number in range(GOOD)]
        return [answer.status_code for answer in await asyncio.gather(create, *gets, *pages)]

    assert (await service.client.post("/heroes/", json=new_hero(0))).status_code == 200
    before = [await statuses() for _ in range(PREPARED)]
    with connection_to(service.settings) as connection:
        connection.execute(WIDE_IDS)
    after = [await statuses() for _ in range(PREPARED)]
    assert before == after == [[200] * (1 + 2 * GOOD)] * PREPARED
