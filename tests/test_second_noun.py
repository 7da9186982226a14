"""A noun beside the heroes: declared like them, it needs no SQL and no module of the service."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Query, Response
from pydantic import ConfigDict, create_model
from sqlalchemy import BigInteger, Column, DateTime, Integer, LargeBinary
from sqlmodel import Field, SQLModel, col, update

from hero_api.app import create_app
from hero_api.commands.copy import copy
from hero_api.commands.progress import Progress
from hero_api.database.pages import Page
from hero_api.database.sessions import ReadOnlySession, ReadWriteSession
from hero_api.database.statements import Filter
from hero_api.dependencies import IdempotencyKey, IfMatch, get_read_session, get_write_session
from hero_api.errors import DamagedRowError, StartError
from hero_api.etags import tag_of
from hero_api.heroes import heroes
from hero_api.models import HeroCreate
from hero_api.settings import Settings
from hero_api.storage import Storage
from hero_api.testing import running

from .clusters import Cluster


class MissionBase(SQLModel):
    id: int | None = None
    title: str = Field(index=True)
    priority: int = Field(default=1, index=True)
    is_secret: bool = False
    is_NATO: bool | None = None  # noqa: N815 - names that SQL quotes
    order: str | None = None
    budget: float | None = None
    day: date | None = Field(default=None, index=True)
    at: time | None = None
    begun: datetime | None = None
    ended: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


class Mission(MissionBase, table=True):
    __table_args__ = {"sqlite_autoincrement": True}

    id: int | None = Field(
        default=None,
        sa_column=Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    )


class MissionUpdate(SQLModel):
    title: str = ""
    priority: int = 1
    is_secret: bool = False
    budget: float | None = None
    day: date | None = None


class MissionPublic(MissionBase):
    id: int


class MissionPage(Page, frozen=True):
    title: str | None = None
    is_secret: bool | None = None
    not_before: date | None = None
    min_budget: float | None = None


missions: Storage[MissionBase, MissionUpdate] = Storage(
    Mission,
    public=MissionPublic,
    filters={
        "title": Filter("title", "="),
        "is_secret": Filter("is_secret", "="),
        "not_before": Filter("day", ">="),
        "min_budget": Filter("budget", ">="),
    },
)
Reads = Annotated[ReadOnlySession, Depends(get_read_session)]
Writes = Annotated[ReadWriteSession, Depends(get_write_session)]


async def create_mission(mission: MissionBase, key: IdempotencyKey, session: Writes) -> Response:
    return Response((await missions.create(session, mission, key)).body)


async def read_missions(page: Annotated[MissionPage, Query()], session: Reads) -> Response:
    listed = await missions.list_page(session, page)
    return Response(listed.body, headers={"X-Next": str(listed.next_after)})


async def read_mission(mission_id: int, session: Reads) -> Response:
    return Response(await missions.get(session, mission_id))


async def update_mission(
    mission_id: int, mission: MissionUpdate, if_match: IfMatch, session: Writes
) -> Response:
    return Response(await missions.update(session, mission_id, mission, if_match))


async def delete_mission(mission_id: int, session: Writes) -> Response:
    await missions.delete(session, mission_id)
    return Response()


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    app = create_app(settings, storages=[heroes, missions])
    app.post("/missions/")(create_mission)
    app.get("/missions/")(read_missions)
    app.get("/missions/{mission_id}")(read_mission)
    app.patch("/missions/{mission_id}")(update_mission)
    app.delete("/missions/{mission_id}")(delete_mission)
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app) as client:
        yield client


FULL: dict[str, Any] = {
    "title": 'Zoë\'s "mission" \\ 1',
    "priority": 3,
    "is_secret": True,
    "budget": 0.1 + 0.2,
    "day": "2026-02-28",
    "at": "23:59:59.123456",
    "begun": "2026-02-28T12:00:00.5",
    "ended": "2026-03-01T00:00:00+02:00",
}


def as_pydantic_has_it(mission: dict[str, Any]) -> dict[str, Any]:
    return MissionPublic.model_validate(mission).model_dump(mode="json")


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Say whether values are the same; a moment is, in whatever zone it is written."""

    def comparable(mission: dict[str, Any]) -> dict[str, Any]:
        moments = {name: mission[name] for name in ("begun", "ended") if mission[name]}
        for name, moment in moments.items():
            parsed = datetime.fromisoformat(moment)
            # SQLModel's own type for moments takes one without a zone for one of UTC.
            moments[name] = parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        return mission | moments

    return comparable(one) == comparable(other)


async def test_every_type_is_answered_with_the_value_that_pydantic_would_give(
    client: httpx.AsyncClient,
) -> None:
    created = (await client.post("/missions/", json=FULL)).json()
    assert same(created, as_pydantic_has_it(FULL | {"id": 1}))
    assert (await client.get("/missions/1")).json() == created
    assert (await client.get("/missions/")).json() == [created]


@pytest.mark.parametrize("budget", [0.0, -0.0, 5.0, 1e300, 5e-324, 1 / 3, 2**53 + 1.0, 1e22, 0.1])
async def test_no_digit_of_a_float_is_lost(client: httpx.AsyncClient, budget: float) -> None:
    answer = await client.post("/missions/", json={"title": "?", "budget": budget})
    assert answer.json()["budget"] == budget
    listed = (await client.get("/missions/", params={"min_budget": budget})).json()
    assert [each["budget"] for each in listed] == [budget]
    assert not math.isnan(listed[0]["budget"])


async def test_what_was_not_sent_is_the_default(client: httpx.AsyncClient) -> None:
    created = (await client.post("/missions/", json={"title": "?"})).json()
    assert created == as_pydantic_has_it({"title": "?", "id": 1})


async def test_only_what_was_sent_is_changed(client: httpx.AsyncClient) -> None:
    created = (await client.post("/missions/", json=FULL)).json()
    changes = {"is_secret": False, "budget": None, "day": "2027-01-01"}
    changed = (await client.patch("/missions/1", json=changes)).json()
    assert changed == created | changes
    assert (await client.get("/missions/1")).json() == changed


NUL = "a\0b"  # which SQLite's functions for JSON would cut off, and PostgreSQL takes nowhere


async def test_text_with_a_nul_is_refused_and_that_before_the_nul_is_not_stored(
    client: httpx.AsyncClient,
) -> None:
    plain = {"title": r"a \u0000 that is none, behind a backslash: \\u0000"}
    keyed = {"Idempotency-Key": "key"}
    answers = await asyncio.gather(
        client.post("/missions/", json=plain),
        *(client.post("/missions/", json=mission) for mission in ({"title": NUL}, {"title": "\0"})),
        client.post("/missions/", json={"title": NUL}, headers=keyed),
    )
    assert [answer.status_code for answer in answers] == [200, 422, 422, 422]
    changed = await client.patch("/missions/1", json={"title": NUL})
    assert changed.status_code == 422
    assert (await client.get("/missions/")).json() == [as_pydantic_has_it(plain | {"id": 1})]


@pytest.mark.parametrize(
    "unfit",
    [
        {"title": "\ud800"},
        {"priority": 2**63},
        {"budget": "inf"},
        {"budget": "nan"},
        {"begun": "0001-01-01T00:00:00+14:00"},
        {"ended": "9999-12-31T23:59:59-14:00"},
    ],
)
async def test_what_no_engine_stores_as_it_is_is_refused(
    client: httpx.AsyncClient, unfit: dict[str, object]
) -> None:
    created = (await client.post("/missions/", json=FULL)).json()
    content = json.dumps(FULL | unfit).encode()
    plain = {"Content-Type": "application/json"}
    for headers in (plain, plain | {"Idempotency-Key": "key"}):
        answer = await client.post("/missions/", content=content, headers=headers)
        assert answer.status_code == 422
    changes = json.dumps(unfit).encode()
    answer = await client.patch("/missions/1", content=changes, headers=plain)
    assert answer.status_code == (422 if unfit.keys() <= MissionUpdate.model_fields.keys() else 200)
    assert (await client.get("/missions/")).json() == [created]


@pytest.mark.parametrize("number", [math.inf, -math.inf])
async def test_a_float_that_json_cannot_show_damages_its_row_alone(
    app: FastAPI, number: float
) -> None:
    async with running(app) as client:
        for _ in range(3):
            await client.post("/missions/", json=FULL)
        async with app.state.database.write_session() as session:
            await session.execute(update(Mission).where(col(Mission.id) == 2).values(budget=number))
            await session.commit()
        asked = ("1", "2", "3", "?limit=1", "?limit=2", "?after=2", "")
        answers = await asyncio.gather(*(client.get(f"/missions/{each}") for each in asked))
        statuses = [answer.status_code for answer in answers]
        assert statuses == [200, 500, 200, 200, 500, 200, 500]
        for answer in (answers[1], answers[4], answers[6]):
            assert answer.json()["detail"].startswith(DamagedRowError.detail)
        mended = await client.patch("/missions/2", json={"budget": 1.5})
        assert mended.json()["budget"] == 1.5
        assert (await client.get("/missions/")).status_code == 200


@pytest.mark.sqlite
@pytest.mark.parametrize("key", [None, "key"])
async def test_lines_that_cannot_be_stored_are_named_with_a_key_and_without(
    app: FastAPI, key: str | None
) -> None:
    @app.post("/bulk")
    async def create_bulk(session: Writes) -> None:
        rows = {n: MissionBase(title=title) for n, title in ((1, "a"), (3, NUL), (4, "b"))}
        await missions.create_bulk(session, rows, key)

    async with running(app) as client:
        answer = await client.post("/bulk")
    assert answer.status_code == 422
    assert [line["loc"] for line in answer.json()["detail"]] == [["body", 3]]


async def test_a_filter_by_text_with_a_nul_finds_nothing_and_is_no_fault(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/missions/", params={"title": NUL})
    assert (answer.status_code, answer.json()) == (200, []) or answer.status_code == 422


async def test_each_filter_finds_its_own(client: httpx.AsyncClient) -> None:
    heaps = [
        {"title": "a", "is_secret": True, "day": "2026-01-01", "budget": 1.5},
        {"title": "b", "is_secret": False, "day": "2026-01-02", "budget": 2.5},
        {"title": "c", "is_secret": True, "day": "2026-01-03", "budget": 3.5},
    ]
    for mission in heaps:
        assert (await client.post("/missions/", json=mission)).status_code == 200

    async def found(**query: object) -> str:
        answer = await client.get("/missions/", params={k: str(v) for k, v in query.items()})
        return "".join(mission["title"] for mission in answer.json())

    assert await found() == "abc"
    assert await found(title="b") == "b"
    assert await found(is_secret=True) == "ac"
    assert await found(is_secret=False) == "b"
    assert await found(not_before="2026-01-02") == "bc"
    assert await found(min_budget=3) == "c"
    assert await found(is_secret=True, not_before="2026-01-02") == "c"


async def test_pages_lead_from_one_to_the_next(client: httpx.AsyncClient) -> None:
    await asyncio.gather(*(client.post("/missions/", json={"title": "?"}) for _ in range(5)))
    first = await client.get("/missions/", params={"limit": 2})
    second = await client.get("/missions/", params={"limit": 2, "after": first.headers["X-Next"]})
    assert [each["id"] for each in [*first.json(), *second.json()]] == [1, 2, 3, 4]


async def test_its_changes_share_batches_with_those_of_the_heroes(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    hero = {"name": "Deadpond", "secret_name": "Dive Wilson"}
    asks = [client.post("/missions/", json=FULL) for _ in range(20)]
    asks += [client.post("/heroes/", json=hero) for _ in range(20)]
    answers = await asyncio.gather(*asks)
    assert {answer.status_code for answer in answers} == {200}
    [writes] = [queue for queue in app.state.queues if queue.name == "write"]
    assert sum(writes.sizes.counts) < 10
    assert sorted(answer.json()["id"] for answer in answers[:20]) == [*range(1, 21)]


async def test_its_tag_is_that_of_what_was_answered(client: httpx.AsyncClient) -> None:
    tag = tag_of((await client.post("/missions/", json=FULL)).text)
    assert tag_of((await client.get("/missions/1")).text) == tag
    statuses = []
    for title in "ab":
        answer = await client.patch("/missions/1", json={"title": title}, headers={"If-Match": tag})
        statuses.append(answer.status_code)
    assert statuses == [200, 412]


async def test_a_key_of_its_own_is_not_that_of_a_hero(client: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "a"}
    hero = {"name": "Deadpond", "secret_name": "Dive Wilson"}
    asks = [client.post("/missions/", json=FULL, headers=key) for _ in range(4)]
    asks += [client.post("/heroes/", json=hero, headers=key) for _ in range(4)]
    contents = [answer.content for answer in await asyncio.gather(*asks)]
    assert contents == [contents[0]] * 4 + [contents[4]] * 4
    assert (await client.get("/missions/")).json() == [json.loads(contents[0])]
    await client.delete("/missions/1")
    assert (await client.post("/missions/", json=FULL, headers=key)).status_code == 410
    assert (await client.post("/heroes/", json=hero, headers=key)).status_code == 200


async def test_it_is_deleted_and_then_not_found(client: httpx.AsyncClient) -> None:
    await client.post("/missions/", json=FULL)
    assert (await client.delete("/missions/1")).status_code == 200
    answer = await client.get("/missions/1")
    assert (answer.status_code, answer.json()["detail"]) == (404, "Mission not found")


async def test_the_service_is_not_ready_without_its_table(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    async with app.state.database.write_session() as session:
        await (await session.connection()).run_sync(Mission.metadata.tables["mission"].drop)
        await session.commit()
    assert (await client.get("/readyz")).status_code == 500


@pytest.mark.parametrize("to_postgresql", [False, True])
async def test_it_is_copied_with_every_value(
    app: FastAPI, settings: Settings, cluster: Cluster, tmp_path: Path, *, to_postgresql: bool
) -> None:
    url = cluster.new_schema() if to_postgresql else f"sqlite:///{tmp_path}/target.db"
    target = Settings(database_url=url)
    async with running(app) as client:
        for mission in (FULL, {"title": "?", "budget": 1e-300}, FULL | {"is_secret": False}):
            assert (await client.post("/missions/", json=mission)).status_code == 200
        before = (await client.get("/missions/")).json()
    with Progress() as progress:
        copied = await asyncio.to_thread(copy, settings, target, missions.table, progress)
    assert (copied.copied, copied.heroes) == (3, 3)
    there = create_app(target, storages=[missions])
    there.get("/missions/")(read_missions)
    async with running(there) as client:
        after = (await client.get("/missions/")).json()
    for one, other in zip(after, before, strict=True):
        assert same(one, other)


def test_a_type_that_cannot_be_served_is_refused_in_a_line() -> None:
    class Picture(SQLModel, table=True):
        id: int | None = Field(default=None, primary_key=True)
        content: bytes = Field(sa_type=LargeBinary)

    with pytest.raises(StartError, match="The column content of the table picture"):
        Storage(Picture, public=Picture, filters={})


async def test_what_a_model_does_not_declare_takes_no_part_though_a_client_may_send_it(
    settings: Settings,
) -> None:
    class OpenHero(HeroCreate):
        model_config = ConfigDict(extra="allow")  # type: ignore[assignment]

    async def create_open(hero: OpenHero, key: IdempotencyKey, session: Writes) -> Response:
        return Response((await heroes.create(session, hero, key)).body)

    app = create_app(settings)
    app.post("/open/")(create_open)
    async with running(app) as client:
        # These are names that the service gives its own fields.
        more = {"_position": 1, "_key": "b", "_fingerprint": "", "nothing": {}}
        sent = [{"name": f"n{n}", "secret_name": "?"} | more for n in range(9)]
        none: list[dict[str, str]] = [{}] * 9
        keys = [{"Idempotency-Key": f"a{n}"} for n in range(9)]
        for headers in (none, keys):
            asks = (
                client.post("/open/", json=hero, headers=its_own)
                for hero, its_own in zip(sent, headers, strict=True)
            )
            answers = [answer.json() for answer in await asyncio.gather(*asks)]
            assert [answer["name"] for answer in answers] == [hero["name"] for hero in sent]
        again = await client.post("/open/", json=sent[4], headers=keys[4])
        assert again.json() == answers[4]
        assert len((await client.get("/heroes/")).json()) == 18


@pytest.mark.filterwarnings("ignore:This declarative base already contains a class")
@pytest.mark.parametrize("name", ["page", "found", "stored", "locked", "item", "later", "few"])
async def test_a_noun_may_have_any_name_and_its_columns_too(settings: Settings, name: str) -> None:
    words = ("page", "found", "stored", "updated", "behind", "value", "key", "item")
    columns: dict[str, Any] = dict.fromkeys(words, (str, "?"))
    base: Any = create_model("WordBase", __base__=SQLModel, id=(int | None, None), **columns)
    options: dict[str, Any] = {"table": True}
    its_id: Any = (int | None, Field(default=None, primary_key=True))
    noun: Any = create_model(name, __base__=base, __cls_kwargs__=options, id=its_id)
    try:
        filters = {word: Filter(word, ">=") for word in words}
        words_of = Storage[Any, Any](noun, filters=filters, public=base)
        app = create_app(settings, storages=[words_of])
        async with running(app), app.state.database.write_session() as session:
            sent = base(key="!")
            creates = (words_of.create(session, sent, key) for key in (None, "a", "b"))
            created = await asyncio.gather(*creates)
            bodies = [each.body for each in created]
            chosen = await words_of.create(session, base(id=7))
            assert await words_of.get(session, 7) == chosen.body
            changed = await words_of.update(session, 7, base.model_validate({"page": "!"}))
            assert json.loads(changed) == json.loads(chosen.body) | {"page": "!"}
            await words_of.delete(session, 7)
            asks: dict[str, Any] = dict.fromkeys(words, (str | None, None))
            page: Any = create_model("WordPage", __base__=Page, **asks)
            asked: list[dict[str, Any]] = [{}, {"offset": 1}, {"after": 0}, {"key": "!"}]
            asked.append({"behind": "!", "count": True})
            pages = (words_of.list_page(session, page.model_validate(query)) for query in asked)
            listed = await asyncio.gather(*pages)
            assert [json.loads(each.body) for each in listed[:1]] == [[*map(json.loads, bodies)]]
            assert [len(json.loads(each.body)) for each in listed] == [3, 2, 3, 3, 3]
    finally:
        SQLModel.metadata.remove(SQLModel.metadata.tables[name])
