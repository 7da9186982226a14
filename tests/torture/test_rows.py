"""Rows that someone else wrote into the file."""

import asyncio
import sqlite3
from contextlib import closing

import httpx
import pytest

from hero_api.settings import Settings

pytestmark = pytest.mark.sqlite  # what it does to the file is SQLite's

GOOD = [("good", 1, "?"), ("good too", None, "?")]
ODD: dict[str, tuple[str, int | None, str]] = {
    "no name": ("", None, ""),
    "a long name": ("n" * 2_000, 1, "?"),
    "a long secret": ("odd", 1, "?" * 200_000),
    "NUL in texts": ("a\0b", None, "\0"),
    "control characters": ("".join(map(chr, range(1, 32))), 1, '"\\\x7f\u2028'),
    "every plane": ("Zoë \u4e2d \U0001f9b8 \ufffe\uffff\U0010ffff", 1, "?"),
    "an age below zero": ("odd", -1, "?"),
    "the least age": ("odd", -(2**63), "?"),
    "the greatest age": ("odd", 2**63 - 1, "?"),
}
BAD = {
    "a BLOB for a name": "x'00ff', 1, '?'",
    "a BLOB for an age": "'bad', x'31', '?'",
    "a BLOB for a secret": "'bad', 1, x'ff'",
    "broken UTF-8 for a name": "CAST(x'c328' AS TEXT), 1, '?'",
    "an encoded surrogate for a name": "CAST(x'eda080' AS TEXT), 1, '?'",
    "broken UTF-8 for a secret": "'bad', 1, CAST(x'61ff' AS TEXT)",
    "an infinity for an age": "'bad', 9e999, '?'",
    "an infinity below zero for an age": "'bad', -9e999, '?'",
    "a fraction for an age": "'bad', 1.5, '?'",
    "a text for an age": "'bad', 'old', '?'",
    "broken UTF-8 for an age": "'bad', CAST(x'ff' AS TEXT), '?'",
}
each_bad_row = pytest.mark.parametrize("values", BAD.values(), ids=BAD.keys())
BAD_ID = 3


def execute(settings: Settings, statement: str, parameters: tuple[object, ...] = ()) -> None:
    """Change the file as another process does."""
    with closing(sqlite3.connect(settings.path)) as connection, connection:
        connection.execute(statement, parameters)


@pytest.fixture
async def heroes(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Return a client of a service that has two good heroes, with ids 1 and 2."""
    for name, age, secret_name in GOOD:
        hero = {"name": name, "age": age, "secret_name": secret_name}
        assert (await client.post("/heroes/", json=hero)).status_code == 200
    return client


@pytest.fixture
async def damaged(heroes: httpx.AsyncClient, settings: Settings, values: str) -> httpx.AsyncClient:
    """Return a client of a service whose hero 3 is damaged."""
    statement = f"INSERT INTO hero (id, name, age, secret_name) VALUES ({BAD_ID}, {values})"
    execute(settings, statement)
    return heroes


@pytest.mark.parametrize("row", ODD.values(), ids=ODD.keys())
async def test_an_odd_row_is_served_by_gets_and_pages(
    heroes: httpx.AsyncClient, settings: Settings, row: tuple[str, int | None, str]
) -> None:
    execute(settings, "INSERT INTO hero VALUES (?, ?, ?, ?)", (3, *row))
    expected = dict(zip(("id", "name", "age", "secret_name"), (3, *row), strict=True))
    assert (await heroes.get("/heroes/3")).json() == expected
    assert (await heroes.get("/heroes/")).json()[2] == expected
    assert (await heroes.get("/heroes/?after=2&count=true")).json() == [expected]


async def test_a_create_that_the_highest_id_leaves_no_room_for_is_no_server_error(
    heroes: httpx.AsyncClient, settings: Settings
) -> None:
    execute(settings, "INSERT INTO hero VALUES (?, 'odd', NULL, '?')", (2**63 - 1,))
    response = await heroes.post("/heroes/", json={"name": "new", "secret_name": "?"})
    assert response.status_code in {409, 503, 507}
    assert response.json()["detail"]


@each_bad_row
async def test_a_damaged_row_at_the_end_of_a_page_that_has_a_next_is_one_clear_error(
    damaged: httpx.AsyncClient,
) -> None:
    following = {"name": "good", "secret_name": "?"}
    assert (await damaged.post("/heroes/", json=following)).status_code == 200
    response = await damaged.get(f"/heroes/?limit={BAD_ID}")
    assert response.status_code == 500
    assert "cannot be read" in response.json()["detail"]


@each_bad_row
@pytest.mark.parametrize("path", [f"/heroes/{BAD_ID}", "/heroes/"])
async def test_a_damaged_row_is_one_clear_error_and_one_line_of_the_log_with_its_request_id(
    damaged: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    response = await damaged.get(path)
    assert response.status_code == 500
    request_id = response.headers["X-Request-ID"]
    assert request_id in response.json()["detail"]
    assert "cannot be read" in response.json()["detail"]
    [record] = caplog.records
    assert record.getMessage().startswith(f"request {request_id}: GET '{path}': ")
    assert "cannot be read" in record.getMessage()
    assert record.getMessage().isprintable()


@each_bad_row
async def test_no_other_heros_get_suffers_from_a_damaged_row(damaged: httpx.AsyncClient) -> None:
    ids = [BAD_ID, 1, 2, BAD_ID, 404] * 8
    responses = await asyncio.gather(*(damaged.get(f"/heroes/{hero_id}") for hero_id in ids))
    expected = {BAD_ID: 500, 1: 200, 2: 200, 404: 404}
    assert [response.status_code for response in responses] == [expected[n] for n in ids]


@each_bad_row
async def test_a_page_without_the_damaged_row_does_not_suffer_from_it(
    damaged: httpx.AsyncClient,
) -> None:
    pages = ["limit=2", "", "after=2", "limit=1&offset=1", "limit=100"] * 8
    responses = await asyncio.gather(*(damaged.get(f"/heroes/?{page}") for page in pages))
    statuses = [response.status_code for response in responses]
    assert statuses == [200, 500, 500, 200, 500] * 8


@each_bad_row
async def test_a_patch_that_is_answered_with_an_error_changes_nothing(
    damaged: httpx.AsyncClient, settings: Settings
) -> None:
    response = await damaged.patch(f"/heroes/{BAD_ID}", json={"name": "new"})
    statement = "SELECT count(*) FROM hero WHERE name = 'new'"
    with closing(sqlite3.connect(settings.path)) as connection:
        [changed] = connection.execute(statement).fetchone()
    assert changed == (response.status_code == 200)


@each_bad_row
async def test_no_other_heros_patch_suffers_from_a_damaged_row(damaged: httpx.AsyncClient) -> None:
    ids = [1, BAD_ID, 2, 1] * 6
    patches = [damaged.patch(f"/heroes/{n}", json={"secret_name": "new"}) for n in ids]
    responses = await asyncio.gather(*patches)
    others = [response for n, response in zip(ids, responses, strict=True) if n != BAD_ID]
    assert {response.status_code for response in others} == {200}
    assert (await damaged.get("/heroes/1")).json()["secret_name"] == "new"


@each_bad_row
async def test_a_damaged_row_can_be_repaired_by_a_patch_of_every_field(
    damaged: httpx.AsyncClient,
) -> None:
    whole = {"name": "repaired", "age": 1, "secret_name": "?"}
    assert (await damaged.patch(f"/heroes/{BAD_ID}", json=whole)).json() == whole | {"id": BAD_ID}
    assert (await damaged.get("/heroes/")).status_code == 200


@each_bad_row
async def test_a_damaged_row_can_be_deleted(damaged: httpx.AsyncClient) -> None:
    assert (await damaged.delete(f"/heroes/{BAD_ID}")).status_code == 200
    assert (await damaged.get("/heroes/")).status_code == 200
