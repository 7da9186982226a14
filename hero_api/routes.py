"""The hero handlers, as the tutorial has them."""

from functools import partial
from typing import Any
from urllib.parse import urlencode

from fastapi import Depends, FastAPI, Response
from fastapi.routing import APIRoute

from hero_api.dependencies import (
    MAX_KEY,
    HeroId,
    IdempotencyKey,
    IfMatch,
    PageQuery,
    ReadSession,
    TokenCheck,
    WriteSession,
)
from hero_api.heroes import heroes
from hero_api.models import Deleted, HeroCreate, HeroPublic, HeroUpdate, Problem
from hero_api.settings import Settings
from hero_api.web.fast_route import FastRoute
from hero_api.web.tagged_response import TaggedJSON

_HEROES, _HERO = "/heroes/", "/heroes/{hero_id}"
# How requests begin that are many and cheap, for the server: gets of one hero.
CHEAP = tuple(b"GET /heroes/%d" % digit for digit in range(10))
_Responses = dict[int | str, dict[str, Any]]
_NOT_FOUND: _Responses = {404: {"model": Problem, "description": "There is no hero of that id"}}
_CONFLICT: _Responses = {
    409: {"model": Problem, "description": "The id is taken, or a constraint refuses it"}
}
_GONE: _Responses = {
    410: {"model": Problem, "description": "The hero of this `Idempotency-Key` was deleted"}
}
_STALE: _Responses = {
    412: {"model": Problem, "description": "The hero has another ETag than `If-Match` has"}
}
_NOT_MODIFIED: _Responses = {304: {"description": "`If-None-Match` has the hero's ETag"}}


def _takes(header: str, description: str, **bounds: int) -> dict[str, Any]:
    """Return what the OpenAPI document says of a header that a dependency of the request reads."""
    about = {"name": header, "in": "header", "schema": {"type": "string", **bounds}}
    return {"parameters": [about | {"description": description}]}


_IF_NONE_MATCH = _takes("If-None-Match", "ETags of which the answer is known")
_IF_MATCH = _takes("If-Match", "ETags of which the hero must have one")
_KEY = _takes(
    "Idempotency-Key", "under which the hero is stored once", minLength=1, maxLength=MAX_KEY
)


class HeroJSON(Response):
    """Heroes that the database has rendered as JSON already."""

    media_type = "application/json"


async def create_hero(
    hero: HeroCreate, idempotency_key: IdempotencyKey, session: WriteSession
) -> Response:
    """Store a hero; an `id` that you chose is honoured while it is free.

    With an `Idempotency-Key` it is stored once, however often you send it.
    """
    created = await heroes.create(session, hero, idempotency_key)
    headers = {"Location": f"/heroes/{created.id}"}
    if created.is_replay:
        headers["Idempotent-Replayed"] = "true"
    return TaggedJSON(created.body, headers)


async def read_heroes(page: PageQuery, session: ReadSession) -> Response:
    """List heroes in id order; a full page's `Link` header leads to the next."""
    listed = await heroes.list_page(session, page)
    response = HeroJSON(listed.body)
    if listed.next_after is not None:
        following = urlencode(page.following(listed.next_after))
        response.headers["Link"] = f'</heroes/?{following}>; rel="next"'
    if listed.total is not None:
        response.headers["X-Total-Count"] = str(listed.total)
    return response


async def read_hero(hero_id: HeroId, session: ReadSession) -> Response:
    """Read one hero; 304 where `If-None-Match` has its `ETag`."""
    return TaggedJSON(await heroes.get(session, hero_id))


async def update_hero(
    hero_id: HeroId, hero: HeroUpdate, if_match: IfMatch, session: WriteSession
) -> Response:
    """Change the fields that you send, and no others; `"age": null` clears the age.

    With `If-Match`, only a hero that has that `ETag` still is changed.
    """
    return TaggedJSON(await heroes.update(session, hero_id, hero, if_match))


async def delete_hero(hero_id: HeroId, if_match: IfMatch, session: WriteSession) -> Response:
    """Delete one hero; with `If-Match`, only one that has that `ETag` still."""
    await heroes.delete(session, hero_id, if_match)
    return HeroJSON(Deleted().model_dump_json())


def add_routes(app: FastAPI, settings: Settings) -> None:
    """Add the handlers to `app`: straight to it, since a router that is included matches twice."""
    # FastAPI reports how it solved the dependencies only where it does.
    route_class = APIRoute if settings.telemetry else FastRoute
    add = partial(app.router.add_api_route, route_class_override=route_class, tags=["heroes"])
    token = [Depends(TokenCheck(settings.token.get_secret_value()))] if settings.token else []

    read = partial(add, dependencies=token if settings.guard == "all" else [])
    read(
        _HERO,
        read_hero,
        methods=["GET"],
        response_model=HeroPublic,
        responses=_NOT_FOUND | _NOT_MODIFIED,
        openapi_extra=_IF_NONE_MATCH,
    )
    read(_HEROES, read_heroes, methods=["GET"], response_model=list[HeroPublic])

    write = partial(add, dependencies=token)
    write(
        _HEROES,
        create_hero,
        methods=["POST"],
        response_model=HeroPublic,
        responses=_CONFLICT | _GONE,
        openapi_extra=_KEY,
    )
    change = partial(
        write, _HERO, responses=_NOT_FOUND | _CONFLICT | _STALE, openapi_extra=_IF_MATCH
    )
    change(update_hero, methods=["PATCH"], response_model=HeroPublic)
    change(delete_hero, methods=["DELETE"], response_model=Deleted)
