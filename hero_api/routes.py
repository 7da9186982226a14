"""The hero handlers, as the tutorial has them."""

from functools import partial
from urllib.parse import urlencode

from fastapi import Depends, FastAPI, Response
from fastapi.routing import APIRoute

from hero_api.answers import CONFLICT, CREATED, DELETED, HERO, NOT_FOUND, PAGE
from hero_api.dependencies import (
    HeroId,
    HeroLines,
    PageQuery,
    Prefix,
    ReadSession,
    TokenCheck,
    WriteSession,
)
from hero_api.heroes import heroes
from hero_api.models import Deleted, HeroCreate, HeroPublic, HeroUpdate
from hero_api.settings import Settings
from hero_api.web.fast_route import FastRoute
from hero_api.web.json_lines import JSONLines, JSONLinesRoute, lines_of, stream_lines

_HEROES, _HERO = "/heroes/", "/heroes/{hero_id}"


class HeroJSON(Response):
    """Heroes that the database has rendered as JSON already."""

    media_type = "application/json"


async def create_hero(hero: HeroCreate, session: WriteSession, prefix: Prefix) -> Response:
    """Store a hero; an `id` that you chose is honoured while it is free."""
    created = await heroes.create(session, hero)
    return HeroJSON(created.body, headers={"Location": f"{prefix}/heroes/{created.id}"})


async def read_heroes(page: PageQuery, session: ReadSession, prefix: Prefix) -> Response:
    """List heroes in id order; a full page's `Link` header leads to the next."""
    listed = await heroes.list_page(session, page)
    response = HeroJSON(listed.body)
    if listed.next_after is not None:
        following = urlencode(page.following(listed.next_after))
        response.headers["Link"] = f'<{prefix}/heroes/?{following}>; rel="next"'
    if listed.total is not None:
        response.headers["X-Total-Count"] = str(listed.total)
    return response


async def create_heroes(lines: HeroLines, session: WriteSession) -> Response:
    """Store a hero for each line, or none."""
    created = await heroes.create_bulk(session, lines)
    return JSONLines("".join(f"{each.body}\n" for each in created))


async def stream_heroes(page: PageQuery, session: ReadSession) -> Response:
    """List all heroes that the filters match; where you send a `limit`, that page."""
    return await stream_lines(page.lines async for page in heroes.pages(session, page))


async def read_hero(hero_id: HeroId, session: ReadSession) -> Response:
    """Read one hero."""
    return HeroJSON(await heroes.get(session, hero_id))


async def update_hero(hero_id: HeroId, hero: HeroUpdate, session: WriteSession) -> Response:
    """Change the fields that you send, and no others; `"age": null` clears the age."""
    return HeroJSON(await heroes.update(session, hero_id, hero))


async def delete_hero(hero_id: HeroId, session: WriteSession) -> Response:
    """Delete one hero."""
    await heroes.delete(session, hero_id)
    return HeroJSON(Deleted().model_dump_json())


def add_routes(app: FastAPI, settings: Settings) -> None:
    """Add the handlers to `app`: straight to it, since a router that is included matches twice."""
    # FastAPI reports how it solved the dependencies only where it does.
    route_class = APIRoute if settings.telemetry else FastRoute
    add = partial(app.router.add_api_route, route_class_override=route_class, tags=["heroes"])
    token = [Depends(TokenCheck(settings.token.get_secret_value()))] if settings.token else []
    found, changed = HERO | NOT_FOUND, HERO | NOT_FOUND | CONFLICT

    read = partial(add, dependencies=token if settings.guard == "all" else [])
    read(_HERO, read_hero, methods=["GET"], response_model=HeroPublic, responses=found)
    read(_HEROES, stream_heroes, methods=["GET"], route_class_override=JSONLinesRoute)
    read(_HEROES, read_heroes, methods=["GET"], response_model=list[HeroPublic], responses=PAGE)

    write = partial(add, dependencies=token)
    created, deleted = CREATED | CONFLICT, DELETED | NOT_FOUND | CONFLICT
    write(_HEROES, create_heroes, methods=["POST"], route_class_override=JSONLinesRoute)
    write(
        _HEROES,
        create_hero,
        methods=["POST"],
        response_model=HeroPublic,
        responses=created,
        openapi_extra={"requestBody": {"content": lines_of("HeroCreate")}},
    )
    write(_HERO, update_hero, methods=["PATCH"], response_model=HeroPublic, responses=changed)
    write(_HERO, delete_hero, methods=["DELETE"], response_model=Deleted, responses=deleted)
