import http.client
import json
import re
import socket
from collections.abc import Iterator, MutableMapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running

Request = tuple[str, str, bytes | None, str | None]
"""Method, target, body and content type."""

JSON = "application/json"
GOOD = b'{"name": "Deadpond", "secret_name": "Dive Wilson"}'
REFUSED = {400, 405, 413, 422}
LIMIT = 262_144  # bytes, the default
DEPTHS = [200, 400, 900, 5_000, 100_000]

HUGE = {
    "just beyond 64 bits": str(2**63),
    "just below 64 bits": str(-(2**63) - 1),
    "5,000 digits": "9" * 5_000,
    "5,000 digits below zero": "-" + "9" * 5_000,
}
NUMBERS = {name: text.encode() for name, text in HUGE.items()} | {
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "1e400": b"1e400",
    "-1e400": b"-1e400",
    "a fraction": b"1.5",
}
TEXTS = {
    "a lone high surrogate": rb'"\ud800"',
    "a lone low surrogate": rb'"a\udfffb"',
    "surrogates the wrong way round": rb'"\udc00\ud800"',
    "NUL": rb'"a\u0000b"',
    "nothing but NUL": rb'"\u0000"',
    "an encoded surrogate": b'"\xed\xa0\x80"',
    "not UTF-8": b'"\xff\xfe"',
    "a raw NUL": b'"\x00"',
    "a number": b"1",
    "true": b"true",
    "an array": b'["Deadpond"]',
    "an object": b'{"name": "Deadpond"}',
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "1e400": b"1e400",
}
BODIES = {
    "nothing": b"",
    "blanks": b" \r\n",
    "not JSON": b"name=Deadpond",
    "truncated in a string": b'{"name": "Deadp',
    "truncated after a value": b'{"name": "Deadpond"',
    "truncated in an escape": rb'{"name": "\ud8',
    "more than one value": GOOD + GOOD,
    "a trailing comma": b'{"name": "Deadpond",}',
    "single quotes": b"{'name': 'Deadpond'}",
    "null": b"null",
    "an array": b"[" + GOOD + b"]",
    "a string": b'"Deadpond"',
    "a lone surrogate": rb'"\ud800"',
    "a number": b"12",
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "1e400": b"1e400",
    "true": b"true",
    "5,000 digits": b"9" * 5_000,
    "not UTF-8": b"\xff\xfe\xfd",
    "UTF-8 cut short": '{"name": "Zoë'.encode()[:-1],
    "a gzip header": b"\x1f\x8b\x08\x00",
    "NUL": b"\x00",
}
CONTENT_TYPES = {
    "no content type": None,
    "plain text": "text/plain",
    "a form": "application/x-www-form-urlencoded",
    "a form in parts": "multipart/form-data; boundary=x",
    "a form in parts without a boundary": "multipart/form-data",
    "XML": "application/xml",
    "not a content type": ";;=/",
}


def hero(**fields: bytes) -> bytes:
    """Return a hero as JSON, some of whose fields are as given."""
    written = {"name": b'"Deadpond"', "secret_name": b'"Dive Wilson"'} | fields
    return b"{%s}" % b", ".join(b'"%s": %s' % (name.encode(), written[name]) for name in written)


def nested(depth: int) -> dict[str, bytes]:
    return {
        f"{depth} arrays": b"[" * depth + b"]" * depth,
        f"{depth} objects": b'{"name":' * depth + b"1" + b"}" * depth,
        f"{depth} arrays left open": b"[" * depth,
    }


def bad_targets() -> Iterator[tuple[str, Request]]:
    """Yield each request whose path, query or method is bad, with what is wrong with it."""
    for what, number in HUGE.items():
        yield f"GET of an id of {what}", ("GET", f"/heroes/{number}", None, None)
        yield f"DELETE of an id of {what}", ("DELETE", f"/heroes/{number}", None, None)
        yield f"PATCH of an id of {what}", ("PATCH", f"/heroes/{number}", GOOD, JSON)
        for name in ("offset", "limit", "after", "min_age", "max_age"):
            yield f"{name} of {what}", ("GET", f"/heroes/?{name}={number}", None, None)
    for text in (
        "x",
        "1.5",
        "NaN",
        "Infinity",
        "1e400",
        "%00",
        "%FF",
        "%ED%A0%80",
        "null",
        "1%202",
    ):
        yield f"an id of {text}", ("GET", f"/heroes/{text}", None, None)
        yield f"an offset of {text}", ("GET", f"/heroes/?offset={text}", None, None)
        yield f"a count of {text}", ("GET", f"/heroes/?count={text}", None, None)
    for query in ("limit=-1", "offset=-1", "limit=101", "limit=", "name=a%00b", "name="):
        yield query, ("GET", f"/heroes/?{query}", None, None)
    yield "a long name filter", ("GET", "/heroes/?name=" + "n" * 501, None, None)
    for method in ("PUT", "TRACE", "OPTIONS"):
        yield f"{method} of heroes", (method, "/heroes/", None, None)
        yield f"{method} of a hero", (method, "/heroes/1", None, None)


def bad_bodies() -> Iterator[tuple[str, Request]]:
    """Yield each request whose body is bad, with what is wrong with it."""
    for what, body in _bad_bodies():
        yield f"POST: {what}", ("POST", "/heroes/", body, JSON)
        yield f"PATCH: {what}", ("PATCH", "/heroes/1", body, JSON)
    for what, content_type in CONTENT_TYPES.items():
        yield f"POST: {what}", ("POST", "/heroes/", GOOD, content_type)
        yield f"PATCH: {what}", ("PATCH", "/heroes/1", GOOD, content_type)
    for what, number in NUMBERS.items():
        yield f"POST: an id of {what}", ("POST", "/heroes/", hero(id=number), JSON)
    part = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xff\r\n--x--\r\n'
    yield "POST: a real form", ("POST", "/heroes/", part, "multipart/form-data; boundary=x")
    yield "POST: nothing but a name", ("POST", "/heroes/", b'{"name": "Deadpond"}', JSON)
    yield "POST: nothing but a secret", ("POST", "/heroes/", b'{"secret_name": "?"}', JSON)
    yield "POST: a lone surrogate for a key", ("POST", "/heroes/", rb'{"\ud800": "\ud800"}', JSON)


def _bad_bodies() -> Iterator[tuple[str, bytes]]:
    yield from BODIES.items()
    for depth in DEPTHS:
        for what, value in nested(depth).items():
            yield what, value
            yield f"a name of {what}", hero(name=value)
            yield f"an age of {what}", hero(age=value)
    for what, number in NUMBERS.items():
        yield f"an age of {what}", hero(age=number)
    for field in ("name", "secret_name"):
        yield f"a {field} of null", hero(**{field: b"null"})
        for what, value in TEXTS.items():
            yield f"a {field} that is {what}", hero(**{field: value})
    ages = {"text": b'"x"', "a fraction": b"0.5", "an array": b"[1]", "true": b"true"}
    for what, value in ages.items():
        yield f"an age that is {what}", hero(age=value)
    yield "too large", hero(name=b'"%s"' % (b"n" * LIMIT))


BAD = dict(bad_targets()) | dict(bad_bodies())


def headers(content_type: str | None) -> dict[str, str]:
    return {} if content_type is None else {"Content-Type": content_type}


@pytest.fixture
def connection(server: httpx.URL) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    yield connection
    connection.close()


@pytest.fixture
def wire(server: httpx.URL) -> Iterator[socket.socket]:
    with socket.create_connection((server.host, server.port or 80), timeout=30) as wire:
        yield wire


def receive(wire: socket.socket, method: str = "POST") -> tuple[int, Any]:
    """Receive an answer: its status, and its JSON."""
    response = http.client.HTTPResponse(wire, method=method)
    response.begin()
    return response.status, json.loads(response.read())


def send(wire: socket.socket, *head: str, body: bytes = b"") -> None:
    wire.sendall("\r\n".join([*head, "Host: hero-api", "", ""]).encode("latin-1") + body)


async def test_bad_input_is_answered_4xx_in_json_with_a_detail_and_stores_nothing(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, subtests: pytest.Subtests
) -> None:
    created = await client.post("/heroes/", content=GOOD, headers=headers(JSON))
    for what, (method, target, body, content_type) in BAD.items():
        with subtests.test(what):
            response = await client.request(
                method, target, content=body, headers=headers(content_type)
            )
            assert response.status_code in REFUSED
            assert response.headers["Content-Type"] == JSON
            assert response.json()["detail"]
            assert caplog.records == []
    assert (await client.get("/heroes/")).json() == [created.json()]


def test_bad_input_leaves_the_connection_usable(
    connection: http.client.HTTPConnection, subtests: pytest.Subtests
) -> None:
    connection.connect()
    wire = connection.sock
    for what, (method, target, body, content_type) in BAD.items():
        with subtests.test(what):
            connection.request(method, target, body, headers(content_type))
            response = connection.getresponse()
            assert 400 <= response.status < 500
            assert json.loads(response.read())["detail"]
            connection.request("GET", "/heroes/?limit=1")
            response = connection.getresponse()
            assert (response.status, type(json.loads(response.read()))) == (200, list)
            assert connection.sock is wire


async def test_an_error_echoes_the_input_where_json_can_write_it(
    client: httpx.AsyncClient,
) -> None:
    response = await client.post("/heroes/", content=hero(age=b'"x"'), headers=headers(JSON))
    [problem] = response.json()["detail"]
    assert (problem["loc"], problem["input"]) == (["body", "age"], "x")


@pytest.mark.parametrize("value", [rb'"\ud800"', b"NaN", b"1e400", rb'["\ud800"]'])
async def test_an_error_whose_input_json_cannot_write_still_says_where(
    client: httpx.AsyncClient, value: bytes
) -> None:
    response = await client.post("/heroes/", content=hero(name=value), headers=headers(JSON))
    assert response.status_code == 422
    [problem] = response.json()["detail"]
    assert problem["loc"] == ["body", "name"]


@pytest.mark.parametrize("depth", DEPTHS)
async def test_nesting_in_a_field_that_no_hero_has_is_no_server_error(
    client: httpx.AsyncClient, depth: int
) -> None:
    body = hero(cape=b"[" * depth + b"]" * depth)
    response = await client.post("/heroes/", content=body, headers=headers(JSON))
    assert response.status_code in {200, 400, 422}


@pytest.mark.parametrize(
    "content_type", [JSON, "application/json; charset=utf-8", "application/vnd.hero+json"]
)
async def test_json_is_taken_by_any_of_its_names(
    client: httpx.AsyncClient, content_type: str
) -> None:
    response = await client.post("/heroes/", content=GOOD, headers=headers(content_type))
    assert response.status_code == 200


@pytest.mark.parametrize("content_type", [JSON, "application/json; charset=utf-8"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"name": "first", "name": "last", "secret_name": "?"}',
        b'\xef\xbb\xbf{"name": "last", "secret_name": "?"}',
        b'{"name": "last", "secret_name": "?", "cape": NaN}',
        b'{"name": "last", "secret_name": "?", "cape": 1e400}',
        b'{"name": "last", "secret_name": "?", "age": null}',
        b'\n{"name": "last", "secret_name": "?"}\n',
    ],
)
async def test_odd_json_is_read_alike_by_whatever_name_it_comes(
    client: httpx.AsyncClient, content_type: str, body: bytes
) -> None:
    response = await client.post("/heroes/", content=body, headers=headers(content_type))
    assert response.json() == {"id": 1, "name": "last", "age": None, "secret_name": "?"}


# The size of a body


async def test_a_body_of_exactly_the_limit_is_taken(settings: Settings) -> None:
    small = settings.model_copy(update={"max_body_size": 2_000})
    async with running(create_app(small)) as client:
        body = GOOD + b" " * (2_000 - len(GOOD))
        response = await client.post("/heroes/", content=body, headers=headers(JSON))
        assert response.status_code == 200


@pytest.mark.parametrize("method_and_path", ["POST /heroes/", "PATCH /heroes/1"])
async def test_a_body_of_a_byte_more_than_the_limit_is_too_large(
    settings: Settings, method_and_path: str
) -> None:
    small = settings.model_copy(update={"max_body_size": 2_000})
    method, path = method_and_path.split()
    async with running(create_app(small)) as client:
        body = GOOD + b" " * (2_001 - len(GOOD))
        response = await client.request(method, path, content=body, headers=headers(JSON))
        assert response.status_code == 413
        assert isinstance(response.json()["detail"], str)


def chunked(body: bytes, chunk: int = 50_000) -> bytes:
    pieces = [body[start : start + chunk] for start in range(0, len(body), chunk)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


CHUNKED = ("POST /heroes/ HTTP/1.1", f"Content-Type: {JSON}", "Transfer-Encoding: chunked")


def test_a_chunked_body_within_the_limit_is_taken(wire: socket.socket) -> None:
    send(wire, *CHUNKED, body=chunked(GOOD, chunk=7))
    status, _ = receive(wire)
    assert status == 200


def test_a_chunked_body_over_the_limit_is_too_large_before_it_ends(wire: socket.socket) -> None:
    send(wire, *CHUNKED, body=chunked(b" " * (LIMIT + 1)).removesuffix(b"0\r\n\r\n"))
    status, answer = receive(wire)
    assert (status, list(answer)) == (413, ["detail"])


def test_a_declared_length_over_the_limit_is_too_large_before_the_body_is_sent(
    wire: socket.socket,
) -> None:
    send(wire, "POST /heroes/ HTTP/1.1", f"Content-Type: {JSON}", f"Content-Length: {10**12}")
    status, answer = receive(wire)
    assert (status, list(answer)) == (413, ["detail"])


DECLARED = ("POST /heroes/ HTTP/1.1", f"Content-Type: {JSON}", f"Content-Length: {LIMIT + 1}")
TOO_LARGE = b" " * (LIMIT + 1)


@pytest.mark.parametrize(
    ("head", "body"),
    [(DECLARED, TOO_LARGE), (CHUNKED, chunked(TOO_LARGE))],
    ids=["declared", "chunked"],
)
def test_a_body_over_the_limit_is_too_large_and_leaves_the_connection_usable(
    wire: socket.socket, head: tuple[str, ...], body: bytes
) -> None:
    send(wire, *head, body=body)
    status, answer = receive(wire)
    assert (status, list(answer)) == (413, ["detail"])
    send(wire, "GET /livez HTTP/1.1")
    assert receive(wire, "GET") == (200, {"status": "ok"})


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_body_where_none_is_expected_leaves_the_connection_usable(
    wire: socket.socket, method: str
) -> None:
    send(wire, f"{method} /heroes/0 HTTP/1.1", f"Content-Length: {len(GOOD)}", body=GOOD)
    assert receive(wire, method) == (404, {"detail": "Hero not found"})
    send(wire, "GET /livez HTTP/1.1")
    assert receive(wire, "GET") == (200, {"status": "ok"})


# What is no HTTP


@pytest.mark.parametrize(
    "head",
    [
        "nonsense",
        "GET",
        "GET /heroes/ HTTP/9.9.9",
        "GET heroes HTTP/1.1",
        "GET /heroes/\xff HTTP/1.1",
        "GET /heroes/\x00 HTTP/1.1",
        "GET /heroes/ HTTP/1.1\r\nNo colon",
        "POST /heroes/ HTTP/1.1\r\nContent-Length: x",
        "POST /heroes/ HTTP/1.1\r\nContent-Length: -1",
        "POST /heroes/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2",
        "POST /heroes/ HTTP/1.1\r\nContent-Length: 99999999999999999999999",
        "POST /heroes/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1",
    ],
)
def test_what_is_not_http_is_answered_400_and_a_close(wire: socket.socket, head: str) -> None:
    send(wire, head)
    with wire.makefile("rb") as answer:
        assert answer.readline().split()[1] == b"400"
        assert answer.read().endswith(b'\r\n\r\n{"detail": "Invalid HTTP request received."}')


def test_a_chunk_that_is_not_http_is_answered_400(wire: socket.socket) -> None:
    send(wire, *CHUNKED, body=b"no size\r\n")
    with wire.makefile("rb") as answer:
        assert answer.readline().split()[1] == b"400"


def test_a_client_that_leaves_amid_its_body_stores_nothing_and_harms_nobody(
    wire: socket.socket, connection: http.client.HTTPConnection
) -> None:
    body = hero(name=b'"left amid its body"')
    length = f"Content-Length: {len(body) + 1}"
    send(wire, "POST /heroes/ HTTP/1.1", f"Content-Type: {JSON}", length, body=body)
    wire.shutdown(socket.SHUT_WR)
    with wire.makefile("rb") as answer:
        answer.read()
    connection.request("GET", "/heroes/?name=left+amid+its+body")
    assert json.loads(connection.getresponse().read()) == []


@pytest.mark.parametrize(("method", "path"), [("POST", "/heroes/"), ("PATCH", "/heroes/1")])
async def test_a_client_that_leaves_amid_its_body_is_nothing_to_log(
    client: httpx.AsyncClient,
    app: FastAPI,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
) -> None:
    received: list[MutableMapping[str, Any]] = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": b'{"name": ', "more_body": True},
    ]

    async def receive() -> MutableMapping[str, Any]:
        return received.pop()

    async def send(_message: MutableMapping[str, Any]) -> None:
        """Send to nobody."""

    content_type = (b"content-type", b"application/json")
    request = {"type": "http", "http_version": "1.1", "method": method, "path": path}
    await app(request | {"query_string": b"", "headers": [content_type]}, receive, send)
    assert caplog.records == []
    assert (await client.get("/heroes/")).json() == []


def test_pipelined_bad_and_good_requests_are_answered_in_order(wire: socket.socket) -> None:
    bad = b"GET /heroes/x HTTP/1.1\r\nHost: hero-api\r\n\r\n"
    good = b"GET /livez HTTP/1.1\r\nHost: hero-api\r\n\r\n"
    wire.sendall(bad + good + bad + good)
    with wire.makefile("rb") as answers:
        content = b""
        while content.count(b'{"status":"ok"}') < 2:
            content += answers.readline(1) or pytest.fail("the connection was closed")
    assert re.findall(rb"HTTP/1.1 (\d+)", content) == [b"422", b"200", b"422", b"200"]
