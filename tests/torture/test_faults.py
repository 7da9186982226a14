"""Faults in a batch: success implies stored, refused implies not stored, and nobody hangs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running

from .faults import ERRORS, Faults, Moment
from .ledger import Change, Hero, Ledger, stored_heroes

pytestmark = pytest.mark.sqlite  # what it does to the file is SQLite's

PATIENCE = 60.0  # seconds: several times the time-outs below
STEPS = ["BEGIN", "INSERT", "UPDATE", "DELETE", "COMMIT"]
STATUSES = {"BUSY": 503, "IOERR": 503, "FULL": 507, "CONSTRAINT": 409}
# A BEGIN is about no hero: whatever it breaks, nobody's request is to blame.
LASTING = [
    (step, error, 503 if (step, error) == ("BEGIN", "CONSTRAINT") else status)
    for step in STEPS
    for error, status in STATUSES.items()
]
each_step = pytest.mark.parametrize("step", STEPS)
# A batch with ids that clients chose and others has two INSERTs, and one with two patches to a hero
# two UPDATEs: the second one is met where the first is skipped.
TURNS = {step: (step, 0) for step in STEPS} | {
    f"second {step}": (step, 1) for step in ("INSERT", "UPDATE")
}
FAULTS = [
    (*turn, error, moment)
    for turn in TURNS.values()
    for error in ERRORS
    for moment in Moment
    # SQLite says the others only of a COMMIT that it did not do.
    if turn[0] != "COMMIT" or moment is not Moment.AFTER or error == "IOERR"
]
each_turn = pytest.mark.parametrize(("step", "skip"), TURNS.values(), ids=TURNS.keys())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    url = f"sqlite:///{tmp_path}/heroes.db"
    return Settings(database_url=url, request_timeout=20, busy_timeout=1)


@pytest.fixture
async def client(faults: Faults, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    assert faults.met == 0
    async with running(create_app(settings)) as client:
        yield client
        faults.lift()


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """See that each event is one line of the log."""
    yield
    for record in caplog.get_records("call"):
        assert record.getMessage().isprintable()
        assert not record.exc_info


class Batches:
    """Batches of creates, patches and deletes, and the ledger of what they were answered."""

    def __init__(self, client: httpx.AsyncClient, settings: Settings) -> None:
        self.client = client
        self.file = settings.path
        self.ledger = Ledger()
        self.details: list[tuple[int, str]] = []

    async def prepare(self) -> None:
        """Store the heroes that `send` patches and deletes."""
        heroes = [Hero(f"old {number}", None, "?") for number in range(20)]
        await asyncio.gather(*(self._create(hero) for hero in heroes))
        assert self.details == []

    async def send(self) -> int:
        """Send batches of each kind at once, wait for every answer, and return how many came.

        Some creates choose their ids, and some heroes are patched twice.
        """
        known = sorted(self.ledger.known())
        free = max(known, default=0) + 1_000
        requests = [self._create(Hero(f"new {number}", number, "?")) for number in range(10)]
        requests += [self._choose(free + n, Hero(f"chosen {n}", n, "?")) for n in range(5)]
        requests += [self._patch(hero_id, f"patched {hero_id}") for hero_id in known[:5]]
        requests += [self._patch_twice(hero_id) for hero_id in known[5:10]]
        requests += [self._delete(hero_id) for hero_id in known[10:]]
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*requests)
        return len(requests) + len(known[5:10])

    def check(self) -> None:
        """See that what is stored is what was answered."""
        assert self.ledger.check(stored_heroes(self.file)) == ([], [])

    async def _create(self, hero: Hero) -> None:
        answering = self.client.post("/heroes/", json=hero._asdict())
        await self._settle(Change(None, hero), answering)

    async def _choose(self, hero_id: int, hero: Hero) -> None:
        answering = self.client.post("/heroes/", json=hero._asdict() | {"id": hero_id})
        await self._settle(Change(hero_id, hero), answering)

    async def _patch(self, hero_id: int, name: str) -> None:
        hero = self.ledger.known()[hero_id]
        assert hero is not None
        answering = self.client.patch(f"/heroes/{hero_id}", json={"name": name})
        await self._settle(Change(hero_id, hero._replace(name=name)), answering)

    async def _delete(self, hero_id: int) -> None:
        await self._settle(Change(hero_id, None), self.client.delete(f"/heroes/{hero_id}"))

    async def _patch_twice(self, hero_id: int) -> None:
        """Patch two fields of one hero at once; each of the two may have happened or not."""
        hero = self.ledger.known()[hero_id]
        assert hero is not None
        possible = {hero}
        patches: list[dict[str, Any]] = [{"name": f"twice {hero_id}"}, {"secret_name": "twice"}]
        answering = [self.client.patch(f"/heroes/{hero_id}", json=patch) for patch in patches]
        for patch, response in zip(patches, await asyncio.gather(*answering), strict=True):
            patched = {each._replace(**patch) for each in possible}
            if response.status_code == 200:
                assert response.json().items() >= patch.items()
                possible = patched
            elif "unknown" in self._note(response):
                possible |= patched
        self.ledger.heroes[hero_id] = frozenset(possible)

    async def _settle(self, change: Change, answering: Awaitable[httpx.Response]) -> None:
        self.ledger.begin(change)
        response = await answering
        if response.status_code == 200:
            hero_id = change.hero_id or int(response.json()["id"])
            self.ledger.acknowledge(change, hero_id)
            return
        if "unknown" in self._note(response):
            self.ledger.leave_unknown(change)
        else:
            self.ledger.refuse(change)

    def _note(self, response: httpx.Response) -> str:
        detail: str = response.json()["detail"]
        self.details.append((response.status_code, detail))
        return detail


@pytest.fixture
async def batches(client: httpx.AsyncClient, settings: Settings) -> Batches:
    batches = Batches(client, settings)
    await batches.prepare()
    return batches


@pytest.mark.parametrize(("step", "skip", "error", "moment"), FAULTS)
async def test_answers_are_true_when_a_step_of_a_batch_fails(  # noqa: PLR0913, PLR0917
    batches: Batches, faults: Faults, step: str, skip: int, error: str, moment: Moment
) -> None:
    faults.fail(step, error, moment, skip=skip)
    await batches.send()
    assert faults.met == 1
    batches.check()


@pytest.mark.parametrize(("step", "error", "status"), LASTING)
async def test_what_fails_every_time_is_answered_by_its_error(
    batches: Batches, faults: Faults, step: str, error: str, status: int
) -> None:
    faults.fail(step, error, Moment.BEFORE, times=1_000_000)
    sent = await batches.send()
    assert batches.details
    assert {answered for answered, _ in batches.details} == {status}
    if step in {"BEGIN", "COMMIT"}:
        assert len(batches.details) == sent
    if status != 409:
        words = "unknown" if (step, error) == ("COMMIT", "IOERR") else "nothing was changed"
        assert all(words in detail for _, detail in batches.details)
    faults.lift()
    batches.check()


@pytest.mark.parametrize("error", ERRORS)
@each_step
async def test_the_service_works_after_a_fault(
    batches: Batches, faults: Faults, step: str, error: str
) -> None:
    faults.fail(step, error, Moment.UNDONE, times=4)
    await batches.send()
    faults.lift()
    batches.check()
    batches.details.clear()
    await batches.send()
    assert batches.details == []
    batches.check()


@each_step
async def test_the_death_of_a_connection_is_one_line_of_the_log(
    client: httpx.AsyncClient, faults: Faults, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    hero = {"name": "Deadpond", "secret_name": "Dive Wilson"}
    assert (await client.post("/heroes/", json=hero)).status_code == 200
    method = {"UPDATE": "PATCH", "DELETE": "DELETE"}.get(step, "POST")
    path = "/heroes/" if method == "POST" else "/heroes/1"
    faults.cut(step)
    answer = await client.request(method, path, json=None if method == "DELETE" else hero)
    assert answer.status_code == 503
    [record] = caplog.records
    assert record.getMessage().endswith(answer.json()["detail"])


@each_turn
async def test_answers_are_true_when_the_connection_dies_at_a_step_and_the_service_works_on(
    batches: Batches, faults: Faults, step: str, skip: int
) -> None:
    faults.cut(step, skip=skip)
    await batches.send()
    assert faults.met == 1
    batches.check()
    batches.details.clear()
    await batches.send()
    assert batches.details == []


async def test_a_constraint_that_one_hero_breaks_is_refused_to_it_alone(
    batches: Batches, faults: Faults
) -> None:
    faults.fail("UPDATE", "CONSTRAINT", Moment.BEFORE)
    await batches.send()
    assert len(batches.details) <= 1
    batches.check()


@pytest.mark.parametrize("error", ERRORS)
async def test_a_connection_that_cannot_roll_back_is_replaced(
    client: httpx.AsyncClient, faults: Faults, error: str
) -> None:
    hero = {"name": "Deadpond", "secret_name": "Dive Wilson", "id": 7}
    create = faults.fail("INSERT", error, Moment.AFTER)
    rollback = faults.fail("ROLLBACK", error, Moment.BEFORE, times=1_000_000)
    assert (await client.post("/heroes/", json=hero)).status_code in {409, 503, 507}
    assert create.met == 1
    assert rollback.met >= 1
    assert (await client.get("/heroes/7")).status_code == 404
    # No other transaction can begin on a connection that still has one.
    assert (await client.post("/heroes/", json=hero)).status_code == 200


@pytest.mark.parametrize("error", ["BUSY", "IOERR", "FULL"])
@pytest.mark.parametrize("path", ["/heroes/1", "/heroes/", "/heroes/?count=true"])
async def test_a_read_that_fails_is_answered_and_the_next_one_works(
    batches: Batches, client: httpx.AsyncClient, faults: Faults, path: str, error: str
) -> None:
    assert batches.details == []
    step = "WITH" if path == "/heroes/" else "SELECT" if path.startswith("/heroes/1") else ""
    faults.fail(step, error, Moment.BEFORE)
    responses = await asyncio.gather(*(client.get(path) for _ in range(8)))
    assert faults.met == 1
    assert {response.status_code for response in responses} <= {200, 503, 507}
    assert (await client.get(path)).status_code == 200


async def test_a_writer_whose_thread_ended_is_replaced(app: FastAPI, settings: Settings) -> None:
    async with running(app) as client:
        async with app.state.database.write_session() as session:
            connection = await session.connection()
            raw = await connection.get_raw_connection()
            await raw.driver_connection.close()
        batches = Batches(client, settings)
        await batches.send()
        batches.check()
        batches.details.clear()
        await batches.send()
        assert batches.details == []
