import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import stamina
from stamina.instrumentation import RetryDetails, get_on_retry_hooks, set_on_retry_hooks

import hero_api.client
from hero_api.client import HeroClient, HeroClientError
from hero_api.models import HeroCreate, HeroPublic, HeroUpdate
from tests.servers import serving

ZOE = HeroCreate(name="Zoë", age=30, secret_name="?")
STORED = {"id": 1, "name": "Zoë", "age": 30, "secret_name": "?"}
NOTHING_DONE = (503, {"detail": "The service is stopping; nothing was done. Try again in a second"})
TOO_MANY = (429, {"message": "API rate limit exceeded"})
UNKNOWN = (503, {"detail": "whether it was stored is unknown"})
Answers = list[tuple[int, Any] | Exception]
WRITES: dict[str, Callable[[HeroClient], Any]] = {
    "create": lambda client: client.create(ZOE),
    "update": lambda client: client.update(1, HeroUpdate(age=31)),
    "delete": lambda client: client.delete(1),
}
CALLS = WRITES | {
    "read": lambda client: client.read(1),
    "heroes": lambda client: anext(client.heroes()),
    "count": lambda client: client.count(),
}
write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())


@pytest.fixture(autouse=True)
def _without_waits() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture
async def heroes(client: httpx.AsyncClient) -> AsyncIterator[HeroClient]:
    """A client of an application of its own, on each engine."""
    async with HeroClient(client) as heroes:
        yield heroes


class Script:
    """A service that gives the answers of a script, one after the other."""

    def __init__(self, answers: Answers) -> None:
        self._answers = iter(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        status, content = answer
        return httpx.Response(status, json=content)


def scripted(*answers: tuple[int, Any] | Exception) -> tuple[HeroClient, Script]:
    script = Script([*answers])
    http = httpx.AsyncClient(transport=httpx.MockTransport(script), base_url="http://hero-api")
    return HeroClient(http), script


# What it asks


async def test_a_hero_is_created_read_changed_and_deleted(heroes: HeroClient) -> None:
    created = await heroes.create(ZOE)
    assert created == HeroPublic(id=created.id, name="Zoë", age=30, secret_name="?")
    assert await heroes.read(created.id) == created
    updated = await heroes.update(created.id, HeroUpdate(age=None))
    assert updated == HeroPublic(id=created.id, name="Zoë", age=None, secret_name="?")
    await heroes.delete(created.id)
    assert [hero async for hero in heroes.heroes()] == []


async def test_pages_follow_each_other_until_the_last(heroes: HeroClient) -> None:
    created = [await heroes.create(ZOE) for _ in range(7)]
    assert [hero async for hero in heroes.heroes(limit=3)] == created
    assert [hero async for hero in heroes.heroes(limit=7)] == created


async def test_filters_hold_on_every_page(heroes: HeroClient) -> None:
    for age in range(10):
        await heroes.create(HeroCreate(name="n", age=age, secret_name="s"))
    assert [hero.age async for hero in heroes.heroes(min_age=4, limit=2)] == [4, 5, 6, 7, 8, 9]
    assert await heroes.count(min_age=4) == 6


async def test_a_link_that_lacks_a_proxys_prefix_is_followed_all_the_same() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path)
        link = {} if len(asked) > 1 else {"Link": '</heroes/?limit=1&after=1>; rel="next"'}
        return httpx.Response(200, json=[STORED], headers=link)

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://proxy/api/")
    assert len([hero async for hero in HeroClient(http).heroes(limit=1)]) == 2
    assert asked == [b"/api/heroes/?limit=1", b"/api/heroes/?limit=1&after=1"]


async def test_the_token_is_sent(client: httpx.AsyncClient) -> None:
    sent = []

    async def note(request: httpx.Request) -> None:
        sent.append(request.headers["Authorization"])

    client.event_hooks["request"] = [note]
    assert await HeroClient(client, token="a-token").count() == 0
    assert sent == ["Bearer a-token"]


async def test_no_more_requests_than_allowed_are_under_way(client: httpx.AsyncClient) -> None:
    under_way = most = 0

    async def enter(_: httpx.Request) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)

    async def leave(_: httpx.Response) -> None:
        nonlocal under_way
        under_way -= 1

    client.event_hooks = {"request": [enter], "response": [leave]}
    heroes = HeroClient(client, concurrency=4)
    await asyncio.gather(*(heroes.create(ZOE) for _ in range(40)))
    assert most == 4
    assert await heroes.count() == 40


async def test_a_request_that_is_cancelled_leaves_its_place_to_others() -> None:
    asked = asyncio.Event()

    async def answer(_: httpx.Request) -> httpx.Response:
        if not asked.is_set():
            asked.set()
            await asyncio.Event().wait()
        return httpx.Response(200, json=STORED)

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://hero-api")
    heroes = HeroClient(http, concurrency=1)
    first, waiting = (asyncio.create_task(heroes.read(1)) for _ in range(2))
    await asked.wait()
    first.cancel()
    assert (await waiting).id == 1
    assert first.cancelled()


def test_a_client_that_could_ask_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="concurrency"):
        HeroClient(concurrency=0)


async def test_a_walk_that_is_broken_off_asks_for_no_further_page() -> None:
    asked = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        link = {"Link": '</heroes/?after=1>; rel="next"'}
        return httpx.Response(200, json=[STORED, STORED], headers=link)

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://hero-api")
    heroes = HeroClient(http, concurrency=1)
    async for _ in heroes.heroes():
        break
    assert asked == 1
    async for _ in heroes.heroes():
        break
    assert asked == 2


# Errors


async def test_an_error_has_the_status_and_the_detail(heroes: HeroClient) -> None:
    with pytest.raises(HeroClientError, match="404: Hero not found") as caught:
        await heroes.read(1)
    assert (caught.value.status, caught.value.detail) == (404, "Hero not found")


async def test_a_hero_that_does_not_fit_is_an_error_that_names_the_field(
    heroes: HeroClient,
) -> None:
    with pytest.raises(HeroClientError) as caught:
        await heroes.create(HeroCreate.model_construct(name="", secret_name="?"))
    assert caught.value.status == 422
    assert caught.value.detail[0]["loc"] == ["body", "name"]


@pytest.mark.parametrize("content", ["Bad Gateway", ["x"], {"error": 1}])
async def test_a_proxys_error_has_its_text_as_the_detail(content: object) -> None:
    client, _ = scripted((400, content))
    with pytest.raises(HeroClientError) as caught:
        await client.read(1)
    assert caught.value.detail == httpx.Response(400, json=content).text


async def test_an_empty_error_has_its_reason_as_the_detail() -> None:
    client, _ = scripted((400, None))
    with pytest.raises(HeroClientError, match="400: Bad Request"):
        await client.read(1)


async def test_a_redirect_is_an_error() -> None:
    client, _ = scripted((307, None))
    with pytest.raises(HeroClientError, match="307"):
        await client.read(1)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_an_answer_that_is_not_the_services_own_is_an_error(
    call: Callable[[HeroClient], Any],
) -> None:
    client, _ = scripted((200, "<html>Please log in</html>"))
    with pytest.raises(HeroClientError, match=r"200: .*Please log in"):
        await call(client)


# What is tried again


@pytest.mark.parametrize(
    "failure",
    [
        NOTHING_DONE,
        TOO_MANY,
        UNKNOWN,
        (502, "Bad Gateway"),
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.ReadTimeout("silent"),
        httpx.RemoteProtocolError("closed"),
    ],
    ids=str,
)
async def test_a_read_is_tried_again(failure: tuple[int, Any] | Exception) -> None:
    client, script = scripted(failure, failure, (200, STORED))
    assert (await client.read(1)).name == "Zoë"
    assert len(script.requests) == 3


async def test_after_the_last_attempt_the_error_is_raised() -> None:
    client, script = scripted(*[NOTHING_DONE] * 4)
    with pytest.raises(HeroClientError, match="503"):
        await client.read(1)
    assert len(script.requests) == 3


@write
@pytest.mark.parametrize(
    "failure",
    [NOTHING_DONE, TOO_MANY, httpx.ConnectError("refused"), httpx.PoolTimeout("none is free")],
    ids=str,
)
async def test_a_write_that_was_not_done_is_tried_again(
    write: Callable[..., Any], failure: tuple[int, Any] | Exception
) -> None:
    client, script = scripted(failure, (200, STORED))
    await write(client)
    assert len(script.requests) == 2


@write
@pytest.mark.parametrize(
    "failure", [UNKNOWN, (502, "Bad Gateway"), httpx.ReadError("reset")], ids=str
)
async def test_a_write_that_may_have_been_done_is_not_tried_again(
    write: Callable[..., Any], failure: tuple[int, Any] | Exception
) -> None:
    client, script = scripted(failure)
    with pytest.raises((HeroClientError, httpx.ReadError)):
        await write(client)
    assert len(script.requests) == 1


@pytest.mark.parametrize("failure", [UNKNOWN, httpx.ReadError("reset")], ids=str)
async def test_a_create_with_a_key_is_tried_again_with_the_same_key(
    failure: tuple[int, Any] | Exception,
) -> None:
    client, script = scripted(failure, (200, STORED))
    await client.create(ZOE, key="a-key")
    assert [each.headers["Idempotency-Key"] for each in script.requests] == ["a-key"] * 2


async def test_a_key_that_is_none_is_sent_too_and_refused(heroes: HeroClient) -> None:
    with pytest.raises(HeroClientError, match="400"):
        await heroes.create(ZOE, key="")
    assert await heroes.count() == 0


async def test_a_key_may_have_any_characters(heroes: HeroClient) -> None:
    created = await heroes.create(ZOE, key="Zoë 🦸")
    assert await heroes.create(ZOE, key="Zoë 🦸") == created
    assert await heroes.count() == 1


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500, 507])
async def test_what_would_be_refused_again_is_not_tried_again(status: int) -> None:
    client, script = scripted((status, {"detail": "nothing was changed"}))
    with pytest.raises(HeroClientError):
        await client.create(ZOE, key="a-key")
    assert len(script.requests) == 1


@pytest.fixture
def waits() -> Iterator[list[float]]:
    """How long the client would have waited: its first wait raises `StopIteration` at once."""
    waits: list[float] = []

    def note(details: RetryDetails) -> None:
        waits.append(details.wait_for)
        raise LookupError

    before = get_on_retry_hooks()
    stamina.set_testing(False)
    set_on_retry_hooks([note])
    yield waits
    set_on_retry_hooks(before)


def unavailable(retry_after: str) -> HeroClient:
    answer = httpx.Response(503, json=NOTHING_DONE[1], headers={"Retry-After": retry_after})
    transport = httpx.MockTransport(lambda _: answer)
    return HeroClient(httpx.AsyncClient(transport=transport, base_url="http://hero-api"))


async def test_the_wait_is_what_retry_after_says_and_some_jitter(waits: list[float]) -> None:
    with pytest.raises(LookupError):
        await unavailable("7").read(1)
    assert 7 <= waits[0] <= 7.5


async def test_a_wait_that_is_no_number_of_seconds_is_the_clients_own(waits: list[float]) -> None:
    with pytest.raises(LookupError):
        await unavailable("Thu, 01 Jan 1970 00:00:00 GMT").read(1)
    assert 0.1 <= waits[0] <= 0.6


async def test_who_is_to_wait_longer_than_its_patience_gets_the_error(waits: list[float]) -> None:
    with pytest.raises(HeroClientError) as caught:
        await unavailable("3600").read(1)
    assert (caught.value.retry_after, waits) == (3600, [])


async def test_who_has_waited_already_has_less_patience_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 0.0

    async def wait(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    monkeypatch.setattr("hero_api.client.time", SimpleNamespace(monotonic=lambda: clock))
    monkeypatch.setattr(asyncio, "sleep", wait)
    stamina.set_testing(False)
    with pytest.raises(HeroClientError):
        await unavailable("25").read(1)
    assert 50 <= clock <= 51


# Over sockets


async def test_the_client_speaks_to_a_server_and_closes_its_connections(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        async with HeroClient(f"http://{server.host}:{server.port}", concurrency=8) as heroes:
            created = await asyncio.gather(*(heroes.create(ZOE) for _ in range(50)))
            assert [hero async for hero in heroes.heroes(limit=20)] == sorted(
                created, key=lambda hero: hero.id
            )
        with pytest.raises(RuntimeError, match="closed"):
            await heroes.read(1)


def test_the_readmes_example_runs(tmp_path: Path) -> None:
    readme = Path(hero_api.client.__file__).with_name("README.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    with serving(tmp_path) as server:
        program = example.replace("127.0.0.1:8000", f"{server.host}:{server.port}")
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            capture_output=True,
            check=True,
            text=True,
            timeout=60,
        )
    lines = ended.stdout.splitlines()
    # The hero of age 99 is not among those of 190 and more.
    assert {line.split(" ", 1)[1] for line in lines[:10]} == {f"Hero {n}" for n in range(190, 200)}
    assert lines[10:] == ["183 adults", "404 Hero not found"]
