"""The SQL of the heroes, as each of the two engines says it.

A statement takes its items as one JSON parameter, so that it is compiled once for batches of
every size, and renders heroes as JSON: no row becomes an object on its way to a client.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

FILTERS = {"after": "id >", "name": "name =", "min_age": "age >=", "max_age": "age <="}


@dataclass(frozen=True, eq=False)
class Dialect:
    """What differs between the engines; parameters and columns are the same.

    `create` and `create_chosen` return no row for a hero whose id is taken. `draws` is how often
    an id is drawn at most for a hero that has none: a sequence may meet ids that it did not give.
    """

    get: str
    create: str
    create_chosen: str
    draws: int
    update: str
    delete: str
    joined: str
    healthy: str
    parameter: Callable[[str, int], str]


# Only an age can be of a type that JSON would render: a BLOB makes json_object fail.
_HEALTHY = "typeof(age) IN ('integer', 'null')"
_OBJECT = "json_object('id', id, 'name', name, 'age', age, 'secret_name', secret_name)"
_HERO = f"CASE WHEN {_HEALTHY} THEN {_OBJECT} END"

_SQLITE_CREATE = """
    INSERT INTO hero (id, name, age, secret_name)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
           json_extract(value, '$[2]'), json_extract(value, '$[3]')
    FROM json_each(:heroes) WHERE true
    ON CONFLICT DO NOTHING
    RETURNING id, name, age, secret_name
"""

SQLITE = Dialect(
    get=f"SELECT id, {_HERO} FROM hero WHERE id IN (SELECT value FROM json_each(:ids))",
    create=_SQLITE_CREATE,
    create_chosen=_SQLITE_CREATE,
    draws=1,
    update=f"""
        UPDATE hero SET
            name = coalesce(json_extract(value, '$[1]'), name),
            age = CASE WHEN json_extract(value, '$[2]') THEN json_extract(value, '$[3]')
                       ELSE age END,
            secret_name = coalesce(json_extract(value, '$[4]'), secret_name)
        FROM json_each(:patches) WHERE hero.id = json_extract(value, '$[0]')
        RETURNING hero.id, {_HERO}
    """,
    delete="DELETE FROM hero WHERE id IN (SELECT value FROM json_each(:ids)) RETURNING id",
    joined=f"group_concat({_HERO})",
    healthy=f"count(CASE WHEN {_HEALTHY} THEN 1 END)",
    parameter=":{}_{}".format,
)

# The key of the lock that orders whoever makes the table or moves its sequence: "hero" in ASCII.
LOCK = 0x6865726F
# nextval and setval alone would race: who draws ids holds the lock shared until its COMMIT, and
# who stores chosen ids, and may have to move the sequence past them, holds it alone.
_SHARED = f"WITH locked AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared({LOCK}))"
_ALONE = f"WITH locked AS MATERIALIZED (SELECT pg_advisory_xact_lock({LOCK}))"
_SEQUENCE = "pg_get_serial_sequence('hero', 'id')"
_ROWS = "json_array_elements(CAST(%(heroes)s AS json)) AS item (value)"
_VALUES = "value ->> 1, CAST(value ->> 2 AS integer), value ->> 3"

# Parameters are sent as text: the casts say what they are, whatever their size, so that each
# statement is prepared once. Rows are locked in the order of their ids, so that batches of
# several processes never wait for each other in a circle.
POSTGRESQL = Dialect(
    get="""
        SELECT id, CAST(row_to_json(hero) AS text)
        FROM (SELECT id, name, age, secret_name FROM hero WHERE id IN (
            SELECT CAST(value AS bigint)
            FROM json_array_elements_text(CAST(%(ids)s AS json)) AS item (value)
        )) AS hero
    """,
    create=f"""
        {_SHARED}
        INSERT INTO hero (name, age, secret_name) SELECT {_VALUES} FROM locked, {_ROWS}
        ON CONFLICT (id) DO NOTHING
        RETURNING id, name, age, secret_name
    """,
    create_chosen=f"""
        {_ALONE}, stored AS (
            INSERT INTO hero (id, name, age, secret_name)
            SELECT CAST(value ->> 0 AS bigint), {_VALUES} FROM locked, {_ROWS}
            ON CONFLICT (id) DO NOTHING
            RETURNING id, name, age, secret_name
        ), moved AS MATERIALIZED (
            SELECT setval({_SEQUENCE}, greatest(nextval({_SEQUENCE}), max(id) + 1), false)
            FROM stored HAVING count(*) > 0
        )
        SELECT id, name, age, secret_name FROM stored, moved
    """,
    draws=1_000,
    update="""
        WITH updated AS (
            UPDATE hero SET
                name = coalesce(value ->> 1, name),
                age = CASE WHEN CAST(value ->> 2 AS boolean) THEN CAST(value ->> 3 AS integer)
                           ELSE age END,
                secret_name = coalesce(value ->> 4, secret_name)
            FROM (
                SELECT hero.id AS locked, value
                FROM json_array_elements(CAST(%(patches)s AS json)) AS item (value)
                JOIN hero ON hero.id = CAST(value ->> 0 AS bigint)
                ORDER BY hero.id FOR UPDATE OF hero
            ) AS patch WHERE hero.id = locked
            RETURNING hero.id, name, age, secret_name
        )
        SELECT id, CAST(row_to_json(updated) AS text) FROM updated
    """,
    delete="""
        DELETE FROM hero USING (
            SELECT id AS locked FROM hero WHERE id IN (
                SELECT CAST(value AS bigint)
                FROM json_array_elements_text(CAST(%(ids)s AS json)) AS item (value)
            ) ORDER BY id FOR UPDATE OF hero
        ) AS doomed WHERE id = locked
        RETURNING id
    """,
    joined="string_agg(CAST(row_to_json(page) AS text), ',' ORDER BY id)",
    healthy="count(*)",
    parameter=lambda name, index: (
        f"CAST(%({name}_{index})s AS {'text' if name == 'name' else 'bigint'})"
    ),
)

DIALECTS = {"sqlite": SQLITE, "postgresql": POSTGRESQL}


class Shape(NamedTuple):
    """What the SELECT of a page depends on: which filters it has, and whether it counts."""

    filters: tuple[str, ...]
    counts: bool


PLAIN = Shape((), counts=False)


@lru_cache(maxsize=512)
def list_pages(dialect: Dialect, shapes: tuple[Shape, ...]) -> str:
    """Return one statement that reads several pages, a row each, from one snapshot.

    Plain pages, in the order of their offsets, share one walk along the table: each starts from
    where the one before it starts, and its offset counts from there.
    """
    starts, selects = [], []
    start = "true"
    for index, shape in enumerate(shapes):
        offset = dialect.parameter("offset", index)
        if shape == PLAIN:
            starts.append(
                f"start_{index} (id) AS MATERIALIZED (SELECT id FROM hero WHERE {start} "
                f"ORDER BY id LIMIT 1 OFFSET {offset})"
            )
            start = f"id >= (SELECT id FROM start_{index})"
            selects.append(_list_select(dialect, index, "NULL", start, "0"))
        else:
            counted = _where(dialect, index, [name for name in shape.filters if name != "after"])
            total = f"(SELECT count(*) FROM hero WHERE {counted})" if shape.counts else "NULL"
            where = _where(dialect, index, shape.filters)
            selects.append(_list_select(dialect, index, total, where, offset))
    with_ = f"WITH {', '.join(starts)} " if starts else ""
    return with_ + " UNION ALL ".join(selects)


def _list_select(dialect: Dialect, index: int, total: str, where: str, offset: str) -> str:
    return f"""
        SELECT {index}, {dialect.joined}, count(*), max(id), CAST({total} AS bigint),
               {dialect.healthy}
        FROM (SELECT id, name, age, secret_name FROM hero WHERE {where} ORDER BY id
              LIMIT {dialect.parameter("limit", index)} OFFSET {offset}) AS page"""


def _where(dialect: Dialect, index: int, filters: Iterable[str]) -> str:
    conditions = (f"{FILTERS[name]} {dialect.parameter(name, index)}" for name in filters)
    return " AND ".join(conditions) or "true"
