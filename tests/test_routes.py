import asyncio
import json
from collections.abc import AsyncIterator
from itertools import product
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from hero_api.settings import Settings

from .clusters import insert

TEXTS = [
    "Deadpond",
    " ",
    "a\nb\r\n\tc",
    'She said "no" \\ and {"left": [1]}',
    "'; DROP TABLE hero; --",
    "%_*?[a]",
    "\x01\x08\x0b\x1f\x7f\x80",
    "Zoë 雷神 Супер أبطال",
    "e\u0301 is not \u00e9",
    "\u2028\u2029\ufeff\u200d",
    "\ufffd\ufffe\uffff\ufdd0",
    "🦸🏽\u200d♀️ \U0010ffff",
    r"\u0041 \n \ud800",
]


async def create(client: httpx.AsyncClient, **fields: object) -> Any:  # noqa: ANN401 - it is JSON
    hero = {"name": "Deadpond", "secret_name": "Dive Wilson"} | fields
    response = await client.post("/heroes/", json=hero)
    assert response.status_code == 200
    return response.json()


async def create_many(client: httpx.AsyncClient, count: int, **fields: object) -> None:
    await asyncio.gather(*(create(client, **fields) for _ in range(count)))


async def ids(client: httpx.AsyncClient, query: str = "") -> list[int]:
    response = await client.get(f"/heroes/?{query}")
    assert response.status_code == 200
    return [hero["id"] for hero in response.json()]


async def walk(client: httpx.AsyncClient, path: str) -> AsyncIterator[httpx.Response]:
    """Follow the `Link` headers from `path` on."""
    following: str | None = path
    while following is not None:
        response = await client.get(following)
        yield response
        following = response.links.get("next", {}).get("url")


# Creating


async def test_a_created_hero_is_answered_with_exactly_its_four_fields(
    client: httpx.AsyncClient,
) -> None:
    hero = {"name": "Rusty-Man", "age": 48, "secret_name": "Tommy Sharp"}
    response = await client.post("/heroes/", json=hero)
    assert response.status_code == 200
    assert response.json() == {"id": 1, **hero}


async def test_a_hero_needs_no_age(client: httpx.AsyncClient) -> None:
    assert (await create(client))["age"] is None


async def test_an_age_of_null_is_no_age(client: httpx.AsyncClient) -> None:
    assert (await create(client, age=None))["age"] is None


async def test_a_created_hero_is_read_at_its_location(client: httpx.AsyncClient) -> None:
    hero = {"name": "Deadpond", "secret_name": "Dive Wilson"}
    created = await client.post("/heroes/", json=hero)
    assert created.headers["Location"] == f"/heroes/{created.json()['id']}"
    assert (await client.get(created.headers["Location"])).json() == created.json()


async def test_an_id_that_the_client_chose_is_honoured(client: httpx.AsyncClient) -> None:
    assert (await create(client, id=999))["id"] == 999


async def test_an_id_of_null_is_no_choice(client: httpx.AsyncClient) -> None:
    assert (await create(client, id=None))["id"] == 1


@pytest.mark.parametrize("hero_id", [1, 2**52])
async def test_the_ends_of_the_ids_that_can_be_chosen_are_honoured(
    client: httpx.AsyncClient, hero_id: int
) -> None:
    assert (await create(client, id=hero_id))["id"] == hero_id


async def test_an_id_that_cannot_be_chosen_is_unprocessable(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    for hero_id in [0, -1, 2**52 + 1, 2**53, 2**63 - 1, "1_2"]:
        with subtests.test(str(hero_id)):
            hero = {"id": hero_id, "name": "Deadpond", "secret_name": "Dive Wilson"}
            assert (await client.post("/heroes/", json=hero)).status_code == 422


async def test_a_taken_id_is_a_conflict_and_leaves_the_hero_that_was_there(
    client: httpx.AsyncClient,
) -> None:
    first = await create(client, id=7)
    hero = {"id": 7, "name": "Rusty-Man", "secret_name": "Tommy Sharp"}
    response = await client.post("/heroes/", json=hero)
    assert response.status_code == 409
    assert isinstance(response.json()["detail"], str)
    assert (await client.get("/heroes/")).json() == [first]


async def test_a_deleted_heros_id_can_be_chosen(client: httpx.AsyncClient) -> None:
    await create(client, id=7)
    await client.delete("/heroes/7")
    assert (await create(client, id=7))["id"] == 7


async def test_a_deleted_heros_id_is_never_given_to_another_by_itself(
    client: httpx.AsyncClient,
) -> None:
    first = await create(client)
    await client.delete(f"/heroes/{first['id']}")
    assert (await create(client))["id"] == first["id"] + 1


async def test_new_ids_go_on_after_the_largest_that_was_chosen(client: httpx.AsyncClient) -> None:
    await create(client, id=2**52)
    assert (await create(client))["id"] == 2**52 + 1


NOT_DIGITS = [
    *("1_2", "+1", " 1", "1 ", "1\n", "1\u00a0", "1.0", "1.", "1e0", "0x1", "\uff11", "--1", "-"),
]


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_a_number_of_more_than_digits_is_no_id(
    client: httpx.AsyncClient, subtests: pytest.Subtests, method: str
) -> None:
    await create_many(client, 12)
    body = {"name": "New"} if method == "PATCH" else None
    for number in NOT_DIGITS:
        with subtests.test(number):
            answer = await client.request(method, f"/heroes/{quote(number)}", json=body)
            refused = answer.status_code, answer.json()["detail"][0]["loc"]
            assert refused == (422, ["path", "hero_id"])
    assert len(await ids(client)) == 12


async def test_a_number_of_more_than_digits_is_no_age(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    for number in NOT_DIGITS:
        with subtests.test(number):
            hero = {"name": "Deadpond", "secret_name": "Dive", "age": number}
            assert (await client.post("/heroes/", json=hero)).status_code == 422


async def test_fields_that_no_hero_has_are_ignored(client: httpx.AsyncClient) -> None:
    assert set(await create(client, cape="red")) == {"id", "name", "age", "secret_name"}


async def test_of_concurrent_creates_with_one_id_exactly_one_succeeds(
    client: httpx.AsyncClient,
) -> None:
    heroes = [{"id": 7, "name": f"Hero {n}", "secret_name": "?"} for n in range(20)]
    responses = await asyncio.gather(*(client.post("/heroes/", json=hero) for hero in heroes))
    assert sorted(response.status_code for response in responses) == [200] + [409] * 19
    [created] = [response.json() for response in responses if response.status_code == 200]
    assert (await client.get("/heroes/")).json() == [created]


async def test_concurrent_creates_are_each_answered_with_their_own_hero(
    client: httpx.AsyncClient,
) -> None:
    heroes = [{"name": f"Hero {n % 7}", "age": n % 3, "secret_name": "?"} for n in range(60)]
    responses = await asyncio.gather(*(client.post("/heroes/", json=hero) for hero in heroes))
    created = [response.json() for response in responses]
    assert [{**hero, "id": got["id"]} for hero, got in zip(heroes, created, strict=True)] == created
    assert sorted(created, key=lambda hero: hero["id"]) == (await client.get("/heroes/")).json()


# The rules of a hero


async def test_unicode_comes_back_as_it_went_in(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    other = await create(client, name="another")
    for text in TEXTS:
        with subtests.test(text):
            fields = {"name": text, "secret_name": text}
            created = await create(client, **fields)
            assert created == created | fields
            assert (await client.get(f"/heroes/{created['id']}")).json() == created
            assert (await client.get("/heroes/", params={"name": text})).json() == [created]
            changed = await client.patch(f"/heroes/{other['id']}", json=fields)
            assert changed.json() == other | fields


async def test_the_extremes_of_a_hero_are_stored(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    cases: list[dict[str, object]] = [
        {"name": "n"},
        {"name": "n" * 500},
        {"name": "🦸" * 500},
        {"secret_name": "s"},
        {"secret_name": "s" * 10_000},
        {"secret_name": "🦸" * 10_000},
        {"age": 0},
        {"age": 2147483647},
    ]
    for fields in cases:
        with subtests.test(str(fields)[:50]):
            created = await create(client, **fields)
            assert (await client.get(f"/heroes/{created['id']}")).json() == created
            assert created == created | fields


BEYOND: list[dict[str, object]] = [
    {"name": ""},
    {"name": "n" * 501},
    {"secret_name": ""},
    {"secret_name": "s" * 10_001},
    {"age": -1},
    {"age": 2147483648},
]


async def test_what_is_beyond_the_rules_is_not_created(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    for fields in BEYOND:
        with subtests.test(str(fields)[:50]):
            hero = {"name": "Deadpond", "secret_name": "Dive Wilson"} | fields
            assert (await client.post("/heroes/", json=hero)).status_code == 422
            assert await ids(client) == []


async def test_no_hero_is_changed_to_what_is_beyond_the_rules(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    created = await create(client)
    for fields in BEYOND:
        with subtests.test(str(fields)[:50]):
            assert (await client.patch("/heroes/1", json=fields)).status_code == 422
            assert (await client.get("/heroes/1")).json() == created


# Reading one


async def test_a_hero_is_read_by_its_id(client: httpx.AsyncClient) -> None:
    created = await create(client, age=30)
    response = await client.get(f"/heroes/{created['id']}")
    assert response.status_code == 200
    assert response.json() == created


METHODS: dict[str, object] = {"GET": None, "PATCH": {"name": "New"}, "DELETE": None}


async def test_a_hero_that_is_not_there_is_not_found(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    await create(client)
    for hero_id, method in product([2, 0, -1, 2**63 - 1, -(2**63)], METHODS):
        with subtests.test(f"{method} {hero_id}"):
            response = await client.request(method, f"/heroes/{hero_id}", json=METHODS[method])
            assert response.status_code == 404
            assert response.json() == {"detail": "Hero not found"}


async def test_an_id_beyond_64_bits_is_unprocessable(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    for hero_id, method in product([2**63, -(2**63) - 1, 10**30], METHODS):
        with subtests.test(f"{method} {hero_id}"):
            response = await client.request(method, f"/heroes/{hero_id}", json=METHODS[method])
            assert response.status_code == 422


async def test_concurrent_reads_are_each_answered_with_their_own_hero(
    client: httpx.AsyncClient,
) -> None:
    await create_many(client, 20)
    wanted = [1 + n % 25 for n in range(75)]
    responses = await asyncio.gather(*(client.get(f"/heroes/{n}") for n in wanted))
    assert [response.json().get("id") for response in responses] == [
        hero_id if hero_id <= 20 else None for hero_id in wanted
    ]


# Reading pages


async def test_no_heroes_are_an_empty_array(client: httpx.AsyncClient) -> None:
    response = await client.get("/heroes/")
    assert response.status_code == 200
    assert response.json() == []


async def test_heroes_are_a_bare_array_in_id_order(client: httpx.AsyncClient) -> None:
    created = [await create(client, id=hero_id, age=hero_id) for hero_id in (30, 10, 20)]
    expected = sorted(created, key=lambda hero: hero["id"])
    assert (await client.get("/heroes/")).json() == expected


async def test_a_page_has_a_hundred_heroes_by_default(client: httpx.AsyncClient) -> None:
    await create_many(client, 101)
    assert await ids(client) == list(range(1, 101))


async def test_offset_and_limit_choose_a_page(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    cases = [
        ("limit=2", [1, 2]),
        ("offset=3", [4, 5]),
        ("offset=1&limit=2", [2, 3]),
        ("limit=0", []),
        ("limit=100", [1, 2, 3, 4, 5]),
        ("offset=5", []),
        ("offset=10001", []),
        (f"offset={2**63 - 1}", []),
    ]
    await create_many(client, 5)
    for query, expected in cases:
        with subtests.test(query):
            assert await ids(client, query) == expected


async def test_after_starts_the_page_behind_that_hero(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    cases = [
        ("after=3", [4, 5]),
        ("after=1&limit=2", [2, 3]),
        ("after=1&offset=1&limit=2", [3, 4]),
        ("after=0", [1, 2, 3, 4, 5]),
        ("after=5", []),
        (f"after={2**63 - 1}", []),
        (f"after={-(2**63)}", [1, 2, 3, 4, 5]),
    ]
    await create_many(client, 5)
    for query, expected in cases:
        with subtests.test(query):
            assert await ids(client, query) == expected


async def test_after_works_for_a_hero_that_is_gone(client: httpx.AsyncClient) -> None:
    await create_many(client, 3)
    await client.delete("/heroes/2")
    assert await ids(client, "after=2") == [3]


async def test_a_page_outside_the_bounds_is_unprocessable(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    cases = [
        "limit=-1",
        "limit=101",
        "offset=-1",
        f"offset={2**63}",
        f"limit={2**63}",
        f"after={2**63}",
        f"after={-(2**63) - 1}",
        f"min_age={2**63}",
        f"max_age={2**63}",
        f"age={2**63}",
        *(
            f"{name}={number}"
            for name in ("limit", "offset", "after", "age", "min_age", "max_age")
            for number in ("1_0", "+1", "%2B1", "1.0")
        ),
    ]
    for query in cases:
        with subtests.test(query):
            assert (await client.get(f"/heroes/?{query}")).status_code == 422


async def test_the_name_filter_is_exact(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    cases = ["spider", "SPIDER-BOY", "Spider-Boy ", "Spider%", "Spider*"]
    await create(client, name="Spider-Boy")
    for name in cases:
        with subtests.test(name):
            assert (await client.get("/heroes/", params={"name": name})).json() == []


async def test_the_name_filter_finds_every_hero_of_that_name(client: httpx.AsyncClient) -> None:
    await create(client, name="Spider-Boy")
    await create(client, name="Deadpond")
    await create(client, name="Spider-Boy")
    assert await ids(client, "name=Spider-Boy") == [1, 3]


async def test_ages_are_filtered_inclusively_and_no_age_matches_none(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    cases = [
        ("age=20", [2]),
        ("age=20&min_age=21", []),
        ("min_age=20", [2, 3]),
        ("max_age=20", [1, 2]),
        ("min_age=20&max_age=20", [2]),
        ("min_age=31", []),
        ("max_age=9", []),
        ("min_age=30&max_age=10", []),
        ("min_age=-1", [1, 2, 3]),
        (f"max_age={2**63 - 1}", [1, 2, 3]),
        ("min_age=10&name=Deadpond&limit=1", [1]),
        ("min_age=10&name=Deadpond&after=1", [2, 3]),
    ]
    for age in (10, 20, 30, None):
        await create(client, age=age)
    for query, expected in cases:
        with subtests.test(query):
            assert await ids(client, query) == expected


@pytest.mark.parametrize(
    ("query", "ages"),
    [("min_age=1", {1, 2}), ("max_age=0", {0}), ("min_age=0&max_age=1", {0, 1}), ("min_age=3", {})],
)
async def test_the_pages_of_an_age_range_hold_each_hero_once_however_many_there_are(
    client: httpx.AsyncClient, query: str, ages: set[int]
) -> None:
    # A third of the heroes are few enough for SQLite to sort, and two thirds are not.
    lines = (
        json.dumps({"name": "?", "secret_name": "?", "age": number % 3}) for number in range(1_600)
    )
    headers = {"Content-Type": "application/jsonl"}
    await client.post("/heroes/", content="\n".join(lines), headers=headers)
    expected = [number + 1 for number in range(1_600) if number % 3 in ages]
    places = range(0, len(expected) + 100, 100)
    by_offset = [await ids(client, f"{query}&offset={place}") for place in places]
    assert by_offset == [expected[place : place + 100] for place in places]
    after = [0, *expected[99::100]]
    by_key = [await ids(client, f"{query}&after={last}") for last in after]
    assert [row for page in by_key for row in page] == expected


async def test_concurrent_pages_are_each_answered_with_their_own_heroes(
    client: httpx.AsyncClient,
) -> None:
    await create_many(client, 40)
    starts = [n % 37 for n in range(111)]
    pages = await asyncio.gather(*(ids(client, f"offset={n}&limit=3") for n in starts))
    assert pages == [[n + 1, n + 2, n + 3] for n in starts]


async def test_concurrent_pages_of_every_kind_are_answered_as_if_alone(
    client: httpx.AsyncClient,
) -> None:
    for hero_id in range(1, 60, 3):
        await create(client, id=hero_id, name=f"n{hero_id % 2}", age=hero_id)
    starts = ["", "offset=0", "offset=3", "offset=19", "offset=20", "offset=99", "after=7"]
    rests = ["", "limit=0", "limit=1", "limit=5", "name=n1", "min_age=30", "offset=2&count=true"]
    queries = [f"/heroes/?{start}&{rest}" for start in starts for rest in rests]
    alone = [await client.get(query) for query in queries]
    together = await asyncio.gather(*(client.get(query) for query in queries))
    assert [(page.json(), page.headers) for page in together] == [
        (page.json(), page.headers) for page in alone
    ]


# Counting


async def test_the_total_is_counted_when_it_is_asked_for(client: httpx.AsyncClient) -> None:
    await create_many(client, 3)
    response = await client.get("/heroes/?count=true")
    assert response.headers["X-Total-Count"] == "3"
    assert len(response.json()) == 3


@pytest.mark.parametrize("query", ["", "count=false"])
async def test_the_total_is_not_counted_unasked(client: httpx.AsyncClient, query: str) -> None:
    await create(client)
    assert "X-Total-Count" not in (await client.get(f"/heroes/?{query}")).headers


async def test_the_total_counts_what_the_filters_match_wherever_the_page_is(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    cases = [
        ("limit=1", 4),
        ("limit=0", 4),
        ("offset=3", 4),
        ("offset=9", 4),
        ("after=2", 4),
        ("after=9", 4),
        ("name=Rusty-Man", 1),
        ("name=Nobody", 0),
        ("min_age=20", 2),
        ("max_age=20&limit=1&offset=1", 2),
        ("min_age=20&max_age=20&after=3", 1),
    ]
    for age in (10, 20, 30):
        await create(client, age=age)
    await create(client, name="Rusty-Man")
    for query, total in cases:
        with subtests.test(query):
            response = await client.get(f"/heroes/?{query}&count=true")
            assert response.headers["X-Total-Count"] == str(total)


async def test_the_total_is_of_the_same_snapshot_as_the_page(client: httpx.AsyncClient) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(create_many(client, 60))
        counting = [tasks.create_task(client.get("/heroes/?count=true")) for _ in range(20)]
    pages = [task.result() for task in counting]
    assert [page.headers["X-Total-Count"] for page in pages] == [
        str(len(page.json())) for page in pages
    ]


# Links


async def test_a_page_links_to_the_next_by_keyset_with_its_filters_and_limit(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    cases = [
        ("limit=2", {"limit": "2", "after": "2"}),
        ("limit=2&offset=1", {"limit": "2", "after": "3"}),
        ("limit=2&after=1", {"limit": "2", "after": "3"}),
        ("limit=1&after=1&offset=1", {"limit": "1", "after": "3"}),
        (
            "limit=2&name=Dead%26pond&min_age=0&max_age=9",
            {"limit": "2", "after": "2", "name": "Dead&pond", "min_age": "0", "max_age": "9"},
        ),
    ]
    await create_many(client, 5, name="Dead&pond", age=5)
    for query, following in cases:
        with subtests.test(query):
            link = (await client.get(f"/heroes/?{query}")).links["next"]
            assert link["rel"] == "next"
            assert httpx.URL(link["url"]).path == "/heroes/"
            assert dict(httpx.URL(link["url"]).params) == following


async def test_a_page_of_the_default_size_links_to_the_next(client: httpx.AsyncClient) -> None:
    await create_many(client, 101)
    link = (await client.get("/heroes/")).links["next"]["url"]
    assert [hero["id"] for hero in (await client.get(link)).json()] == [101]


@pytest.mark.parametrize("least", [-(2**63), 1])
async def test_a_page_without_room_has_no_hero_and_links_nowhere(
    settings: Settings, client: httpx.AsyncClient, least: int
) -> None:
    insert(settings, (least, "Deadpond", None, "?"), (2**63 - 1, "Rusty-Man", None, "?"))
    for query in ("limit=0", "limit=0&offset=1", "limit=0&after=0", "limit=0&name=Deadpond"):
        answer = await client.get(f"/heroes/?{query}")
        assert (answer.json(), answer.links) == ([], {})
    assert len((await client.get("/heroes/")).json()) == 2


async def test_a_page_behind_which_there_is_nothing_links_nowhere(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    cases = [
        *("", "limit=0", "limit=3", "after=1&limit=2", "offset=2"),
        *("limit=2", "limit=1&offset=1", "after=1&limit=1", "limit=2&count=true"),
        *("name=Deadpond&limit=2", "max_age=5&limit=2", "name=Deadpond&after=1&limit=1"),
    ]
    await create_many(client, 2)
    for query in cases:
        with subtests.test(query):
            assert "Link" not in (await client.get(f"/heroes/?{query}")).headers


@pytest.mark.parametrize("limit", [1, 3, 7, 20])
async def test_following_the_links_meets_every_hero_exactly_once(
    client: httpx.AsyncClient, settings: Settings, limit: int
) -> None:
    insert(settings, *((hero_id, "n", None, "s") for hero_id in (-(2**63), -5, 0, 2**63 - 1)))
    insert(settings, *((hero_id, "n", None, "s") for hero_id in range(1, 40, 3)))
    pages = [page.json() async for page in walk(client, f"/heroes/?limit={limit}")]
    assert all(pages)
    met = [hero["id"] for page in pages for hero in page]
    assert met == [-(2**63), -5, 0, *range(1, 40, 3), 2**63 - 1]


async def test_following_the_links_keeps_to_the_filters_and_the_count(
    client: httpx.AsyncClient,
) -> None:
    for age in range(12):
        await create(client, name=f"n {age % 2}", age=age)
    start = "/heroes/?limit=2&name=n+1&min_age=2&max_age=10&count=true"
    pages = [page async for page in walk(client, start)]
    assert [hero["age"] for page in pages for hero in page.json()] == [3, 5, 7, 9]
    assert {page.headers["X-Total-Count"] for page in pages} == {"4"}


# Changing


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "New"},
        {"age": 31},
        {"age": 0},
        {"age": None},
        {"secret_name": "New"},
        {"name": "New", "age": None, "secret_name": "New"},
        {},
    ],
)
async def test_only_the_fields_that_were_sent_change(
    client: httpx.AsyncClient, changes: dict[str, object]
) -> None:
    created = await create(client, age=30)
    response = await client.patch("/heroes/1", json=changes)
    assert response.status_code == 200
    assert response.json() == created | changes
    assert (await client.get("/heroes/1")).json() == created | changes


async def test_a_change_leaves_other_heroes_alone(client: httpx.AsyncClient) -> None:
    first, second = await create(client), await create(client)
    await client.patch("/heroes/1", json={"age": 31})
    assert (await client.get("/heroes/")).json() == [first | {"age": 31}, second]


@pytest.mark.parametrize("field", ["name", "secret_name"])
async def test_a_name_cannot_be_cleared(client: httpx.AsyncClient, field: str) -> None:
    created = await create(client)
    assert (await client.patch("/heroes/1", json={field: None})).status_code == 422
    assert (await client.get("/heroes/1")).json() == created


@pytest.mark.parametrize("hero_id", [2, 1, None, "no id"])
async def test_an_id_among_the_changes_is_ignored(
    client: httpx.AsyncClient, hero_id: object
) -> None:
    created = await create(client)
    response = await client.patch("/heroes/1", json={"id": hero_id, "age": 31})
    assert response.json() == created | {"age": 31}
    assert await ids(client) == [1]


async def test_concurrent_changes_to_one_hero_all_apply(client: httpx.AsyncClient) -> None:
    await create(client)
    changes = [{"name": "New"}, {"age": 31}, {"secret_name": "New"}]
    responses = await asyncio.gather(
        *(client.patch("/heroes/1", json=change) for change in changes)
    )
    assert [response.status_code for response in responses] == [200, 200, 200]
    changed = {"id": 1, "name": "New", "age": 31, "secret_name": "New"}
    assert (await client.get("/heroes/1")).json() == changed


async def test_concurrent_changes_are_each_answered_with_their_own_hero(
    client: httpx.AsyncClient,
) -> None:
    await create_many(client, 20)
    responses = await asyncio.gather(
        *(client.patch(f"/heroes/{1 + n % 25}", json={"age": n}) for n in range(25))
    )
    assert [response.json().get("age") for response in responses] == [*range(20), *[None] * 5]


# Deleting


async def test_a_deleted_hero_is_gone(client: httpx.AsyncClient) -> None:
    await create_many(client, 2)
    response = await client.delete("/heroes/1")
    assert response.status_code == 200
    assert response.json() == {"ok": True}
    assert (await client.get("/heroes/1")).status_code == 404
    assert await ids(client) == [2]


async def test_a_second_delete_finds_nothing(client: httpx.AsyncClient) -> None:
    await create(client)
    await client.delete("/heroes/1")
    response = await client.delete("/heroes/1")
    assert response.status_code == 404
    assert response.json() == {"detail": "Hero not found"}


async def test_of_concurrent_deletes_exactly_one_succeeds(client: httpx.AsyncClient) -> None:
    await create_many(client, 2)
    responses = await asyncio.gather(*(client.delete("/heroes/1") for _ in range(20)))
    assert sorted(response.status_code for response in responses) == [200] + [404] * 19
    assert await ids(client) == [2]


# What someone else wrote into the table


@pytest.mark.parametrize(
    "row",
    [
        (0, "Zero", None, "s"),
        (-5, "Below zero", None, "s"),
        (-(2**63), "The least id", None, "s"),
        (2**63 - 1, "The largest id", None, "s"),
        (1, "A negative age", -5, "s"),
        (1, "", None, ""),
        (1, "n" * 2_000, None, "s" * 20_000),
        (1, "12", None, "1.5"),
    ],
)
async def test_a_row_outside_the_rules_is_served(
    client: httpx.AsyncClient, settings: Settings, row: tuple[int, str, int | None, str]
) -> None:
    insert(settings, row)
    hero = dict(zip(("id", "name", "age", "secret_name"), row, strict=True))
    assert (await client.get(f"/heroes/{row[0]}")).json() == hero
    assert (await client.get("/heroes/")).json() == [hero]


async def test_rows_outside_the_rules_are_in_id_order_with_the_others(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    await create(client)
    insert(settings, (0, "n", None, "s"), (-5, "n", None, "s"), (2**53 + 1, "n", None, "s"))
    assert await ids(client) == [-5, 0, 1, 2**53 + 1]
    assert await ids(client, "after=-5&limit=2") == [0, 1]


async def test_a_row_outside_the_rules_can_be_changed(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    insert(settings, (-5, "", -7, "s" * 20_000))
    response = await client.patch("/heroes/-5", json={"name": "New"})
    assert response.json() == {"id": -5, "name": "New", "age": -7, "secret_name": "s" * 20_000}


async def test_a_row_outside_the_rules_can_be_deleted(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    insert(settings, (-5, "n", None, "s"))
    assert (await client.delete("/heroes/-5")).json() == {"ok": True}
    assert await ids(client) == []


async def test_negative_ages_are_filtered_as_any_other(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    insert(settings, (1, "n", -5, "s"), (2, "n", 5, "s"))
    assert await ids(client, "max_age=-5") == [1]


# Paths and methods


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/heroes/", {"GET", "HEAD", "POST"}), ("/heroes/1", {"GET", "HEAD", "PATCH", "DELETE"})],
)
@pytest.mark.parametrize("method", ["PUT", "OPTIONS", "TRACE", "BREW"])
async def test_a_method_that_a_path_does_not_have_is_answered_with_those_it_has(
    client: httpx.AsyncClient, method: str, path: str, allowed: set[str]
) -> None:
    response = await client.request(method, path)
    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == allowed
    assert response.json() == {"detail": "Method Not Allowed"}


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/heroes/"), ("PATCH", "/heroes/"), ("POST", "/heroes/1"), ("POST", "/livez")],
)
async def test_a_method_of_another_path_is_not_allowed(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    assert (await client.request(method, path)).status_code == 405


@pytest.mark.sqlite
@pytest.mark.parametrize("path", ["/heroes/1/", "/heroes/1/name", "/villains/"])
async def test_a_path_that_does_not_exist_is_not_found(
    client: httpx.AsyncClient, path: str
) -> None:
    assert (await client.get(path, follow_redirects=True)).status_code == 404


async def test_heroes_without_the_slash_leads_to_heroes_with_it(client: httpx.AsyncClient) -> None:
    await create(client)
    response = await client.get("/heroes?limit=1", follow_redirects=True)
    assert [hero["id"] for hero in response.json()] == [1]


async def test_a_create_without_the_slash_is_led_on_with_its_body(
    client: httpx.AsyncClient,
) -> None:
    hero = {"name": "Deadpond", "secret_name": "Dive Wilson"}
    response = await client.post("/heroes", json=hero, follow_redirects=True)
    assert response.json()["name"] == "Deadpond"
