"""What the OpenAPI document says of answers, with an example of each, and of some headers."""

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
    StaleError,
    TakenError,
    UnauthorizedError,
)
from hero_api.models import Invalid, Problem
from hero_api.web.json_lines import lines_of
from hero_api.web.openapi import schema_of

Answers = dict[int | str, dict[str, Any]]


def answer(
    example: object,
    headers: Mapping[str, str] | None = None,
    lines: Mapping[str, Any] | None = None,
) -> Answers:
    """Describe a 200, which may be `lines` too; `headers` say what each is."""
    described = {
        name: {"description": description, "schema": {"type": "string"}}
        for name, description in (headers or {}).items()
    }
    content = {"application/json": {"example": example}, **(lines or {})}
    return {200: {"content": content, "headers": described}}


def _refusal(
    status: int, description: str, detail: object, model: type[BaseModel] = Problem
) -> Answers:
    content = {"application/json": {"schema": schema_of(model), "example": {"detail": detail}}}
    return {status: {"description": description, "content": content}}


_HERO = {"id": 1, "name": "Deadpond", "age": None, "secret_name": "Dive Wilson"}
_UNKNOWN = {
    "type": "extra_forbidden",
    "loc": ["query", "limt"],
    "msg": "There is no such parameter: the known ones are offset, limit, after",
}

_ETAG = {"ETag": "A hash of the hero, for `If-None-Match` and `If-Match`"}
_CREATED = {
    "Location": "Where the hero is",
    "Idempotent-Replayed": "`true` where this `Idempotency-Key` was answered before",
}
_PAGE = {
    "Link": "The next page, where there is one: its URL, and `rel=next`",
    "X-Total-Count": "How many heroes the filters match, where `count` is true",
}
_LINES = lines_of("HeroPublic", _HERO)
HERO = answer(_HERO, _ETAG)
CREATED = answer(_HERO, _ETAG | _CREATED, _LINES)
PAGE = answer([_HERO], _PAGE, _LINES)
DELETED = answer({"ok": True})
ALIVE = answer({"status": "ok"})
_SAMPLE = {"schema": {"type": "string"}, "example": 'hero_api_queue_waiting{queue="write"} 0.0\n'}
METRICS: Answers = {200: {"content": {"text/plain": _SAMPLE}}}

NOT_FOUND = _refusal(404, "There is no hero of that id", NotFoundError("hero").detail)
CONFLICT = _refusal(
    409, "The id is taken, or a constraint refuses it", TakenError("hero", 1).detail
)
GONE = _refusal(
    410, "A hero of this `Idempotency-Key` was deleted", DeletedSinceError("hero").detail
)
STALE = _refusal(412, "The hero has another ETag than `If-Match` has", StaleError("hero").detail)
NOT_MODIFIED: Answers = {304: {"description": "`If-None-Match` has the hero's ETag"}}
UNAUTHORIZED = _refusal(401, "The token is missing or wrong", UnauthorizedError.detail)
EVERYWHERE = (
    _refusal(400, "The body cannot be parsed", "There was an error parsing the body")
    | _refusal(413, "The body is too large", "The body is larger than 262144 bytes")
    | _refusal(415, "The body is compressed", ContentCodingError("gzip").detail)
    | _refusal(422, "The request does not fit", [_UNKNOWN], Invalid)
    | _refusal(
        500, "A stored hero is damaged, or an error that the log has", "Internal Server Error"
    )
    | _refusal(
        503,
        "The database is not available now; `detail` says whether anything was done",
        OverloadedError.detail,
    )
    | _refusal(507, "The database has no room left", NoRoomError.detail)
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
