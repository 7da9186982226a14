"""Who may do what, and what of a request reaches the log."""

import logging
import socket
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import typer
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.requests import Request

import hero_api.cli
from hero_api.app import create_app
from hero_api.dependencies import get_read_session, get_write_session
from hero_api.errors import StartError
from hero_api.settings import Settings
from hero_api.testing import running

from .servers import Server, serving

pytestmark = pytest.mark.sqlite  # who may do what is asked before any database is

TOKEN = "correct horse battery staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}
ORIGIN = "https://heroes.example"

READS = ["/heroes/", "/heroes/1", "/heroes/?count=true"]
WRITES = [("POST", "/heroes/"), ("PATCH", "/heroes/1"), ("DELETE", "/heroes/1")]
OPERATIONS = ["/livez", "/readyz", "/metrics"]
WRONG = {
    "no header": {},
    "another token": {"Authorization": "Bearer correct horse battery stable"},
    "a part of the token": {"Authorization": f"Bearer {TOKEN[:-1]}"},
    "more than the token": {"Authorization": f"Bearer {TOKEN}!"},
    "the token in capitals": {"Authorization": f"Bearer {TOKEN.upper()}"},
    "no token": {"Authorization": "Bearer"},
    "an empty token": {"Authorization": "Bearer "},
    "no scheme": {"Authorization": TOKEN},
    "another scheme": {"Authorization": f"Basic {TOKEN}"},
    "a scheme without a blank": {"Authorization": f"Bearer{TOKEN}"},
    "an empty header": {"Authorization": ""},
    "another header": {"X-API-Key": TOKEN},
}
NOT_ASCII = {
    "UTF-8": f"Bearer {TOKEN[:-1]}é".encode(),
    "Latin-1": f"Bearer {TOKEN[:-1]}é".encode("latin-1"),
    "any bytes": b"Bearer \xff\xfe\xfd",
    "a scheme of any bytes": b"B\xe9arer x",
}


@pytest.fixture
async def guarded(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that has a hero and guards its changes."""
    async with running(create_app(settings_with(settings, token=TOKEN))) as client:
        await client.post("/heroes/", json=HERO, headers=BEARER)
        yield client


@pytest.fixture
async def closed(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that has a hero and guards everything."""
    async with running(create_app(settings_with(settings, token=TOKEN, guard="all"))) as client:
        await client.post("/heroes/", json=HERO, headers=BEARER)
        yield client


def settings_with(settings: Settings, **values: object) -> Settings:
    return Settings.model_validate({"database_url": settings.database_url} | values)


def assert_unauthorized(response: httpx.Response) -> None:
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.headers["Content-Type"] == "application/json"
    assert "Authorization" in response.json()["detail"]


# The token

each_wrong_header = pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG.keys())


@each_wrong_header
@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_a_change_without_the_token_is_unauthorized(
    guarded: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]
) -> None:
    assert_unauthorized(await guarded.request(method, path, json=HERO, headers=headers))


@pytest.mark.parametrize("value", NOT_ASCII.values(), ids=NOT_ASCII.keys())
async def test_a_token_that_is_not_ascii_is_unauthorized(
    guarded: httpx.AsyncClient, value: bytes
) -> None:
    headers = {b"Authorization": value}
    assert_unauthorized(await guarded.post("/heroes/", json=HERO, headers=headers))


async def test_a_change_without_the_token_changes_nothing(guarded: httpx.AsyncClient) -> None:
    before = (await guarded.get("/heroes/")).json()
    for method, path in WRITES:
        await guarded.request(method, path, json={"name": "Mallory", "secret_name": "?"})
    assert (await guarded.get("/heroes/")).json() == before


@pytest.mark.parametrize("telemetry", [False, True])  # the fast routes, and FastAPI's
@pytest.mark.parametrize("media_type", ["application/json", "application/jsonl"])
async def test_a_bad_change_without_the_token_is_unauthorized_too(
    settings: Settings, media_type: str, *, telemetry: bool
) -> None:
    headers = {"Content-Type": media_type, "Content-Encoding": "gzip"}
    async with running(create_app(settings_with(settings, token=TOKEN, telemetry=telemetry))) as c:
        for body in (b"", b"nonsense", b"\xff", b'{"name": 1}', b"[" * 10_000):
            assert_unauthorized(await c.post("/heroes/", content=body, headers=headers))
            assert_unauthorized(await c.patch("/heroes/1", content=body, headers=headers))


async def test_a_bad_id_without_the_token_is_unauthorized_too(guarded: httpx.AsyncClient) -> None:
    assert_unauthorized(await guarded.delete("/heroes/x"))


@pytest.mark.sqlite
@pytest.mark.parametrize("media_type", ["application/json", "application/jsonl"])
@pytest.mark.parametrize(("method", "path"), [*WRITES, ("GET", "/heroes/"), ("GET", "/heroes/1")])
async def test_a_query_that_nothing_declares_is_unauthorized_too(
    closed: httpx.AsyncClient, method: str, path: str, media_type: str
) -> None:
    headers = {"Accept": media_type, "Content-Type": media_type}
    request = closed.build_request(method, f"{path}?limt=1", headers=headers, content=b"{}")
    assert_unauthorized(await closed.send(request))
    request.headers.update(BEARER)
    assert (await closed.send(request)).status_code == 422


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_a_change_with_the_token_is_served(
    guarded: httpx.AsyncClient, method: str, path: str
) -> None:
    response = await guarded.request(method, path, json=HERO, headers=BEARER)
    assert response.status_code == 200


@pytest.mark.parametrize(("verdict", "status"), [(True, 200), (False, 401)])
@pytest.mark.parametrize("token", [TOKEN, "another token", ""])
async def test_a_comparison_in_constant_time_decides_about_the_token(
    guarded: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    verdict: bool,  # noqa: FBT001
    status: int,
) -> None:
    compared: list[set[bytes]] = []

    def compare(*both: bytes) -> bool:
        compared.append({*both})
        return verdict

    monkeypatch.setattr("hero_api.dependencies.secrets.compare_digest", compare)
    headers = {"Authorization": f"Bearer {token}"}
    answer = await guarded.post("/heroes/", json=HERO, headers=headers)
    assert answer.status_code == status
    assert compared == [{token.encode(), TOKEN.encode()}]


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "bEaReR"])
async def test_the_case_of_the_scheme_does_not_matter(
    guarded: httpx.AsyncClient, scheme: str
) -> None:
    headers = {"Authorization": f"{scheme} {TOKEN}"}
    assert (await guarded.post("/heroes/", json=HERO, headers=headers)).status_code == 200


async def test_a_token_is_checked_on_a_change_that_fastapi_judges(
    guarded: httpx.AsyncClient,
) -> None:
    response = await guarded.post(
        "/heroes/", json=HERO, headers={"Content-Type": "application/json; charset=utf-8"}
    )
    assert_unauthorized(response)


async def test_a_token_is_checked_where_a_dependency_is_overridden(settings: Settings) -> None:
    app = create_app(settings_with(settings, token=TOKEN))
    app.dependency_overrides[create_app] = create_app
    async with running(app) as client:
        assert_unauthorized(await client.post("/heroes/", json=HERO))
        assert (await client.post("/heroes/", json=HERO, headers=BEARER)).status_code == 200


@pytest.mark.parametrize("path", [*READS, *OPERATIONS, "/docs", "/openapi.json"])
async def test_reads_need_no_token_by_default(guarded: httpx.AsyncClient, path: str) -> None:
    assert (await guarded.get(path)).status_code == 200


@pytest.mark.parametrize("path", READS)
async def test_reads_of_heroes_need_the_token_when_all_is_guarded(
    closed: httpx.AsyncClient, path: str
) -> None:
    assert_unauthorized(await closed.get(path))
    assert (await closed.get(path, headers=BEARER)).status_code == 200


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_changes_need_the_token_when_all_is_guarded(
    closed: httpx.AsyncClient, method: str, path: str
) -> None:
    assert_unauthorized(await closed.request(method, path, json=HERO))


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_probes_need_no_token_when_all_is_guarded(
    closed: httpx.AsyncClient, path: str
) -> None:
    assert (await closed.get(path)).status_code == 200


async def test_nothing_needs_a_token_when_none_is_set(client: httpx.AsyncClient) -> None:
    assert (await client.post("/heroes/", json=HERO)).status_code == 200
    assert (await client.delete("/heroes/1", headers=BEARER)).status_code == 200


def test_a_token_that_is_easily_guessed_is_refused(settings: Settings) -> None:
    with pytest.raises(StartError, match="HERO_API_TOKEN") as caught:
        settings_with(settings, token="secret")
    assert "secret" not in str(caught.value)


def test_a_guard_without_a_token_is_refused(settings: Settings) -> None:
    with pytest.raises(StartError, match="HERO_API_TOKEN"):
        settings_with(settings, guard="all")


def test_the_token_is_not_shown(settings: Settings) -> None:
    assert TOKEN not in repr(settings_with(settings, token=TOKEN))


async def test_a_token_beyond_ascii_is_taken_or_refused_at_the_start(settings: Settings) -> None:
    token = "pässwörter sind gut"
    try:
        app = create_app(settings_with(settings, token=token))
    except StartError:
        return
    async with running(app) as client:
        headers = {b"Authorization": f"Bearer {token}".encode()}
        assert (await client.post("/heroes/", json=HERO, headers=headers)).status_code == 200


# The OpenAPI document


def guarded_operations(document: dict[str, dict[str, dict[str, object]]]) -> set[str]:
    return {
        f"{method} {path}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if isinstance(operation, dict) and operation.get("security")
    }


async def test_the_document_declares_the_scheme(guarded: httpx.AsyncClient) -> None:
    document = (await guarded.get("/openapi.json")).json()
    [scheme] = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


async def test_the_document_says_which_changes_need_the_token(guarded: httpx.AsyncClient) -> None:
    document = (await guarded.get("/openapi.json")).json()
    assert guarded_operations(document) == {
        "post /heroes/",
        "patch /heroes/{hero_id}",
        "delete /heroes/{hero_id}",
    }


async def test_the_document_says_which_reads_need_the_token(closed: httpx.AsyncClient) -> None:
    document = (await closed.get("/openapi.json")).json()
    assert {"get /heroes/", "get /heroes/{hero_id}"} <= guarded_operations(document)


async def test_the_document_declares_the_answer_to_a_missing_token(
    guarded: httpx.AsyncClient,
) -> None:
    document = (await guarded.get("/openapi.json")).json()
    assert "401" in document["paths"]["/heroes/"]["post"]["responses"]


async def test_the_document_declares_no_scheme_when_no_token_is_set(
    client: httpx.AsyncClient,
) -> None:
    document = (await client.get("/openapi.json")).json()
    assert "securitySchemes" not in document["components"]
    assert guarded_operations(document) == set()


# Other origins


@pytest.fixture
async def shared(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that pages of another origin may call."""
    app = create_app(settings_with(settings, cors_origins=[ORIGIN], token=TOKEN))
    async with running(app) as client:
        yield client


PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "PATCH",
    "Access-Control-Request-Headers": "authorization,content-type",
}


async def test_no_other_origin_is_let_in_by_default(client: httpx.AsyncClient) -> None:
    answers = [
        await client.get("/heroes/", headers={"Origin": ORIGIN}),
        await client.options("/heroes/1", headers=PREFLIGHT),
    ]
    for answer in answers:
        assert [name for name in answer.headers if name.startswith("access-control")] == []
    assert answers[1].status_code == 405


async def test_an_origin_that_is_set_may_read_and_see_the_headers_that_matter(
    shared: httpx.AsyncClient,
) -> None:
    answer = await shared.get("/heroes/", headers={"Origin": ORIGIN})
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    exposed = {name.strip() for name in answer.headers["Access-Control-Expose-Headers"].split(",")}
    assert exposed >= {
        "ETag",
        "Idempotent-Replayed",
        "Link",
        "Location",
        "X-Total-Count",
        "Retry-After",
        "X-Request-ID",
    }


async def test_an_origin_that_is_set_may_send_changes_and_the_token(
    shared: httpx.AsyncClient,
) -> None:
    answer = await shared.options("/heroes/1", headers=PREFLIGHT)
    assert answer.status_code == 200
    assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
    assert "authorization" in answer.headers["Access-Control-Allow-Headers"]


async def test_another_origin_is_not_let_in_when_one_is_set(shared: httpx.AsyncClient) -> None:
    answer = await shared.get("/heroes/", headers={"Origin": "https://villains.example"})
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_an_answer_of_401_is_readable_for_an_origin_that_is_set(
    shared: httpx.AsyncClient,
) -> None:
    answer = await shared.post("/heroes/", json=HERO, headers={"Origin": ORIGIN})
    assert_unauthorized(answer)
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN


async def test_credentials_of_a_browser_are_not_let_in(shared: httpx.AsyncClient) -> None:
    answer = await shared.options("/heroes/1", headers=PREFLIGHT)
    assert "Access-Control-Allow-Credentials" not in answer.headers


# What nobody foresaw

EVIL = "evil\r\n2026-01-01 CRITICAL: all is lost \x1b[2J\x1b]0;owned\x07 \u2028\u202e\x00\x9b"
EVIL_PATH = "/heroes/%0D%0A2026-01-01%20CRITICAL%1B%5B2J%C2%9B%E2%80%A8%FF%00"


@pytest.fixture
async def broken(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service with a fault that nobody foresaw: it raises what was sent to it."""

    async def fail(request: Request) -> None:
        body = (await request.body()).decode("utf-8", "replace")
        raise LookupError(f"{request.url.path} {request.headers} {body}")

    app.dependency_overrides[get_read_session] = fail
    app.dependency_overrides[get_write_session] = fail
    async with running(app, raise_app_exceptions=False) as client:
        yield client


async def test_a_fault_is_answered_500_in_json_without_a_traceback(
    broken: httpx.AsyncClient,
) -> None:
    answer = await broken.get("/heroes/1")
    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/json"
    assert [*answer.json()] == ["detail"]
    for word in ("Traceback", "LookupError", "File ", ".py"):
        assert word not in answer.text


async def test_a_fault_is_logged_once_with_the_request_id_that_the_answer_has(
    broken: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    request_id = (await broken.get("/heroes/1")).headers["X-Request-ID"]
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert request_id in record.getMessage()
    assert "LookupError" in record.getMessage()


async def test_each_fault_has_a_request_id_of_its_own(broken: httpx.AsyncClient) -> None:
    answers = [await broken.get("/heroes/1") for _ in range(10)]
    assert len({answer.headers["X-Request-ID"] for answer in answers}) == 10


def assert_harmless(text: str) -> None:
    """Assert that a terminal shows the text as it is, and that no line of it is a client's."""
    assert [line for line in text.splitlines() if line.startswith("2026")] == []
    assert {char for char in text if not char.isprintable() and char != "\n"} == set()


async def test_a_path_reaches_the_log_escaped(
    broken: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await broken.get(EVIL_PATH)).status_code == 500
    [record] = caplog.records
    assert_harmless(record.getMessage())


async def test_what_the_message_of_a_fault_repeats_reaches_the_log_escaped(
    broken: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await broken.post("/heroes/", content=EVIL.encode(), headers={"X-Evil": "\x1b[2J"})
    assert len(caplog.records) == 1
    assert_harmless(caplog.text)


async def test_a_fault_does_not_take_the_service_down(app: FastAPI) -> None:
    async with running(app, raise_app_exceptions=False) as client:
        app.dependency_overrides[get_read_session] = lambda: 1 / 0
        assert (await client.get("/heroes/1")).status_code == 500
        app.dependency_overrides.clear()
        assert (await client.post("/heroes/", json=HERO)).status_code == 200
        assert (await client.get("/heroes/1")).status_code == 200


async def test_what_is_refused_is_not_logged(
    guarded: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (EVIL_PATH, "/nothing", "/heroes/0"):
        await guarded.get(path)
    await guarded.post("/heroes/", json={"name": EVIL})
    await guarded.post("/heroes/", content=EVIL.encode(), headers=BEARER)
    assert caplog.records == []


# The server as it is run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("secure"), token=TOKEN) as server:
        yield server


def url(server: Server, path: str) -> str:
    return f"http://{server.host}:{server.port}{path}"


def test_the_service_listens_on_the_loopback_by_default() -> None:
    program = typer.main.get_command(hero_api.cli.app)
    assert isinstance(program, typer.core.TyperGroup)
    assert program.commands["serve"].make_context("serve", []).params["host"] == "127.0.0.1"


@pytest.mark.parametrize("path", ["/livez", "/heroes/", "/heroes/x", "/nothing"])
def test_no_answer_names_the_server_or_its_version(run: Server, path: str) -> None:
    answer = httpx.get(url(run, path))
    assert {"server", "x-powered-by"}.isdisjoint(answer.headers)
    assert "uvicorn" not in str(answer.headers).lower()


def test_the_token_guards_the_server_too(run: Server) -> None:
    heroes = url(run, "/heroes/")
    assert_unauthorized(httpx.post(heroes, json=HERO))
    assert httpx.post(heroes, json=HERO, headers=BEARER).status_code == 200


@pytest.mark.parametrize("value", [f"Bearer  {TOKEN}", f"bearer {TOKEN} ", f"Bearer {TOKEN}\t"])
def test_blanks_around_the_token_are_no_part_of_it(run: Server, value: str) -> None:
    lines = f"DELETE /heroes/0 HTTP/1.0\r\nAuthorization: {value}\r\n\r\n"
    with socket.create_connection((run.host, run.port)) as wire, wire.makefile("rb") as answer:
        wire.sendall(lines.encode())
        assert answer.readline().split()[1] != b"401"


def test_the_token_is_not_logged(run: Server) -> None:
    httpx.post(url(run, "/heroes/"), json=HERO, headers={"Authorization": f"Basic {TOKEN}"})
    assert TOKEN not in run.log.read_text()


def test_settings_are_frozen_so_that_the_token_cannot_be_taken_away(settings: Settings) -> None:
    with pytest.raises(ValidationError):
        settings_with(settings, token=TOKEN).token = None
