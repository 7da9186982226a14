"""A query parameter that nothing declares is a 422 which names it, on every route."""

from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Query, Request, WebSocket
from fastapi.security import APIKeyQuery
from pydantic import AliasChoices, BaseModel, Field

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running


class Filters(BaseModel):
    title: str = ""
    minimum: int = Field(default=0, alias="min")
    other: str = Field(default="", validation_alias=AliasChoices("one", "two"))


class Open(BaseModel, extra="allow"):
    title: str = ""


async def tenant(tenant: str = "") -> str:
    return tenant


async def region(region: str = "") -> str:
    return region


async def of_tenant(_: Annotated[str, Depends(tenant)]) -> str:
    return "nested"


async def plain(q: str = "") -> str:
    return q


async def listed(tags: Annotated[list[str], Query(alias="tag[]")] = []) -> list[str]:  # noqa: B006
    return tags


async def model(page: Annotated[Filters, Query()]) -> Filters:
    return page


async def anything(page: Annotated[Open, Query()]) -> Open:
    return page


async def whole(request: Request) -> str:
    return str(request.query_params)


async def nested(of: Annotated[str, Depends(of_tenant)]) -> str:
    return of


async def guarded(
    key: Annotated[str | None, Depends(APIKeyQuery(name="api_key", auto_error=False))],
) -> str | None:
    return key


async def echo(socket: WebSocket, q: str = "") -> None:
    await socket.accept()
    await socket.send_text(q)
    await socket.close()


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    app = create_app(settings)
    for handler in (plain, listed, model, anything, whole, nested, guarded):
        app.get(f"/{handler.__name__}")(handler)
    router = APIRouter(dependencies=[Depends(region)])
    router.get("/things")(plain)
    app.include_router(router, prefix="/included", dependencies=[Depends(tenant)])
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app) as client:
        yield client


pytestmark = pytest.mark.sqlite


@pytest.mark.parametrize(
    "target",
    [
        "/heroes/?limt=1",
        "/heroes/?page=2&size=1",
        "/heroes/?limit[]=2",
        "/heroes/?LIMIT=2",
        "/heroes/1?limit=1",
        "/livez?limt=1",
        "/plain?limt=1",
        "/model?minimum=1",
        "/model?other=1",
        "/nested?region=1",
        "/guarded?key=1",
        "/included/things?limt=1",
    ],
)
async def test_a_parameter_that_is_not_there_is_refused_by_name(
    client: httpx.AsyncClient, target: str
) -> None:
    answer = await client.get(target)
    names = [*httpx.URL(target).params]
    assert answer.status_code == 422
    assert [each["loc"] for each in answer.json()["detail"]] == [["query", name] for name in names]


@pytest.mark.parametrize(
    "target",
    [
        "/plain?q=1",
        "/listed?tag[]=1&tag[]=2",
        "/model?title=1&min=1&one=1&two=1",
        "/anything?limt=1",
        "/whole?limt=1",
        "/nested?tenant=1",
        "/guarded?api_key=1",
        "/included/things?q=1&tenant=1&region=1",
        "/heroes/?",
        "/heroes/?limit=1&",
        "/readyz?verbose",
        "/docs?limt=1",
    ],
)
async def test_what_anything_in_the_dependency_tree_declares_is_known(
    client: httpx.AsyncClient, target: str
) -> None:
    assert (await client.get(target)).status_code == 200


async def test_the_refusal_names_the_parameters_that_there_are(client: httpx.AsyncClient) -> None:
    [problem] = (await client.get("/heroes/?limt=1")).json()["detail"]
    for known in ("offset", "limit", "after", "count", "name", "age", "min_age", "max_age"):
        assert known in problem["msg"]


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
async def test_a_change_with_such_a_parameter_is_refused_and_not_done(
    client: httpx.AsyncClient, method: str
) -> None:
    hero = {"name": "Deadpond", "secret_name": "Dive Wilson"}
    created = (await client.post("/heroes/", json=hero)).json()
    path = "/heroes/" if method == "POST" else "/heroes/1"
    answer = await client.request(method, f"{path}?dry_run=1", json=hero | {"name": "New"})
    assert answer.status_code == 422
    assert (await client.get("/heroes/")).json() == [created]


async def test_an_override_declares_parameters_of_its_own(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    assert (await client.get("/nested?region=1")).status_code == 422
    app.dependency_overrides[tenant] = region
    assert (await client.get("/nested?region=1")).status_code == 200
    assert (await client.get("/nested?tenant=1")).status_code == 422
    app.dependency_overrides.clear()
    assert (await client.get("/nested?region=1")).status_code == 422
