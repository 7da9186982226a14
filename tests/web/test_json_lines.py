"""Heroes as JSON Lines over HTTP, on both engines."""

import asyncio
import json
import socket
import sqlite3
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

from hero_api.app import create_app
from hero_api.batching.queue import arrived
from hero_api.database.pages import Page
from hero_api.database.sessions import ReadOnlySession
from hero_api.dependencies import get_read_session, get_write_session
from hero_api.heroes import heroes
from hero_api.settings import Settings
from hero_api.storage import Listed
from hero_api.testing import running
from tests.clusters import connection_to, insert
from tests.servers import Server, serving

GOOD = {"name": "Deadpond", "secret_name": "Dive Wilson"}
LINES = "application/jsonl"
ACCEPT = {"Accept": LINES}
MANY = 250  # heroes: two pages and a half
SOON = 30.0  # seconds


def lines(*objects: object) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in objects)


async def post(
    client: httpx.AsyncClient, content: bytes, content_type: str = LINES
) -> httpx.Response:
    return await client.post("/heroes/", content=content, headers={"Content-Type": content_type})


def objects(answer: httpx.Response) -> list[Any]:
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, LINES), answer.text
    assert answer.content.endswith(b"\n") or not answer.content
    return [json.loads(line) for line in answer.content.split(b"\n")[:-1]]


async def listed(client: httpx.AsyncClient) -> list[Any]:
    return objects(await client.get("/heroes/", headers=ACCEPT))


@pytest.fixture
async def many(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a service that has heroes of all ages."""
    await post(client, lines(*(GOOD | {"age": n} for n in range(MANY))))
    return client


# Heroes that come in


async def test_a_hero_is_stored_for_each_line_and_answered_in_its_order(
    client: httpx.AsyncClient,
) -> None:
    sent = [GOOD | {"name": f"line\nend {n}", "age": n} for n in range(1_000)]
    created = objects(await post(client, lines(*sent)))
    assert [{**hero, "id": None} for hero in created] == [
        {"id": None, "age": None, **hero} for hero in sent
    ]
    assert await listed(client) == created


async def test_chosen_ids_are_kept_and_no_other_line_gets_one(client: httpx.AsyncClient) -> None:
    content = lines(GOOD, GOOD | {"id": 1}, GOOD, GOOD | {"id": 7})
    first, one, third, seven = objects(await post(client, content))
    assert (one["id"], seven["id"]) == (1, 7)
    assert len({first["id"], third["id"], 1, 7}) == 4


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\n"], ids=["nothing", "blank", "blanks"])
async def test_no_lines_are_no_heroes(client: httpx.AsyncClient, content: bytes) -> None:
    assert objects(await post(client, content)) == []


async def test_the_last_line_needs_no_end_and_others_may_end_as_on_windows(
    client: httpx.AsyncClient,
) -> None:
    content = lines(GOOD, GOOD).replace(b"\n", b"\r\n").rstrip()
    assert len(objects(await post(client, content, f"{LINES}; charset=utf-8"))) == 2


async def test_the_mark_that_windows_programs_begin_a_file_with_is_no_matter(
    client: httpx.AsyncClient,
) -> None:
    file = b"\xef\xbb\xbf" + lines(GOOD)
    assert len(objects(await post(client, file + file + b"\xef\xbb\xbf\n"))) == 2


BAD = {
    "no JSON": (b"{", "Invalid JSON"),
    "no object": (b"[]", "object"),
    "no name": (lines({"secret_name": "s"}), "Field required"),
    "an id that is taken": (lines(GOOD | {"id": 1}), "id 1"),
    "an id that the body has twice": (lines(GOOD | {"id": 2}), "id 2"),
    "what the database refuses": (lines(GOOD | {"name": "second"}), "refuses this change"),
}


@pytest.mark.parametrize(("bad", "reason"), BAD.values(), ids=BAD.keys())
async def test_each_bad_line_is_named_by_its_number_and_nothing_is_stored(
    client: httpx.AsyncClient, settings: Settings, bad: bytes, reason: str
) -> None:
    insert(settings, (1, "first", None, "s"))
    with connection_to(settings) as connection:
        connection.execute("CREATE UNIQUE INDEX picky ON hero (name) WHERE name = 'second'")
    first = lines(GOOD | {"id": 2, "name": "second"}, GOOD) + b"\n"
    answer = await post(client, first + bad.rstrip() + b"\n" + lines(GOOD) + bad)
    assert answer.status_code == 422
    problems = answer.json()["detail"]
    assert [problem["loc"][:2] for problem in problems] == [["body", 4], ["body", 6]]
    assert all(reason in problem["msg"] for problem in problems)
    assert [hero["id"] for hero in await listed(client)] == [1]


async def test_what_no_line_is_to_blame_for_is_a_fault_of_the_service(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    with connection_to(settings) as connection:
        connection.execute("ALTER TABLE hero RENAME COLUMN secret_name TO another")
    answer = await post(client, lines(GOOD, GOOD))
    assert answer.status_code == 500
    assert "X-Request-ID" in answer.headers


async def test_an_error_that_nobody_foresaw_is_no_matter_of_lines(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heroes.rows, "create_many", {}.__getitem__)
    with pytest.raises(TypeError):
        await post(client, lines(GOOD, GOOD))


@pytest.fixture
def tight(settings: Settings) -> Settings:
    """Settings of a service that takes few lines, and small bodies of any other type."""
    small = {"max_lines": 3, "max_body_size": 1_024, "max_lines_size": 4_096}
    return settings.model_copy(update=small)


async def test_more_lines_than_the_setting_are_413(tight: Settings) -> None:
    async with running(create_app(tight)) as client:
        assert len(objects(await post(client, lines(GOOD, GOOD, GOOD)))) == 3
        assert (await post(client, lines(GOOD, GOOD, GOOD, GOOD))).status_code == 413
        assert len(await listed(client)) == 3


async def test_a_line_counts_once_however_much_is_wrong_with_it(tight: Settings) -> None:
    async with running(create_app(tight)) as client:
        answer = await post(client, lines({"age": "x"}, {"age": "x"}, {"age": "x"}))
        assert answer.status_code == 422
        assert {problem["loc"][1] for problem in answer.json()["detail"]} == {1, 2, 3}


async def test_a_body_of_lines_has_a_limit_of_its_own(tight: Settings) -> None:
    large = GOOD | {"secret_name": "s" * 3_000}
    async with running(create_app(tight)) as client:
        assert len(objects(await post(client, lines(large)))) == 1
        assert (await post(client, lines(large, large))).status_code == 413
        assert (await client.post("/heroes/", json=large)).status_code == 413


async def test_a_line_without_end_is_413(tight: Settings) -> None:
    async with running(create_app(tight)) as client:
        assert (await post(client, b"x" * 5_000)).status_code == 413


async def test_lines_are_stored_beside_single_creates(client: httpx.AsyncClient) -> None:
    single = [client.post("/heroes/", json=GOOD) for _ in range(20)]
    bulk = [post(client, lines(*[GOOD] * 20)) for _ in range(5)]
    answers = await asyncio.gather(*single[:10], *bulk, *single[10:])
    assert {answer.status_code for answer in answers} == {200}
    assert len({hero["id"] for hero in await listed(client)}) == 120


@pytest.mark.parametrize("key", [None, "a"])
async def test_each_body_has_a_transaction_of_its_own(
    app: FastAPI, client: httpx.AsyncClient, key: str | None
) -> None:
    commits = 0

    def count(_: object) -> None:
        nonlocal commits
        commits += 1

    event.listen(app.state.database.writer.sync_engine, "commit", count)
    client.headers["Content-Type"] = LINES
    keys = [{"Idempotency-Key": f"{key}{n}"} if key else {} for n in range(4)]
    asks = (client.post("/heroes/", content=lines(GOOD, GOOD), headers=each) for each in keys)
    answers = await asyncio.gather(*asks)
    assert [len(objects(answer)) for answer in answers] == [2] * 4
    assert commits == 4


# Heroes that go out


async def test_all_heroes_are_listed_in_id_order(many: httpx.AsyncClient) -> None:
    found = await listed(many)
    assert [hero["age"] for hero in found] == [*range(MANY)]
    page = await many.get("/heroes/", params={"limit": 2})
    assert page.json() == found[:2]


@pytest.mark.parametrize("headers", [{}, ACCEPT], ids=["JSON", "lines"])
async def test_a_cache_is_told_that_the_form_is_what_was_asked_for(
    client: httpx.AsyncClient, headers: Mapping[str, str]
) -> None:
    for query in ("", "?limit=1&count=true"):
        for method in ("GET", "HEAD"):
            answer = await client.request(method, f"/heroes/{query}", headers=headers)
            assert answer.headers["Vary"] == "Accept"


async def test_head_reads_no_more_than_the_first_page(
    many: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = await many.get("/heroes/?count=true", headers=ACCEPT)
    list_page, read = heroes.list_page, list[Page]()

    def list_and_note(session: ReadOnlySession, page: Page) -> Awaitable[Listed]:
        read.append(page)
        return list_page(session, page)

    monkeypatch.setattr(heroes, "list_page", list_and_note)
    head = await many.head("/heroes/?count=true", headers=ACCEPT)
    assert (head.status_code, head.headers, head.content) == (200, get.headers, b"")
    assert len(read) == 1


async def test_no_heroes_are_no_lines(client: httpx.AsyncClient) -> None:
    assert await listed(client) == []


@pytest.mark.parametrize(
    ("query", "ages"),
    [
        ("min_age=20", range(20, MANY)),
        ("min_age=20&max_age=22", range(20, 23)),
        ("offset=240", range(240, MANY)),
        ("limit=2", range(2)),
        ("limit=100&offset=5", range(5, 105)),
        ("count=true&min_age=1", range(1, MANY)),
    ],
)
async def test_filters_count_and_a_limit_that_was_sent(
    many: httpx.AsyncClient, query: str, ages: Sequence[int]
) -> None:
    answer = await many.get(f"/heroes/?{query}", headers=ACCEPT)
    assert [hero["age"] for hero in objects(answer)] == [*ages]


@pytest.mark.parametrize(("query", "total"), [("", MANY), ("&limit=2&min_age=20", MANY - 20)])
async def test_heroes_are_counted_for_who_asks_for_it(
    many: httpx.AsyncClient, query: str, total: int
) -> None:
    answer = await many.get(f"/heroes/?count=true{query}", headers=ACCEPT)
    assert answer.headers["X-Total-Count"] == str(total)
    assert "X-Total-Count" not in (await many.get("/heroes/", headers=ACCEPT)).headers


async def test_it_goes_on_after_a_hero(many: httpx.AsyncClient) -> None:
    found = await listed(many)
    answer = await many.get("/heroes/", params={"after": found[3]["id"]}, headers=ACCEPT)
    assert objects(answer) == found[4:]


ASKED = {
    LINES: LINES,
    "application/jsonl; charset=utf-8": LINES,
    "text/html, Application/JSONL;q=0.9, */*;q=0.1": LINES,
    "application/jsonl, */*": LINES,
    "application/json;q=0.5, application/jsonl": LINES,
    "application/json ; charset=utf-8 ; q=0 , application/jsonl ; q=0.1": LINES,
    "application/jsonl;q=much": LINES,
    "application/json, application/jsonl": "application/json",
    "application/json, application/jsonl;q=0.9": "application/json",
    "application/jsonl;q=0": "application/json",
    "application/jsonl;q=0.000, */*": "application/json",
    "application/jsonl;q=0.1, application/*;q=0.2, */*;q=0": "application/json",
    "application/json": "application/json",
    "*/*": "application/json",
    "application/jsonlines": "application/json",
}


@pytest.mark.sqlite
@pytest.mark.parametrize(("accept", "answered"), ASKED.items(), ids=ASKED.keys())
async def test_lines_are_for_those_who_ask_for_them_and_not_as_much_for_json(
    client: httpx.AsyncClient, accept: str, answered: str
) -> None:
    answer = await client.get("/heroes/", headers={"Accept": accept})
    assert answer.headers["Content-Type"] == answered


async def test_a_header_may_come_in_two_lines(client: httpx.AsyncClient) -> None:
    wanted = [("Accept", "application/jsonl"), ("Accept", "text/html")]
    assert (await client.get("/heroes/", headers=wanted)).headers["Content-Type"] == LINES


@pytest.mark.usefixtures("many")
async def test_a_page_is_not_late_because_those_before_it_took_long(app: FastAPI) -> None:
    async with app.state.database.read_session() as session:
        pages = heroes.pages(session, Page())
        found = await anext(pages)
        arrived.set(float("-inf"))  # when a request arrived that had to wait, and was read slowly
        lengths = [len(found.lines.splitlines())]
        lengths += [len(page.lines.splitlines()) async for page in pages]
    assert lengths == [100, 100, 50]


async def test_a_bad_parameter_is_422_in_json(client: httpx.AsyncClient) -> None:
    answer = await client.get("/heroes/?min_age=many", headers=ACCEPT)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "min_age"]


# Who may, and on what session


TOKEN = "correct horse battery staple"


@pytest.mark.sqlite
async def test_lines_need_the_token_as_other_requests_do(settings: Settings) -> None:
    guarded = Settings(database_url=settings.database_url, token=TOKEN, guard="all")
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    async with running(create_app(guarded)) as client:
        assert (await post(client, lines(GOOD))).status_code == 401
        assert (await client.get("/heroes/", headers=ACCEPT)).status_code == 401
        client.headers.update(bearer)
        assert len(objects(await post(client, lines(GOOD)))) == 1
        assert len(await listed(client)) == 1


async def test_a_session_of_a_test_serves_lines_too(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    async with AsyncSession(app.state.database.write_session().bind) as session:
        for dependency in (get_read_session, get_write_session):
            app.dependency_overrides[dependency] = lambda: session
        assert len(objects(await post(client, lines(*[GOOD] * MANY)))) == MANY
        assert (await post(client, lines(GOOD, GOOD | {"id": 1}))).status_code == 422
        assert len(await listed(client)) == MANY


# The document


def test_the_document_has_both_forms(app: FastAPI) -> None:
    path = app.openapi()["paths"]["/heroes/"]
    both = {"application/json", LINES}
    assert path["get"]["responses"]["200"]["content"].keys() == both
    assert path["post"]["responses"]["200"]["content"].keys() == both
    assert path["post"]["requestBody"]["content"].keys() == both


# Over a connection


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with one connection to read by, and more heroes than a socket holds."""
    with serving(tmp_path) as server:
        server.kill()
    with closing(sqlite3.connect(server.file)) as connection, connection:
        rows = [(f"hero {n}", "s" * 1_000) for n in range(20_000)]
        connection.executemany("INSERT INTO hero (name, secret_name) VALUES (?, ?)", rows)
    with serving(tmp_path, read_connections=1) as server:
        yield server


def ask(server: Server) -> socket.socket:
    reader = socket.create_connection((server.host, server.port), timeout=SOON)
    reader.sendall(b"GET /heroes/ HTTP/1.1\r\nHost: h\r\nAccept: application/jsonl\r\n\r\n")
    return reader


def received(reader: socket.socket) -> bytes:
    return b"".join(iter(lambda: reader.recv(65_536), b""))


def test_a_reader_that_takes_nothing_holds_no_connection_and_no_transaction(
    server: Server,
) -> None:
    with ask(server) as reader, ask(server) as other:
        for each in (reader, other):
            assert each.recv(65_536).startswith(b"HTTP/1.1 200")
        url = f"http://{server.host}:{server.port}/heroes/"
        assert httpx.get(f"{url}1", timeout=SOON).status_code == 200
        assert httpx.post(url, json=GOOD, timeout=SOON).status_code == 200
        with closing(sqlite3.connect(server.file, timeout=SOON)) as connection:
            [blocked, *_] = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        assert not blocked


def test_readers_that_leave_take_their_pages_with_them(server: Server) -> None:
    def leave(times: int) -> float:
        for _ in range(times):
            with ask(server) as reader:
                assert reader.recv(65_536).startswith(b"HTTP/1.1 200")
        httpx.get(f"http://{server.host}:{server.port}/heroes/1", timeout=SOON)
        return server.memory()

    before = leave(20)
    assert leave(100) - before < 15


def test_an_answer_that_cannot_be_ended_is_cut_off(server: Server) -> None:
    with closing(sqlite3.connect(server.file)) as connection, connection:
        connection.execute("UPDATE hero SET name = x'00' WHERE id = 19999")
    with ask(server) as reader:
        answer = received(reader)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"hero 19000" in answer
    assert not answer.endswith(b"0\r\n\r\n")
    said = server.log.read_text()
    assert "GET '/heroes/': A stored row cannot be read" in said
    assert "Traceback" not in said
