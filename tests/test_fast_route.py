"""A fast route answers what FastAPI's general handler would."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running

from .test_bad_input import BAD, Request

JSON = "application/json"
GOOD = b'{"name": "Deadpond", "secret_name": "Dive Wilson"}'
TOKEN = "correct horse battery staple"


def bodies() -> Iterator[tuple[str, bytes]]:
    """Yield bodies that one parser may take and another refuse, with what is odd about them."""
    values = {
        "an object": b"{}",
        "NaN": b"NaN",
        "infinity": b"-Infinity",
        "a huge float": b"1e400",
        "5,000 digits": b"9" * 5_000,
        "4,300 digits": b"9" * 4_300,
        "a lone surrogate": rb'"\ud800"',
        "a raw tab": b'"\t"',
        "a raw NUL": b'"\0"',
        "not UTF-8": b'"\xff"',
        "an overlong encoding": b'"\xc0\xaf"',
        "a bad escape": rb'"\x"',
        "a half escape": rb'"\u00"',
        "a leading zero": b"01",
        "a leading plus": b"+1",
        "a trailing point": b"1.",
        "a leading point": b".5",
        "hexadecimal": b"0x1",
        "minus zero": b"-0",
        "an exponent": b"1e1",
        "an int as a float": b"30.0",
        "an int with an underscore": b"1_0",
        "150 arrays": b"[" * 150 + b"]" * 150,
        "250 arrays": b"[" * 250 + b"]" * 250,
        "900 arrays": b"[" * 900 + b"]" * 900,
        "a bad constant": b"nul",
        "a constant in capitals": b"True",
        "a comment": b"1 /* one */",
    }
    for what, value in values.items():
        yield (
            f"a field that no hero has, of {what}",
            b'{"cape": %s, "name": "a", "secret_name": "b"}' % value,
        )
        yield f"an age of {what}", b'{"age": %s, "name": "a", "secret_name": "b"}' % value
        yield f"a name of {what}", b'{"name": %s, "secret_name": "b"}' % value
    for text in ("30", " 30 ", "3_0", "30.0", "030", "+30", "-0", "", "٣", "1e1", "true", "½"):
        age = f'{{"age": "{text}", "name": "a", "secret_name": "b"}}'
        yield f"an age of the text {text!r}", age.encode()
    yield from {
        "a byte order mark": b"\xef\xbb\xbf" + GOOD,
        "UTF-16": GOOD.decode().encode("utf-16"),
        "UTF-16 without a mark": GOOD.decode().encode("utf-16-le"),
        "UTF-32": GOOD.decode().encode("utf-32"),
        "Latin-1": b'{"name": "Zo\xeb", "secret_name": "?"}',
        "a name twice": b'{"name": 1, "name": "b", "secret_name": "?"}',
        "a name twice, the second bad": b'{"name": "b", "name": 1, "secret_name": "?"}',
        "an escaped key": rb'{"n\u0061me": "b", "secret_name": "?"}',
        "a trailing comma": GOOD[:-1] + b",}",
        "blanks around": b" \t\r\n" + GOOD + b" \t\r\n",
        "a form feed before": b"\x0c" + GOOD,
        "a no-break space before": b"\xc2\xa0" + GOOD,
        "a second value": GOOD + b" {}",
        "a NUL behind": GOOD + b"\0",
        "a chosen id": GOOD[:-1] + b', "id": 77}',
        "a chosen id as text": GOOD[:-1] + b', "id": "78"}',
        "a chosen id that is too large": GOOD[:-1] + b', "id": 9007199254740992}',
        "a surrogate pair": b'{"name": "\\ud83e\\uddb8", "secret_name": "?"}',
        "a name of 500": b'{"name": "%s", "secret_name": "?"}' % ("é" * 500).encode(),
        "a name of 501": b'{"name": "%s", "secret_name": "?"}' % ("é" * 501).encode(),
    }.items()


def table() -> Iterator[tuple[str, Request]]:
    """Yield each request, with what it is."""
    yield "a create", ("POST", "/heroes/", GOOD, JSON)
    yield "a get", ("GET", "/heroes/1", None, None)
    yield "a get of none", ("GET", "/heroes/99", None, None)
    yield "a list", ("GET", "/heroes/", None, None)
    yield "a delete", ("DELETE", "/heroes/1", None, None)
    yield "a delete with a body", ("DELETE", "/heroes/1", GOOD, JSON)
    yield "a get with a body", ("GET", "/heroes/1", b"{", JSON)
    for what, body in bodies():
        yield f"POST: {what}", ("POST", "/heroes/", body, JSON)
        yield f"PATCH: {what}", ("PATCH", "/heroes/1", body, JSON)
    for text in ("1.0", "%201", "1%20", "+1", "01", "1_0", "-1", "0", "٣", "1e0", "true", "1.5"):
        yield f"an id of {text}", ("GET", f"/heroes/{text}", None, None)
    for query in (
        "limit=1&limit=2",
        "limit=x&limit=2",
        "limit=2&limit=x",
        "limit=+2",
        "limit=2.0",
        "limit=1_0",
        "limit",
        "limit=&offset=",
        "LIMIT=2",
        "cape=1",
        "count=yes",
        "count=ON",
        "count=2",
        "count=",
        "name=Hero%201",
        "name=Hero+1",
        "name=%FF",
        "name=%ED%A0%80",
        "name=a&name=Hero+1",
        "after=",
        "after=1;limit=1",
        "limit=1&&offset=1",
        "=1",
        "page=1",
        "session=1",
        "hero_id=2",
    ):
        yield f"a list of {query}", ("GET", f"/heroes/?{query}", None, None)
    for content_type in (
        "application/json;charset=utf-8",
        "application/json; charset=latin-1",
        "APPLICATION/JSON",
        "application/json,text/plain",
        "text/json",
        "application/vnd.hero+json",
        "",
    ):
        yield f"a create of {content_type!r}", ("POST", "/heroes/", GOOD, content_type)
    yield from BAD.items()


TABLE = dict(table())
HERO_1: Request = ("POST", "/heroes/", b'{"id": 1, "name": "Hero 1", "secret_name": "?"}', JSON)
LAST_PAGE: Request = ("GET", "/heroes/?count=true&after=100", None, None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Clients of two services; in the second, everything takes FastAPI's general way."""
    directory = tmp_path_factory.mktemp("fast")
    fast = create_app(Settings(database_url=f"sqlite:///{directory}/fast.db"))
    general = create_app(Settings(database_url=f"sqlite:///{directory}/general.db"))
    general.dependency_overrides[create_app] = create_app
    async with running(fast) as one, running(general) as other:
        yield one, other


async def ask(client: httpx.AsyncClient, request: Request) -> tuple[int, dict[str, str], bytes]:
    method, target, body, content_type = request
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await client.request(method, target, content=body, headers=headers)
    return answer.status_code, dict(answer.headers), answer.content


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("request_", TABLE.values(), ids=TABLE.keys())
async def test_a_fast_route_answers_and_stores_as_fastapi_would(
    both: tuple[httpx.AsyncClient, httpx.AsyncClient], request_: Request
) -> None:
    fast, general = both
    for each_request in (HERO_1, request_, LAST_PAGE):
        assert await ask(fast, each_request) == await ask(general, each_request)


@pytest.mark.parametrize(
    "request_", [TABLE["a create"], TABLE["POST: an age of a bad constant"], TABLE["a delete"]]
)
async def test_a_fast_route_asks_for_the_token_as_fastapi_would(
    settings: Settings, request_: Request
) -> None:
    app = create_app(settings.model_copy(update={"token": Settings(token=TOKEN).token}))
    async with running(app) as client:
        fast = await ask(client, request_)
        app.dependency_overrides[create_app] = create_app
        assert await ask(client, request_) == fast
    assert fast[0] == 401
