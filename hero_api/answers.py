"""What the OpenAPI document says of the answers: their headers, and an example of each."""

from collections.abc import Mapping
from typing import Any

from hero_api.errors import (
    ContentCodingError,
    NoRoomError,
    NotFoundError,
    OverloadedError,
    TakenError,
    UnauthorizedError,
)
from hero_api.models import Invalid, Problem
from hero_api.web.json_lines import lines_of

Answers = dict[int | str, dict[str, Any]]


def answer(example: object, lines: Mapping[str, Any] | None = None, **headers: str) -> Answers:
    """Describe a 200, which may be `lines` too; `headers` say what each is, in snake case."""
    described = {
        name.title().replace("_", "-"): {"description": description, "schema": {"type": "string"}}
        for name, description in headers.items()
    }
    content = {"application/json": {"example": example}, **(lines or {})}
    return {200: {"content": content, "headers": described}}


def _refusal(status: int, description: str, detail: object, model: type = Problem) -> Answers:
    content = {"application/json": {"example": {"detail": detail}}}
    return {status: {"model": model, "description": description, "content": content}}


_HERO = {"id": 1, "name": "Deadpond", "age": None, "secret_name": "Dive Wilson"}
_UNKNOWN = {
    "type": "extra_forbidden",
    "loc": ["query", "limt"],
    "msg": "There is no such parameter: the known ones are offset, limit, after",
}

HERO = answer(_HERO)
_LINES = lines_of("HeroPublic", _HERO)
CREATED = answer(_HERO, _LINES, location="Where the hero is")
PAGE = answer(
    [_HERO],
    _LINES,
    link="The next page, where there is one: its URL, and `rel=next`",
    x_total_count="How many heroes the filters match, where `count` is true",
)
DELETED = answer({"ok": True})
ALIVE = answer({"status": "ok"})
_SAMPLE = {"schema": {"type": "string"}, "example": 'hero_api_queue_items_total{queue="write"} 1\n'}
METRICS: Answers = {200: {"content": {"text/plain": _SAMPLE}}}

NOT_FOUND = _refusal(404, "There is no hero of that id", NotFoundError("hero").detail)
CONFLICT = _refusal(
    409, "The id is taken, or a constraint refuses it", TakenError("hero", 1).detail
)
UNAUTHORIZED = _refusal(401, "The token is missing or wrong", UnauthorizedError().detail)
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
        OverloadedError().detail,
    )
    | _refusal(507, "The database has no room left", NoRoomError().detail)
)
