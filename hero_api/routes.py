"""The hero handlers, as the tutorial has them."""

from functools import partial

from fastapi import Depends, FastAPI, Response, params

from hero_api.answers import (
    CONFLICT,
    CREATED,
    DELETED,
    GONE,
    HERO,
    IF_MATCH,
    IF_NONE_MATCH,
    KEY,
    NOT_FOUND,
    NOT_MODIFIED,
    PAGE,
    STALE,
)
from hero_api.dependencies import (
    HeroId,
    HeroLines,
    IdempotencyKey,
    IfMatch,
    PageQuery,
    Prefix,
    ReadSession,
    TokenCheck,
    WriteSession,
)
from hero_api.heroes import heroes
from hero_api.lines import MEDIA_TYPE
from hero_api.models import Deleted, HeroCreate, HeroPublic, HeroUpdate
from hero_api.settings import Settings
from hero_api.storage import Listed
from hero_api.web.fast_route import FastRoute
from hero_api.web.json_lines import JSONLinesRoute, StreamedLines, lines_of
from hero_api.web.tagged_response import TaggedJSON

_HEROES, _HERO = "/heroes/", "/heroes/{hero_id}"
_REPLAYED = {"Idempotent-Replayed": "true"}
_VARY = {"Vary": "Accept"}  # or a cache would give lines to who asks for JSON


class HeroJSON(Response):
    """Heroes that the database has rendered as JSON already."""

    media_type = "application/json"


async def create_hero(
    hero: HeroCreate, idempotency_key: IdempotencyKey, session: WriteSession, prefix: Prefix
) -> Response:
    """Store a hero; an `id` that you chose is honoured while it is free.

    With an `Idempotency-Key` it is stored once, however often you send it; so are lines.
    """
    created = await heroes.create(session, hero, idempotency_key)
    headers = {"Location": f"{prefix}/heroes/{created.id}"}
    return TaggedJSON(created.body, headers | (_REPLAYED if created.is_replay else {}))


async def read_heroes(page: PageQuery, session: ReadSession, prefix: Prefix) -> Response:
    """List heroes in id order; the `Link` header leads to the next page, if there is one."""
    listed = await heroes.list_page(session, page)
    headers = _headers(listed)
    if listed.next_after is not None:
        following = page.following(listed.next_after)
        headers = headers | {"Link": f'<{prefix}/heroes/?{following}>; rel="next"'}
    return HeroJSON(listed.body, headers=headers)


async def create_heroes(
    idempotency_key: IdempotencyKey, lines: HeroLines, session: WriteSession
) -> Response:
    """Store a hero for each line, or none."""
    created = await heroes.create_bulk(session, lines, idempotency_key)
    content = "".join(f"{hero.body}\n" for hero in created)
    is_replay = any(hero.is_replay for hero in created)
    headers = _REPLAYED if is_replay else None
    return Response(content, headers=headers, media_type=MEDIA_TYPE)


async def stream_heroes(page: PageQuery, session: ReadSession) -> Response:
    """List all heroes that the filters match; where you send a `limit`, that page."""
    pages = heroes.pages(session, page)
    first = await anext(pages)  # what goes wrong before it is there is answered as ever
    following = (listed.lines async for listed in pages)
    return StreamedLines(first.lines, following, headers=_headers(first))


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


def _headers(listed: Listed) -> dict[str, str]:
    return _VARY if listed.total is None else _VARY | {"X-Total-Count": str(listed.total)}


def add_routes(app: FastAPI, settings: Settings, check: params.Depends) -> None:
    """Add the handlers to `app`, where a request passes `check` after the token's.

    They are added straight to it, since a router that is included matches twice.
    """
    add = partial(app.router.add_api_route, route_class_override=FastRoute, tags=["heroes"])
    token = [Depends(TokenCheck(settings.token.get_secret_value()))] if settings.token else []

    read = partial(add, dependencies=[*(token if settings.guard == "all" else []), check])
    read(
        _HERO,
        read_hero,
        methods=["GET"],
        response_model=HeroPublic,
        responses=HERO | NOT_FOUND | NOT_MODIFIED,
        openapi_extra=IF_NONE_MATCH,
    )
    read(_HEROES, stream_heroes, methods=["GET"], route_class_override=JSONLinesRoute)
    read(_HEROES, read_heroes, methods=["GET"], response_model=list[HeroPublic], responses=PAGE)

    write = partial(add, dependencies=[*token, check])
    write(_HEROES, create_heroes, methods=["POST"], route_class_override=JSONLinesRoute)
    write(
        _HEROES,
        create_hero,
        methods=["POST"],
        response_model=HeroPublic,
        responses=CREATED | CONFLICT | GONE,
        openapi_extra=KEY | {"requestBody": {"content": lines_of("HeroCreate")}},
    )
    change = partial(write, _HERO, openapi_extra=IF_MATCH)
    refused = NOT_FOUND | CONFLICT | STALE
    change(update_hero, methods=["PATCH"], response_model=HeroPublic, responses=HERO | refused)
    change(delete_hero, methods=["DELETE"], response_model=Deleted, responses=DELETED | refused)
