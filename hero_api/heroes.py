"""All hero SQL, as batch functions, and the calls for one item that coalesce them.

A batch hands its items over as one JSON parameter, so that one compiled statement serves every
size, and the database renders heroes as JSON: no row becomes an object on its way to a client.
"""

import json
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import TextClause, text

from hero_api.coalescing import coalesce
from hero_api.database import ReadOnlySession, ReadWriteSession
from hero_api.errors import (
    DamagedHeroError,
    HeroError,
    HeroExistsError,
    HeroNotFoundError,
    RefusedError,
)
from hero_api.models import HeroCreate, HeroPublic, HeroUpdate, Page

_DEEP = 10_000  # rows: a page that skips more of them is a scan
_FILTERS = {"after": "id >", "name": "name =", "min_age": "age >=", "max_age": "age <="}


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


# Only an age can be of a type that JSON would render: a BLOB makes json_object fail.
_HEALTHY = "typeof(age) IN ('integer', 'null')"
_OBJECT = "json_object('id', id, 'name', name, 'age', age, 'secret_name', secret_name)"
_HERO = f"CASE WHEN {_HEALTHY} THEN {_OBJECT} END"

_GET = text(f"SELECT id, {_HERO} FROM hero WHERE id IN (SELECT value FROM json_each(:ids))")

_CREATE = text("""
    INSERT INTO hero (id, name, age, secret_name)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
           json_extract(value, '$[2]'), json_extract(value, '$[3]')
    FROM json_each(:heroes) WHERE true
    ON CONFLICT DO NOTHING
    RETURNING id, name, age, secret_name
""")

_UPDATE = text(f"""
    UPDATE hero SET
        name = coalesce(json_extract(value, '$[1]'), name),
        age = CASE WHEN json_extract(value, '$[2]') THEN json_extract(value, '$[3]') ELSE age END,
        secret_name = coalesce(json_extract(value, '$[4]'), secret_name)
    FROM json_each(:patches) WHERE hero.id = json_extract(value, '$[0]')
    RETURNING hero.id, {_HERO}
""")

_DELETE = text("DELETE FROM hero WHERE id IN (SELECT value FROM json_each(:ids)) RETURNING id")


async def get_heroes(session: ReadOnlySession, ids: Sequence[int]) -> Sequence[str | HeroError]:
    """Read heroes by id, each as a JSON object."""
    rows = await session.execute(_GET, {"ids": json.dumps(ids)})
    bodies: dict[int, str | None] = dict(rows.tuples().all())
    return [_body(bodies[hero_id]) if hero_id in bodies else HeroNotFoundError() for hero_id in ids]


async def list_heroes(
    session: ReadOnlySession, pages: Sequence[Page]
) -> Sequence[Listed | HeroError]:
    """Read pages of heroes, in id order; equal ones are read once, and all from one snapshot."""
    distinct = sorted(set(pages), key=attrgetter("offset"))
    statement = _list_statement(tuple(_shape(page) for page in distinct))
    parameters: dict[str, object] = {}
    walked = 0
    for index, page in enumerate(distinct):
        parameters |= {f"{name}_{index}": value for name, value in page if value is not None}
        if _shape(page) == _PLAIN:
            parameters[f"offset_{index}"] = page.offset - walked
            walked = page.offset
    rows = await session.execute(statement, parameters)
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
    # Chosen ids go first, so that no new id can meet one of them.
    for stored in await _insert(session, [heroes[index] for index in chosen.values()]):
        results[chosen[stored.id]] = _created(stored)
    rest = [heroes[index] for same in others.values() for index in same]
    for stored in await _insert(session, rest):
        # RETURNING has no promised order, but heroes of equal content are interchangeable.
        same = others[stored.name, stored.age, stored.secret_name]
        results[same.pop()] = _created(stored)
    return results


async def update_heroes(
    session: ReadWriteSession, patches: Sequence[Patch]
) -> Sequence[str | HeroError]:
    """Change the fields that were sent; patches to one hero apply one after the other."""
    results: list[str | HeroError] = [HeroNotFoundError() for _ in patches]
    pending = dict(enumerate(patches))
    while pending:
        # A statement changes a hero once: the second patch to it goes into a second statement.
        turn = {patch.id: index for index, patch in reversed(pending.items())}
        rows = [_changes(patches[index]) for index in turn.values()]
        updated = await session.execute(_UPDATE, {"patches": json.dumps(rows)})
        for hero_id, body in updated.tuples():
            results[turn[hero_id]] = _body(body)
        for index in turn.values():
            del pending[index]
    return results


async def delete_heroes(
    session: ReadWriteSession, ids: Sequence[int]
) -> Sequence[bool | HeroError]:
    """Delete heroes by id; of two deletes of one hero, one succeeds."""
    rows = await session.execute(_DELETE, {"ids": json.dumps(ids)})
    deleted = set(rows.scalars())
    results: list[bool | HeroError] = []
    for hero_id in ids:
        results.append(True if hero_id in deleted else HeroNotFoundError())
        deleted.discard(hero_id)
    return results


async def _insert(session: ReadWriteSession, heroes: Sequence[HeroCreate]) -> Sequence[HeroPublic]:
    if not heroes:
        return []
    rows = [(hero.id, hero.name, hero.age, hero.secret_name) for hero in heroes]
    stored = await session.execute(_CREATE, {"heroes": json.dumps(rows)})
    return [
        HeroPublic(id=hero_id, name=name, age=age, secret_name=secret_name)
        for hero_id, name, age, secret_name in stored.tuples()
    ]


def _created(hero: HeroPublic) -> Created:
    return Created(hero.id, hero.model_dump_json())


def _changes(patch: Patch) -> Sequence[object]:
    sent = patch.changes.model_dump(exclude_unset=True)
    return (patch.id, sent.get("name"), "age" in sent, sent.get("age"), sent.get("secret_name"))


def _body(rendered: str | None) -> str | HeroError:
    return DamagedHeroError() if rendered is None else rendered


def _is_scan(page: Page) -> bool:
    """Whether the page costs more as the table grows."""
    ages = page.min_age is not None or page.max_age is not None
    return page.count or ages or page.offset > _DEEP


class _Shape(NamedTuple):
    """What the SELECT of a page depends on: which filters it has, and whether it counts."""

    filters: tuple[str, ...]
    counts: bool


_PLAIN = _Shape((), counts=False)


def _shape(page: Page) -> _Shape:
    filters = tuple(name for name in _FILTERS if getattr(page, name) is not None)
    return _Shape(filters, page.count)


@lru_cache(maxsize=512)
def _list_statement(shapes: tuple[_Shape, ...]) -> TextClause:
    """Return one statement that reads several pages, a row each, from one snapshot.

    Plain pages, in the order of their offsets, share one walk along the table: each starts from
    where the one before it starts, and its offset counts from there.
    """
    starts, selects = [], []
    start = "true"
    for index, shape in enumerate(shapes):
        if shape == _PLAIN:
            starts.append(
                f"start_{index} (id) AS MATERIALIZED (SELECT id FROM hero WHERE {start} "
                f"ORDER BY id LIMIT 1 OFFSET :offset_{index})"
            )
            start = f"id >= (SELECT id FROM start_{index})"
            selects.append(_list_select(index, "NULL", start, "0"))
        else:
            counted = _where(index, [name for name in shape.filters if name != "after"])
            total = f"(SELECT count(*) FROM hero WHERE {counted})" if shape.counts else "NULL"
            where = _where(index, shape.filters)
            selects.append(_list_select(index, total, where, f":offset_{index}"))
    with_ = f"WITH {', '.join(starts)} " if starts else ""
    return text(with_ + " UNION ALL ".join(selects))


def _list_select(index: int, total: str, where: str, offset: str) -> str:
    return f"""
        SELECT {index}, group_concat({_HERO}), count(*), max(id), {total},
               count(CASE WHEN {_HEALTHY} THEN 1 END)
        FROM (SELECT id, name, age, secret_name FROM hero WHERE {where}
              ORDER BY id LIMIT :limit_{index} OFFSET {offset})"""


def _where(index: int, filters: Iterable[str]) -> str:
    return " AND ".join(f"{_FILTERS[name]} :{name}_{index}" for name in filters) or "true"


def _listed(  # noqa: PLR0913, PLR0917 - the columns of _list_select
    page: Page, heroes: str | None, size: int, last_id: int, total: int | None, healthy: int
) -> Listed | HeroError:
    if healthy < size:
        return DamagedHeroError()
    is_full = size == page.limit and size > 0
    return Listed(f"[{heroes or ''}]", last_id if is_full else None, total)


get_hero = coalesce(get_heroes, name="get")
create_hero = coalesce(create_heroes, name="create", writes=True)
update_hero = coalesce(update_heroes, name="update", writes=True)
delete_hero = coalesce(delete_heroes, name="delete", writes=True)
_list_page = coalesce(list_heroes, name="list", max_distinct=16)
# What costs more as the table grows has a lane of its own, so that no other page waits for it.
_scan_page = coalesce(list_heroes, name="scan", max_distinct=1)


def list_page(session: ReadOnlySession, page: Page) -> Awaitable[Listed]:
    """Read one page of heroes, in id order."""
    return (_scan_page if _is_scan(page) else _list_page)(session, page)
