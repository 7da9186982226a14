"""Routes that serve a good request directly, past FastAPI's general way to a handler.

That way, its dependency solver and what it opens around each request, takes a third of a request's
time. A direct route reads its arguments itself, and leaves whatever is out of the ordinary (an
argument that does not validate, an overridden dependency, another content type) to FastAPI, whose
answer it then is: FastAPI remains the one place that says what is refused, and how.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

from fastapi import Request, Response, params
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.types import Message, Receive, Scope, Send

from hero_api.errors import ServiceError
from hero_api.exception_handlers import error_response

_Reader = Callable[[Request], Awaitable[Any]]


class FastRoute(APIRoute):
    """A route whose handler takes path parameters, a query, a body, dependencies on a request."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401
        super().__init__(path, endpoint, **options)
        hints = get_type_hints(endpoint, include_extras=True)
        self._readers = {
            name: _reader(name, hint) for name, hint in hints.items() if name != "return"
        }
        self._checks = [cast("_Reader", depends.dependency) for depends in self.dependencies]

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, directly where it can be."""
        received: list[Message] = []

        async def receive_and_keep() -> Message:
            message = await receive()
            received.append(message)
            return message

        request = Request(scope, receive_and_keep, send)
        try:
            response = await self._respond(request)
        except ServiceError as error:
            response = error_response(request, error)
        if response is None:
            await super().handle(scope, _again(received, receive), send)
        else:
            await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response | None:
        """Return the handler's response; None to a request that FastAPI is to judge."""
        if request.method not in (self.methods or ()):
            return None
        for check in self._checks:
            await check(request)
        if request.app.dependency_overrides:
            return None
        try:
            arguments = {name: await read(request) for name, read in self._readers.items()}
        except (ValidationError, _NotOrdinaryError):
            return None
        response: Response = await self.endpoint(**arguments)
        return response


class _NotOrdinaryError(Exception):
    """The request is one that FastAPI is to judge."""


def _again(received: Sequence[Message], receive: Receive) -> Receive:
    """Return what receives again what was received already, and then goes on."""
    messages = iter(received)

    async def receive_again() -> Message:
        return next(messages, None) or await receive()

    return receive_again


def _reader(name: str, hint: Any) -> _Reader:  # noqa: ANN401 - a type hint can be anything
    """Return the function that reads the parameter `name`, as FastAPI would, from a request."""
    kind = get_args(hint)[1] if get_origin(hint) is Annotated else None
    if isinstance(kind, params.Depends) and kind.dependency is not None:
        dependency: _Reader = kind.dependency
        return dependency
    adapter: TypeAdapter[Any] = TypeAdapter(hint)
    if isinstance(kind, params.Path):

        async def read_path(request: Request) -> object:
            return adapter.validate_python(request.path_params[name])

        return read_path
    if isinstance(kind, params.Query):

        async def read_query(request: Request) -> object:
            return adapter.validate_python(dict(request.query_params))

        return read_query

    async def read_body(request: Request) -> object:
        if request.headers.get("content-type") != "application/json":
            raise _NotOrdinaryError
        return adapter.validate_json(await request.body())

    return read_body
