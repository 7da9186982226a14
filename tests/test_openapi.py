import json
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import httpx
import hypothesis
import jsonschema_rs  # schemathesis brings it
import schemathesis
from schemathesis import Case
from schemathesis.checks import negative_data_rejection
from schemathesis.config import SchemathesisConfig

from hero_api.app import create_app
from hero_api.settings import Settings

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


def test_the_headers_of_answers_are_in_the_document() -> None:
    described = {
        header
        for operation in operations()
        for header in operation["responses"]["200"].get("headers", {})
    }
    assert described == {"ETag", "Idempotent-Replayed", "Location", "Link", "X-Total-Count"}


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
