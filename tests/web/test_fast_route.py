"""A fast route answers what FastAPI's general handler would."""

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
import pytest_asyncio
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Path,
    Query,
    Response,
)
from fastapi import Request as Asked
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from pydantic import AliasChoices, AliasPath, BaseModel, Field

from hero_api.app import create_app
from hero_api.dependencies import ReadSession
from hero_api.errors import NotFoundError
from hero_api.heroes import heroes
from hero_api.models import HeroCreate
from hero_api.settings import Settings
from hero_api.testing import running
from hero_api.web.fast_route import FastRoute, FastRoutesMiddleware
from tests.test_bad_input import BAD, Request

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


@pytest.mark.parametrize("request_", [TABLE["a create"], TABLE["a delete"]])
async def test_a_fast_route_asks_for_the_token_as_fastapi_would(
    settings: Settings, request_: Request
) -> None:
    app = create_app(settings.model_copy(update={"token": Settings(token=TOKEN).token}))
    async with running(app) as client:
        fast = await ask(client, request_)
        app.dependency_overrides[create_app] = create_app
        assert await ask(client, request_) == fast
    assert fast[0] == 401


def test_the_routes_of_the_heroes_are_fast() -> None:
    routes = create_app(Settings(token=TOKEN)).routes
    assert [route.is_fast for route in routes if isinstance(route, FastRoute)] == [True] * 5


# Routes that a project adds


async def count_calls(request: Asked) -> int:
    request.app.state.calls = getattr(request.app.state, "calls", 0) + 1
    return int(request.app.state.calls)


async def with_parameter(a: str = "q") -> str:
    return a


def plain() -> str:
    return "plain"


def plain_of_request(request: Asked) -> str:
    return request.url.path


async def of_another(called: Annotated[int, Depends(count_calls)]) -> int:
    return called


async def of_response(response: Response) -> str:
    response.headers["X-Set"] = "by a dependency"
    return "set"


async def yielding(request: Asked) -> AsyncIterator[str]:
    yield "open"
    request.app.state.is_closed = True


def yielding_plainly(request: Asked) -> Iterator[str]:
    yield "open"
    request.app.state.is_closed = True


class VendorJSON(JSONResponse):
    media_type = "application/vnd.hero+json"


class Pager:
    def __init__(self, size: int = 10) -> None:
        self.size = size

    def __str__(self) -> str:
        return str(self.size)


class Sum(BaseModel):
    a: int
    b: int = 2


class Tags(BaseModel):
    tag: list[str] = []


class Open(BaseModel, extra="allow"):
    a: int = 1


class Aliased(BaseModel):
    a: int = Field(default=1, alias="A")


class Named(BaseModel, extra="forbid", validate_by_name=True):
    given: int = Field(default=1, validation_alias=AliasChoices("A", "size"))
    first: str = Field(default="", validation_alias=AliasPath("tag", 0))


def answers(annotation: Any) -> Callable[..., Any]:  # noqa: ANN401 - any parameter
    """Return a handler that answers what it is given for a parameter."""

    async def handler(given: Any) -> Response:  # noqa: ANN401
        return PlainTextResponse(f"{type(given).__name__} {given}")

    handler.__annotations__["given"] = annotation
    return handler


async def of_nothing() -> Response:
    return PlainTextResponse("nothing")


async def of_request(request: Asked) -> Response:
    return PlainTextResponse(request.method)


async def of_cookie(given: Annotated[str | None, Cookie()] = None) -> Response:
    return PlainTextResponse(f"{given}")


async def of_two_models(one: Sum, other: Sum) -> Response:
    return PlainTextResponse(f"{one} {other}")


async def same_twice(
    one: Annotated[int, Depends(count_calls)], other: Annotated[int, Depends(count_calls)]
) -> Response:
    return PlainTextResponse(f"{one} {other}")


async def background(tasks: BackgroundTasks, request: Asked) -> Response:
    tasks.add_task(setattr, request.app.state, "is_done", True)  # noqa: FBT003
    return PlainTextResponse("later")


async def a_dict() -> dict[str, int]:
    return {"a": 1}


async def a_model() -> Sum:
    return Sum(a=1)


async def unannotated():  # type: ignore[no-untyped-def]  # noqa: ANN201
    return {"a": 1}


async def lines() -> AsyncIterator[Sum]:
    yield Sum(a=1)


def in_a_thread() -> Response:
    return PlainTextResponse(threading.current_thread().name.split()[0])


async def fails() -> Response:
    raise HTTPException(418, "A teapot")


Handler = Callable[..., Any]
SIMPLE: dict[str, tuple[Handler, str]] = {
    "nothing": (of_nothing, "/added"),
    "a path parameter": (answers(Annotated[int, Path(le=9)]), "/added/{given}"),
    "a path parameter of a union": (answers(int | str), "/added/{given}"),
    "a model as the query": (answers(Annotated[Sum, Query()]), "/added"),
    "a model of anything as the query": (answers(Annotated[Open, Query()]), "/added"),
    "a model with an alias as the query": (answers(Annotated[Aliased, Query()]), "/added"),
    "a path parameter of another name": (answers(Annotated[int, Path(alias="id")]), "/added/{id}"),
    "a model with several names as the query": (answers(Annotated[Named, Query()]), "/added"),
    "a model as the body": (answers(Sum), "/added"),
    "an async dependency": (answers(Annotated[int, Depends(count_calls)]), "/added"),
    "an error of HTTP": (fails, "/added"),
}
OTHERS: dict[str, tuple[Handler, str]] = {
    "a dependency that has a parameter": (
        answers(Annotated[str, Depends(with_parameter)]),
        "/added",
    ),
    "a plain dependency": (answers(Annotated[str, Depends(plain)]), "/added"),
    "a plain dependency of the request": (
        answers(Annotated[str, Depends(plain_of_request)]),
        "/added",
    ),
    "a dependency of another": (answers(Annotated[int, Depends(of_another)]), "/added"),
    "a dependency that sets a header": (answers(Annotated[str, Depends(of_response)]), "/added"),
    "a dependency that yields": (answers(Annotated[str, Depends(yielding)]), "/added"),
    "a plain dependency that yields": (
        answers(Annotated[str, Depends(yielding_plainly)]),
        "/added",
    ),
    "a class as a dependency": (answers(Annotated[Pager, Depends()]), "/added"),
    "a dependency that is not kept": (
        answers(Annotated[int, Depends(count_calls, use_cache=False)]),
        "/added",
    ),
    "a dependency of two parameters": (same_twice, "/added"),
    "the request": (of_request, "/added"),
    "background tasks": (background, "/added"),
    "a scalar in the query": (answers(int), "/added"),
    "a list in the query": (answers(Annotated[list[int], Query()]), "/added"),
    "a model with a list as the query": (answers(Annotated[Tags, Query()]), "/added"),
    "a header": (answers(Annotated[str, Header(alias="host")]), "/added"),
    "a cookie": (of_cookie, "/added"),
    "an optional body": (answers(Sum | None), "/added"),
    "a list as the body": (answers(list[Sum]), "/added"),
    "an embedded body": (answers(Annotated[Sum, Body(embed=True)]), "/added"),
    "a scalar as the body": (answers(Annotated[int, Body()]), "/added"),
    "two bodies": (of_two_models, "/added"),
    "a dict returned": (a_dict, "/added"),
    "a model returned": (a_model, "/added"),
    "nothing said of what is returned": (unannotated, "/added"),
    "a stream of JSON lines": (lines, "/added"),
    "a plain handler": (in_a_thread, "/added"),
}
ASKED: list[Request] = [
    ("", "/added", None, None),
    ("", "/added?given=3&a=5&tag=x&tag=y&A=7&size=3&b=1&b=8&c=1&c=2", None, None),
    ("", "/added?given=x&a=x&given=4", None, None),
    ("", "/added/3", None, None),
    ("", "/added/10", None, None),
    ("", "/added", b'{"a": 3}', JSON),
    ("", "/added", b'{"a": 3, "b": "x"}', JSON),
    ("", "/added", b'{"given": {"a": 3}, "one": {"a": 1}, "other": {"a": 2}}', JSON),
    ("", "/added", b'[{"a": 3}]', JSON),
    ("", "/added", b"3", JSON),
    ("", "/added", b"null", JSON),
    ("", "/added", b"{", JSON),
    ("", "/added", b"a=3", "application/x-www-form-urlencoded"),
]


async def asked_of(
    route_class: type[APIRoute],
    method: str,
    handler: Handler,
    path: str,
    **options: Any,  # noqa: ANN401
) -> tuple[list[Any], dict[str, Any]]:
    """Return all answers of a route of this class, and what its handler has left behind."""
    app = FastAPI()
    app.add_middleware(FastRoutesMiddleware)
    app.router.add_api_route(
        path, handler, methods=[method], route_class_override=route_class, **options
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://hero-api") as client:
        got = [await ask(client, (method, *request[1:])) for request in ASKED]
    return got, app.state._state  # noqa: SLF001


def is_fast(handler: Handler, path: str, **options: Any) -> bool:  # noqa: ANN401
    return FastRoute(path, handler, **options).is_fast


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PURGE"])
@pytest.mark.parametrize("added", (SIMPLE | OTHERS).values(), ids=(SIMPLE | OTHERS).keys())
async def test_any_handler_is_served_as_fastapi_serves_it(
    added: tuple[Handler, str], method: str
) -> None:
    expected = await asked_of(APIRoute, method, *added)
    assert await asked_of(FastRoute, method, *added) == expected
    assert 200 in {status for status, _, _ in expected[0]} or added[0] is fails


@pytest.mark.parametrize("added", SIMPLE.values(), ids=SIMPLE.keys())
def test_a_simple_handler_is_fast(added: tuple[Handler, str]) -> None:
    assert is_fast(*added)


@pytest.mark.parametrize("added", OTHERS.values(), ids=OTHERS.keys())
def test_another_handler_is_left_to_fastapi_before_the_first_request(
    added: tuple[Handler, str],
) -> None:
    assert not is_fast(*added)


@pytest.mark.parametrize(
    "dependency",
    [with_parameter, plain, plain_of_request, of_another, of_response, yielding, yielding_plainly],
)
async def test_any_dependency_of_the_route_is_solved_as_fastapi_does(dependency: Handler) -> None:
    added = (of_nothing, "/added")
    dependencies = [Depends(dependency)]
    assert not is_fast(*added, dependencies=dependencies)
    expected = await asked_of(APIRoute, "GET", *added, dependencies=dependencies)
    assert await asked_of(FastRoute, "GET", *added, dependencies=dependencies) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"status_code": 201},
        {"response_class": VendorJSON},
        {"response_model": Sum, "response_model_exclude": {"b"}},
        {"dependencies": [Depends(count_calls)]},
        {"max_body_size": 3},
    ],
    ids=["status_code", "response_class", "response_model", "dependencies", "max_body_size"],
)
@pytest.mark.parametrize("handler", [a_model, answers(Sum)], ids=["returns a model", "a response"])
async def test_any_option_of_a_route_works_as_with_fastapi(
    handler: Handler, options: dict[str, Any]
) -> None:
    expected = await asked_of(APIRoute, "POST", handler, "/added", **options)
    assert await asked_of(FastRoute, "POST", handler, "/added", **options) == expected


async def test_a_path_parameter_that_the_path_has_not_is_missing_as_with_fastapi() -> None:
    added = answers(Annotated[int | None, Path()]), "/added"
    assert await asked_of(FastRoute, "GET", *added) == await asked_of(APIRoute, "GET", *added)


async def test_a_dependency_is_called_once_for_a_request_that_is_refused() -> None:
    handler = answers(Sum)
    calls = [Depends(count_calls)]
    _, state = await asked_of(FastRoute, "POST", handler, "/added", dependencies=calls)
    assert is_fast(handler, "/added", dependencies=calls)
    _, expected = await asked_of(APIRoute, "POST", handler, "/added", dependencies=calls)
    assert state == expected


@pytest.mark.parametrize("router", [APIRouter(), FastAPI().router], ids=["own", "of another app"])
async def test_an_included_route_keeps_the_dependencies_of_its_router(router: APIRouter) -> None:
    async def refuse() -> None:
        raise HTTPException(403)

    router.add_api_route("/added", of_nothing, route_class_override=FastRoute)
    app = FastAPI()
    app.add_middleware(FastRoutesMiddleware)
    app.include_router(router, dependencies=[Depends(refuse)])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://hero-api") as client:
        assert (await client.get("/added")).status_code == 403


async def test_a_handler_of_another_kind_works_beside_the_heroes(app: FastAPI) -> None:
    @asynccontextmanager
    async def opened(session: ReadSession) -> AsyncIterator[str]:
        yield await heroes.get(session, 1)

    async def first(session: ReadSession) -> AsyncIterator[str]:
        async with opened(session) as hero:
            yield hero

    async def put(hero: HeroCreate, first: Annotated[str, Depends(first)]) -> dict[str, str]:
        return {"first": json.loads(first)["name"], "put": hero.name}

    app.router.add_api_route("/put", put, methods=["PUT"], route_class_override=FastRoute)
    async with running(app) as client:
        await ask(client, HERO_1)
        assert (await client.put("/put", content=GOOD, headers={"Content-Type": JSON})).json() == {
            "first": "Hero 1",
            "put": "Deadpond",
        }


async def test_an_exception_handler_of_the_application_is_asked(app: FastAPI) -> None:
    async def gone(_request: Asked, _error: Exception) -> Response:
        return Response(status_code=410)

    app.add_exception_handler(NotFoundError, gone)
    async with running(app) as client:
        assert (await client.get("/heroes/1")).status_code == 410
