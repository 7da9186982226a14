"""JSON Lines over HTTP: bodies that are read, and answers that are sent, a part at a time."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from hero_api.lines import MEDIA_TYPE, read_line
from hero_api.web.head import ASKED_METHOD

_MEDIA_TYPE = MEDIA_TYPE.encode()
_JSON = b"application/json", b"application/*", b"*/*"  # what fits best comes first
_WEIGHT = re.compile(rb";\s*q=([01](?:\.\d{0,3})?)\s*(?:;|$)")

Model = TypeVar("Model", bound=BaseModel)


class JSONLinesRoute(APIRoute):
    """A route for the requests that send JSON Lines, or that ask for them; others pass it by.

    Its document is that of the route behind it, which has the same path and method.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401
        super().__init__(path, endpoint, **{**options, "include_in_schema": False})
        self.methods: set[str] = self.methods or set()
        self._header = b"accept" if "GET" in self.methods else b"content-type"

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Say whether a request is for this route."""
        # Every other request comes by here too.
        if scope.get("method") in self.methods:
            values = [value for name, value in scope["headers"] if name == self._header]
            if values and _prefers_lines(b",".join(values).lower()):
                return super().matches(scope)
        return Match.NONE, {}


def lines_of(model: str, *examples: object) -> dict[str, Any]:
    """Return what the OpenAPI document says of a model a line; for OpenAPI 3.2 it is an array."""
    schema = {"type": "array", "items": {"$ref": f"#/components/schemas/{model}"}}
    return {MEDIA_TYPE: {"schema": schema} | ({"example": [*examples]} if examples else {})}


class StreamedLines(StreamingResponse):
    """Lines of which the next are made when the client has taken the last.

    What goes wrong with the rest ends the connection.
    """

    media_type = MEDIA_TYPE

    def __init__(self, first: str, rest: AsyncIterator[str], headers: Mapping[str, str]) -> None:
        super().__init__(rest, headers=headers)
        self._first, self._rest = first, rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        self.body_iterator = self._parts(Request(scope, receive))
        # Not by Starlette's own way, which cancels a task when the client has left: anyio keeps
        # the frames of that, with a page in them, until the garbage collector comes by.
        await self.stream_response(send)

    async def _parts(self, request: Request) -> AsyncIterator[str]:
        # None for HEAD, since the server would drop them one by one.
        part = None if request.scope.get(ASKED_METHOD) == "HEAD" else self._first
        while part is not None:
            yield part
            if await request.is_disconnected():
                return
            part = await anext(self._rest, None)


async def read_body(request: Request, model: type[Model], most: int) -> dict[int, Model]:
    """Return what the lines of a body hold, by their numbers.

    Raises `RequestValidationError` for lines that hold something else, and a 413 for too many.
    """
    objects: dict[int, Model] = {}
    problems: list[dict[str, Any]] = []
    number = taken = 0
    async for line in _lines(request):
        number += 1
        read = read_line(model, line)
        taken += read is not None
        if isinstance(read, ValidationError):
            problems += [
                {**problem, "loc": ("body", number, *problem["loc"])}
                for problem in read.errors(include_url=False)
            ]
        elif read is not None:
            objects[number] = read
        if taken > most:
            raise HTTPException(413, f"The body has more than {most:,} lines")
    if problems:
        raise RequestValidationError(problems)
    return objects


async def _lines(request: Request) -> AsyncIterator[bytes]:
    """Yield the lines of a body as they come, so that other requests are served between them."""
    rest = bytearray()
    async for chunk in request.stream():
        rest += chunk
        if b"\n" in chunk:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                yield bytes(line)
    yield bytes(rest)


def _prefers_lines(value: bytes) -> bool:
    """Say whether a header names JSON Lines, and JSON less: see RFC 9110, section 12.5.1."""
    if _MEDIA_TYPE not in value:
        return False
    weights: dict[bytes, float] = {}
    for part in value.split(b","):
        weight = _WEIGHT.search(part)
        weights[part.partition(b";")[0].strip()] = float(weight[1]) if weight else 1.0
    lines = weights.get(_MEDIA_TYPE, 0.0)
    json = next((weights[name] for name in _JSON if name in weights), 0.0)
    # Of equals, JSON is the one that others expect, unless lines alone are named.
    return lines > json or (lines == json > 0 and _JSON[0] not in weights)
