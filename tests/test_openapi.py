import json
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any
from unittest.mock import Mock

import httpx
import hypothesis
import jsonschema_rs  # schemathesis brings it
import pytest
import schemathesis
from pydantic import SecretStr
from schemathesis import Case
from schemathesis.checks import negative_data_rejection
from schemathesis.config import SchemathesisConfig

from hero_api.answers import HEADERS
from hero_api.app import create_app
from hero_api.errors import DamagedRowError, NoRoomError, OverloadedError, ServiceError
from hero_api.heroes import heroes
from hero_api.settings import Settings
from hero_api.testing import running
from hero_api.web.access_log import AccessLogMiddleware

DOCUMENT = create_app(Settings(database_url="sqlite:///never-opened.db")).openapi()


@schemathesis.serializer("application/jsonl")
def _lines(_context: object, body: object) -> bytes:
    heroes = body if isinstance(body, list) else [body]
    # Of an id that is taken, all lines would be refused.
    free = ({**hero, "id": None} if isinstance(hero, dict) else hero for hero in heroes)
    return b"".join(json.dumps(hero).encode() + b"\n" for hero in free)


schema = schemathesis.openapi.from_dict(DOCUMENT, config=SchemathesisConfig(seed=1))


# Pydantic takes some values of another type, such as "30" for 30: that is no undeclared answer.
@schema.parametrize()
@hypothesis.settings(max_examples=40, derandomize=True, database=None, deadline=None)
def test_no_answer_is_a_server_error_or_undeclared(case: Case[Any], server: httpx.URL) -> None:
    # What is known under a key, or of a hero, no document can tell.
    for name in ("Idempotency-Key", "If-Match"):
        case.headers.pop(name, None)
    case.call_and_validate(base_url=str(server), excluded_checks=[negative_data_rejection])


def test_the_document_has_every_path_of_the_service() -> None:
    operations = {path: set(methods) for path, methods in DOCUMENT["paths"].items()}
    assert operations == {
        "/heroes/": {"get", "post"},
        "/heroes/{hero_id}": {"get", "patch", "delete"},
        "/livez": {"get"},
        "/readyz": {"get"},
        "/metrics": {"get"},
    }


def operations() -> Iterator[dict[str, Any]]:
    for methods in DOCUMENT["paths"].values():
        yield from methods.values()


def schemas(node: object = DOCUMENT) -> Iterator[dict[str, Any]]:
    """Yield every part of the document that could be a schema."""
    if isinstance(node, dict):
        yield node
        node = [*node.values()]
    if isinstance(node, list):
        for each in node:
            yield from schemas(each)


def test_an_operation_is_named_as_its_handler_and_only_once() -> None:
    assert [operation["operationId"] for operation in operations()] == [
        "read_hero",
        "update_hero",
        "delete_hero",
        "read_heroes",
        "create_hero",
        "read_livez",
        "read_readyz",
        "read_metrics",
    ]


def test_every_integer_has_64_bits() -> None:
    # Generators for Go and Java take an integer without a format for one of 32 bits.
    integers = [schema for schema in schemas() if schema.get("type") == "integer"]
    assert len(integers) > 10
    assert {schema.get("format") for schema in integers} == {"int64"}


def test_every_dialect_of_regular_expressions_takes_the_patterns() -> None:
    patterns = {schema["pattern"] for schema in schemas() if "pattern" in schema}
    assert patterns
    for pattern in patterns:
        assert re.fullmatch(pattern, "Zoë 🦸")
        assert not re.fullmatch(pattern, "a\0")
        # What JavaScript and Python write as \u or \p, PCRE does not know.
        assert not re.search(r"\\[a-wyzA-Z]", pattern)
        searched = subprocess.run(["grep", "-P", pattern], input=b"name\n", check=False)
        assert searched.returncode == 0


def test_the_document_has_the_version_of_the_package_and_says_where_the_service_is() -> None:
    assert DOCUMENT["info"]["version"] == version("hero-api")
    assert DOCUMENT["servers"] == [{"url": "/"}]


def test_the_metrics_are_text() -> None:
    answers = DOCUMENT["paths"]["/metrics"]["get"]["responses"]
    assert [*answers["200"]["content"]] == ["text/plain"]


def test_each_answer_has_an_example_that_fits_its_schema() -> None:
    for operation in operations():
        for answer in operation["responses"].values():
            for content in answer.get("content", {}).values():  # a 304 has none
                schema = content["schema"] | {"components": DOCUMENT["components"]}
                jsonschema_rs.validate(schema, content["example"])


async def test_whatever_is_refused_has_what_its_schema_says_and_no_more(
    client: httpx.AsyncClient,
) -> None:
    # A client may be as strict: those that are generated in Go are.
    schemas = DOCUMENT["components"]["schemas"]
    strict = {name: each | {"additionalProperties": False} for name, each in schemas.items()}
    key, lines = {"Idempotency-Key": "a"}, {"Content-Type": "application/jsonl"}
    hero: dict[str, object] = {"name": "Deadpond", "secret_name": "?"}
    await client.post("/heroes/", json=hero, headers=key)
    answers = [
        await client.post("/heroes/", json=hero | {"age": 1}, headers=key),
        await client.post("/heroes/", json=hero | {"age": -1}),
        await client.post("/heroes/", content=json.dumps(hero | {"id": 1}), headers=lines),
        await client.post("/heroes/", json=hero, headers={"Idempotency-Key": ""}),
        await client.post("/heroes/", json=hero | {"id": 1}),
    ]
    assert [answer.status_code for answer in answers] == [422, 422, 422, 400, 409]
    for answer in answers:
        declared = DOCUMENT["paths"]["/heroes/"]["post"]["responses"][str(answer.status_code)]
        schema = declared["content"]["application/json"]["schema"]
        jsonschema_rs.validate(schema | {"components": {"schemas": strict}}, answer.json())


HERO = {"name": "Deadpond", "secret_name": "?"}
TOKEN = "correct horse battery staple"
KEYED = {"Idempotency-Key": "a"}
LINES = {"Accept": "application/jsonl"}
HEROES, ONE = "/heroes/", "/heroes/{hero_id}"
# One after the other, each with its status.
BATTERY: list[tuple[int, str, str, dict[str, Any]]] = [
    (200, "post", HEROES, {"json": HERO, "headers": KEYED}),
    (200, "post", HEROES, {"json": HERO, "headers": KEYED}),
    (200, "post", HEROES, {"json": HERO | {"id": 2}}),
    (422, "post", HEROES, {"json": HERO | {"age": 1}, "headers": KEYED}),
    (400, "post", HEROES, {"json": HERO, "headers": {"Idempotency-Key": ""}}),
    (409, "post", HEROES, {"json": HERO | {"id": 1}}),
    (413, "post", HEROES, {"content": b"?" * 300_000}),
    (415, "post", HEROES, {"content": b"?", "headers": {"Content-Encoding": "br"}}),
    (200, "get", HEROES, {"params": {"limit": 1, "count": True}}),
    (200, "get", HEROES, {"params": {"count": True}, "headers": LINES}),
    (422, "get", HEROES, {"params": {"limt": 1}}),
    (401, "get", HEROES, {"headers": {"Authorization": ""}}),
    (200, "get", ONE, {}),
    (304, "get", ONE, {"headers": {"If-None-Match": "*"}}),
    (412, "patch", ONE, {"json": {}, "headers": {"If-Match": ""}}),
    (200, "patch", ONE, {"json": {}}),
    (200, "delete", ONE, {}),
    (404, "get", ONE, {}),
    (410, "post", HEROES, {"json": HERO, "headers": KEYED}),
    (200, "get", "/livez", {}),
    (200, "get", "/readyz", {}),
    (200, "get", "/metrics", {}),
]
FAULTS: list[ServiceError] = [OverloadedError(), NoRoomError(), DamagedRowError()]
PLAIN = {"content-length", "content-type"}  # what a server adds is not there


async def test_each_header_of_an_answer_is_in_the_document(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = {"token": SecretStr(TOKEN), "guard": "all"}
    app = create_app(settings.model_copy(update=guarded))
    app.add_middleware(AccessLogMiddleware)
    document = app.openapi()
    seen = set()
    async with running(app) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"

        async def check(status: int, method: str, path: str, options: Any) -> None:  # noqa: ANN401
            answer = await client.request(method, path.format(hero_id=1), **options)
            assert answer.status_code == status, answer.text
            declared = document["paths"][path][method]["responses"][str(status)]["headers"]
            carried = answer.headers.keys() - PLAIN
            assert carried <= {name.lower() for name in declared}
            seen.update(carried)

        for each in BATTERY:
            await check(*each)
        for fault in FAULTS:
            monkeypatch.setattr(heroes, "get", Mock(side_effect=fault))
            await check(fault.status, "get", ONE, {})
    assert seen == {name.lower() for name in HEADERS}


def test_headers_that_hold_a_number_are_integers() -> None:
    headers = {
        name: header["schema"]["type"]
        for operation in operations()
        for answer in operation["responses"].values()
        for name, header in answer["headers"].items()
    }
    numbers = {name for name, kind in headers.items() if kind == "integer"}
    assert numbers == {"X-Total-Count", "Retry-After"}


def test_the_document_has_the_headers_that_handlers_heed() -> None:
    headers = {
        (method, parameter["name"])
        for methods in DOCUMENT["paths"].values()
        for method, operation in methods.items()
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "header"
    }
    assert headers == {
        ("get", "If-None-Match"),
        ("patch", "If-Match"),
        ("delete", "If-Match"),
        ("post", "Idempotency-Key"),
    }


async def test_the_service_serves_its_document(client: httpx.AsyncClient) -> None:
    assert (await client.get("/openapi.json")).json() == DOCUMENT
