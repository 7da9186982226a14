"""What the OpenAPI document says of answers, with an example of each, and of headers."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from hero_api.dependencies import MAX_KEY
from hero_api.errors import (
    ContentCodingError,
    DeletedSinceError,
    NoRoomError,
    NotFoundError,
    OverloadedError,
    ServiceError,
    StaleError,
    TakenError,
    UnauthorizedError,
)
from hero_api.models import Invalid, Problem
from hero_api.web.json_lines import lines_of
from hero_api.web.openapi import schema_of

Answers = dict[int | str, dict[str, Any]]


# What answers may carry besides the headers that HTTP itself needs.
HEADERS = {
    "Accept-Encoding": "`identity`: a body is taken as it is, not compressed",
    "ETag": "A hash of the hero, for `If-None-Match` and `If-Match`",
    "Idempotent-Replayed": "`true` where this `Idempotency-Key` was answered before",
    "Link": "The next page, where there is one: its URL, and `rel=next`",
    "Location": "Where the hero is",
    "Retry-After": "After how many seconds to try again",
    "Vary": "`Accept`, which decides the form of this answer",
    "WWW-Authenticate": "`Bearer`, which is how to send the token",
    "X-Request-ID": "What the log calls the request: on every 500, and on all with an access log",
    "X-Total-Count": "How many heroes the filters match, where `count` is true",
}


_NUMBERS = {"Retry-After", "X-Total-Count"}


def _described(*names: str) -> dict[str, Any]:
    return {
        name: {
            "description": HEADERS[name],
            "schema": {"type": "integer" if name in _NUMBERS else "string"},
        }
        for name in (*names, "X-Request-ID")
    }


def answer(example: object, *headers: str, lines: Mapping[str, Any] | None = None) -> Answers:
    """Describe a 200, which may be `lines` too."""
    content = {"application/json": {"example": example}, **(lines or {})}
    return {200: {"content": content, "headers": _described(*headers)}}


def _refusal(
    status: int,
    description: str,
    detail: object,
    *headers: str,
    model: type[BaseModel] = Problem,
) -> Answers:
    content = {"application/json": {"schema": schema_of(model), "example": {"detail": detail}}}
    about = {"description": description, "headers": _described(*headers), "content": content}
    return {status: about}


def _error(description: str, error: ServiceError) -> Answers:
    return _refusal(error.status, description, error.detail, *(error.headers or ()))


_HERO = {"id": 1, "name": "Deadpond", "age": None, "secret_name": "Dive Wilson"}
_UNKNOWN = {
    "type": "extra_forbidden",
    "loc": ["query", "limt"],
    "msg": "There is no such parameter: the known ones are offset, limit, after",
}

_LINES = lines_of("HeroPublic", _HERO)
HERO = answer(_HERO, "ETag")
CREATED = answer(_HERO, "ETag", "Location", "Idempotent-Replayed", lines=_LINES)
PAGE = answer([_HERO], "Link", "Vary", "X-Total-Count", lines=_LINES)
DELETED = answer({"ok": True})
ALIVE = answer({"status": "ok"})
_SAMPLE = {"schema": {"type": "string"}, "example": 'hero_api_queue_waiting{queue="write"} 0.0\n'}
METRICS: Answers = {200: {"content": {"text/plain": _SAMPLE}, "headers": _described("Vary")}}

NOT_FOUND = _error("There is no hero of that id", NotFoundError("hero"))
CONFLICT = _error("The id is taken, or a constraint refuses it", TakenError("hero", 1))
GONE = _error("A hero of this `Idempotency-Key` was deleted", DeletedSinceError("hero"))
STALE = _error("The hero has another ETag than `If-Match` has", StaleError("hero"))
NOT_MODIFIED: Answers = {
    304: {"description": "`If-None-Match` has the hero's ETag", "headers": _described("ETag")}
}
UNAUTHORIZED = _error("The token is missing or wrong", UnauthorizedError())
EVERYWHERE = (
    _refusal(400, "The body cannot be parsed", "There was an error parsing the body")
    | _refusal(413, "The body is too large", "The body is larger than 262144 bytes")
    | _error("The body is compressed", ContentCodingError("gzip"))
    | _refusal(422, "The request does not fit", [_UNKNOWN], model=Invalid)
    | _refusal(
        500, "A stored hero is damaged, or an error that the log has", "Internal Server Error"
    )
    | _error(
        "The database is not available now; `detail` says whether anything was done",
        OverloadedError(),
    )
    | _error("The database has no room left", NoRoomError())
)


def _header(header: str, description: str, **bounds: int) -> dict[str, Any]:
    """Return what the OpenAPI document says of a header that a dependency of the request reads."""
    about = {"name": header, "in": "header", "schema": {"type": "string", **bounds}}
    return {"parameters": [about | {"description": description}]}


IF_NONE_MATCH = _header("If-None-Match", "ETags of which the answer is known")
IF_MATCH = _header("If-Match", "ETags of which the hero must have one")
KEY = _header(
    "Idempotency-Key", "under which what you send is stored once", minLength=1, maxLength=MAX_KEY
)
