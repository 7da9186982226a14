"""What can be done with heroes: batch functions, and the calls for one item that coalesce them."""

import json
from collections import defaultdict
from collections.abc import Awaitable, Sequence
from operator import attrgetter
from typing import NamedTuple

from hero_api import sql
from hero_api.coalescing import coalesce
from hero_api.database import ReadOnlySession, ReadWriteSession, fetch
from hero_api.errors import (
    DamagedHeroError,
    HeroError,
    HeroExistsError,
    HeroNotFoundError,
    RefusedError,
)
from hero_api.models import HeroCreate, HeroPublic, HeroUpdate, Page

_DEEP = 10_000  # rows: a page that skips more of them is a scan


class Listed(NamedTuple):
    """A page of heroes: a JSON array; after which id the next page starts, if any; the total."""

    body: str
    next_after: int | None
    total: int | None


class Created(NamedTuple):
    """A hero that was stored: its id, and the hero as a JSON object."""

    id: int
    body: str


class Patch(NamedTuple):
    """The changes to one hero."""

    id: int
    changes: HeroUpdate


async def get_heroes(session: ReadOnlySession, ids: Sequence[int]) -> Sequence[str | HeroError]:
    """Read heroes by id, each as a JSON object."""
    rows = await fetch(session, _dialect(session).get, {"ids": json.dumps(ids)})
    bodies: dict[int, str | None] = dict(rows)
    return [_body(bodies[hero_id]) if hero_id in bodies else HeroNotFoundError() for hero_id in ids]


async def list_heroes(
    session: ReadOnlySession, pages: Sequence[Page]
) -> Sequence[Listed | HeroError]:
    """Read pages of heroes, in id order; equal ones are read once, and all from one snapshot."""
    distinct = sorted(set(pages), key=attrgetter("offset"))
    statement = sql.list_pages(_dialect(session), tuple(_shape(page) for page in distinct))
    parameters: dict[str, object] = {}
    walked = 0
    for index, page in enumerate(distinct):
        parameters |= {f"{name}_{index}": value for name, value in page if value is not None}
        if _shape(page) == sql.PLAIN:
            parameters[f"offset_{index}"] = page.offset - walked
            walked = page.offset
    rows = await fetch(session, statement, parameters)
    listed = {distinct[index]: _listed(distinct[index], *row) for index, *row in rows}
    return [listed[page] for page in pages]


async def create_heroes(
    session: ReadWriteSession, heroes: Sequence[HeroCreate]
) -> Sequence[Created | HeroError]:
    """Store heroes; an id that a client chose is honoured while it is free."""
    results: list[Created | HeroError] = [
        RefusedError() if hero.id is None else HeroExistsError(hero.id) for hero in heroes
    ]
    chosen: dict[int, int] = {}
    others: defaultdict[tuple[str, int | None, str], list[int]] = defaultdict(list)
    for index, hero in enumerate(heroes):
        if hero.id is None:
            others[hero.name, hero.age, hero.secret_name].append(index)
        else:
            chosen.setdefault(hero.id, index)
    dialect = _dialect(session)
    # Chosen ids go first, so that no new id can meet one of them.
    with_id = [heroes[index] for index in chosen.values()]
    for stored in await _insert(session, dialect.create_chosen, with_id):
        results[chosen[stored.id]] = _created(stored)
    for _ in range(dialect.draws):
        rest = [heroes[index] for same in others.values() for index in same]
        for stored in await _insert(session, dialect.create, rest):
            # RETURNING has no promised order, but heroes of equal content are interchangeable.
            same = others[stored.name, stored.age, stored.secret_name]
            results[same.pop()] = _created(stored)
        if not any(others.values()):
            break
    return results


async def update_heroes(
    session: ReadWriteSession, patches: Sequence[Patch]
) -> Sequence[str | HeroError]:
    """Change the fields that were sent; patches to one hero apply one after the other."""
    results: list[str | HeroError] = [HeroNotFoundError() for _ in patches]
    pending = dict(enumerate(patches))
    statement = _dialect(session).update
    while pending:
        # A statement changes a hero once: the second patch to it goes into a second statement.
        turn = {patch.id: index for index, patch in reversed(pending.items())}
        rows = [_changes(patches[index]) for index in turn.values()]
        updated = await fetch(session, statement, {"patches": json.dumps(rows)})
        for hero_id, body in updated:
            if body is None:
                # Raised, not returned: what is answered with an error must not be stored.
                raise DamagedHeroError
            results[turn[hero_id]] = body
        for index in turn.values():
            del pending[index]
    return results


async def delete_heroes(
    session: ReadWriteSession, ids: Sequence[int]
) -> Sequence[bool | HeroError]:
    """Delete heroes by id; of two deletes of one hero, one succeeds."""
    rows = await fetch(session, _dialect(session).delete, {"ids": json.dumps(ids)})
    deleted = {hero_id for (hero_id,) in rows}
    results: list[bool | HeroError] = []
    for hero_id in ids:
        results.append(True if hero_id in deleted else HeroNotFoundError())
        deleted.discard(hero_id)
    return results


def _body(rendered: str | None) -> str | HeroError:
    return DamagedHeroError() if rendered is None else rendered


def _dialect(session: ReadOnlySession) -> sql.Dialect:
    return sql.DIALECTS[session.get_bind().dialect.name]


async def _insert(
    session: ReadWriteSession, statement: str, heroes: Sequence[HeroCreate]
) -> Sequence[HeroPublic]:
    if not heroes:
        return []
    rows = [(hero.id, hero.name, hero.age, hero.secret_name) for hero in heroes]
    stored = await fetch(session, statement, {"heroes": json.dumps(rows)})
    return [
        HeroPublic(id=hero_id, name=name, age=age, secret_name=secret_name)
        for hero_id, name, age, secret_name in stored
    ]


def _created(hero: HeroPublic) -> Created:
    return Created(hero.id, hero.model_dump_json())


def _changes(patch: Patch) -> Sequence[object]:
    sent = patch.changes.model_dump(exclude_unset=True)
    return (patch.id, sent.get("name"), "age" in sent, sent.get("age"), sent.get("secret_name"))


def _is_scan(page: Page) -> bool:
    """Whether the page costs more as the table grows."""
    ages = page.min_age is not None or page.max_age is not None
    return page.count or ages or page.offset > _DEEP


def _shape(page: Page) -> sql.Shape:
    filters = tuple(name for name in sql.FILTERS if getattr(page, name) is not None)
    return sql.Shape(filters, page.count)


def _listed(  # noqa: PLR0913, PLR0917 - the columns of _list_select
    page: Page, heroes: str | None, size: int, last_id: int, total: int | None, healthy: int
) -> Listed | HeroError:
    if healthy < size:
        return DamagedHeroError()
    is_full = size == page.limit and size > 0
    return Listed(f"[{heroes or ''}]", last_id if is_full else None, total)


get_hero = coalesce(get_heroes, name="get", max_items=64)
create_hero = coalesce(create_heroes, name="create", writes=True)
update_hero = coalesce(update_heroes, name="update", writes=True)
delete_hero = coalesce(delete_heroes, name="delete", writes=True)
_list_page = coalesce(list_heroes, name="list", max_distinct=32)
# What costs more as the table grows has a lane of its own, so that no other page waits for it.
_scan_page = coalesce(list_heroes, name="scan", max_distinct=1)


def list_page(session: ReadOnlySession, page: Page) -> Awaitable[Listed]:
    """Read one page of heroes, in id order."""
    return (_scan_page if _is_scan(page) else _list_page)(session, page)
