"""The hero handlers, as the tutorial has them."""

from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Response

from hero_api import heroes
from hero_api.dependencies import HeroId, PageQuery, ReadSession, WriteSession
from hero_api.models import Deleted, HeroCreate, HeroPublic, HeroUpdate, Problem

_Responses = dict[int | str, dict[str, Any]]
_NOT_FOUND: _Responses = {404: {"model": Problem, "description": "There is no hero of that id"}}
_CONFLICT: _Responses = {
    409: {"model": Problem, "description": "The id is taken, or a constraint refuses it"}
}

router = APIRouter(tags=["heroes"])


class HeroJSON(Response):
    """Heroes that the database has rendered as JSON already."""

    media_type = "application/json"


@router.post("/heroes/", response_model=HeroPublic, responses=_CONFLICT)
async def create_hero(hero: HeroCreate, session: WriteSession) -> Response:
    """Store a hero; an `id` that you chose is honoured while it is free."""
    created = await heroes.create_hero(session, hero)
    return HeroJSON(created.body, headers={"Location": f"/heroes/{created.id}"})


@router.get("/heroes/", response_model=list[HeroPublic])
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


@router.get("/heroes/{hero_id}", response_model=HeroPublic, responses=_NOT_FOUND)
async def read_hero(hero_id: HeroId, session: ReadSession) -> Response:
    """Read one hero."""
    return HeroJSON(await heroes.get_hero(session, hero_id))


@router.patch("/heroes/{hero_id}", response_model=HeroPublic, responses=_NOT_FOUND | _CONFLICT)
async def update_hero(hero_id: HeroId, hero: HeroUpdate, session: WriteSession) -> Response:
    """Change the fields that you send, and no others; `"age": null` clears the age."""
    return HeroJSON(await heroes.update_hero(session, heroes.Patch(hero_id, hero)))


@router.delete("/heroes/{hero_id}", responses=_NOT_FOUND | _CONFLICT)
async def delete_hero(hero_id: HeroId, session: WriteSession) -> Deleted:
    """Delete one hero."""
    await heroes.delete_hero(session, hero_id)
    return Deleted()
