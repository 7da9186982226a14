from typing import Any

import httpx
import hypothesis
import schemathesis
from schemathesis import Case
from schemathesis.checks import negative_data_rejection
from schemathesis.config import SchemathesisConfig

from hero_api.app import create_app
from hero_api.settings import Settings

DOCUMENT = create_app(Settings(database_url="sqlite:///never-opened.db")).openapi()

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
