"""The SQL of the heroes.

A statement takes its items as one JSON parameter, so that it is compiled once for batches of
every size, and renders heroes as JSON: no row becomes an object on its way to a client.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from sqlalchemy import TextClause, text

FILTERS = {"after": "id >", "name": "name =", "min_age": "age >=", "max_age": "age <="}

# Only an age can be of a type that JSON would render: a BLOB makes json_object fail.
_HEALTHY = "typeof(age) IN ('integer', 'null')"
_OBJECT = "json_object('id', id, 'name', name, 'age', age, 'secret_name', secret_name)"
_HERO = f"CASE WHEN {_HEALTHY} THEN {_OBJECT} END"

GET = text(f"SELECT id, {_HERO} FROM hero WHERE id IN (SELECT value FROM json_each(:ids))")

CREATE = text("""
    INSERT INTO hero (id, name, age, secret_name)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
           json_extract(value, '$[2]'), json_extract(value, '$[3]')
    FROM json_each(:heroes) WHERE true
    ON CONFLICT DO NOTHING
    RETURNING id, name, age, secret_name
""")

UPDATE = text(f"""
    UPDATE hero SET
        name = coalesce(json_extract(value, '$[1]'), name),
        age = CASE WHEN json_extract(value, '$[2]') THEN json_extract(value, '$[3]') ELSE age END,
        secret_name = coalesce(json_extract(value, '$[4]'), secret_name)
    FROM json_each(:patches) WHERE hero.id = json_extract(value, '$[0]')
    RETURNING hero.id, {_HERO}
""")

DELETE = text("DELETE FROM hero WHERE id IN (SELECT value FROM json_each(:ids)) RETURNING id")


class Shape(NamedTuple):
    """What the SELECT of a page depends on: which filters it has, and whether it counts."""

    filters: tuple[str, ...]
    counts: bool


PLAIN = Shape((), counts=False)


@lru_cache(maxsize=512)
def list_pages(shapes: tuple[Shape, ...]) -> TextClause:
    """Return one statement that reads several pages, a row each, from one snapshot.

    Plain pages, in the order of their offsets, share one walk along the table: each starts from
    where the one before it starts, and its offset counts from there.
    """
    starts, selects = [], []
    start = "true"
    for index, shape in enumerate(shapes):
        if shape == PLAIN:
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
    return " AND ".join(f"{FILTERS[name]} :{name}_{index}" for name in filters) or "true"
