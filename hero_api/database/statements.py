"""The SQL of a table, built from its columns and compiled once for each engine.

A statement takes its items as one JSON array of objects, keyed by column, so that it is compiled
once for batches of every size, and renders rows as JSON: none becomes an object on its way to a
client.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    SelectBase,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    false,
    func,
    literal_column,
    null,
    select,
    true,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from hero_api.database.keys import KEY_STATEMENTS
from hero_api.database.pages import Page

ZERO: ColumnElement[Any] = literal_column("0")
ONE: ColumnElement[Any] = literal_column("1")


class Filter(NamedTuple):
    """A filter of pages: the column and the operator that its parameter is compared with."""

    column: str
    operator: str


class Shape(NamedTuple):
    """What the SELECT of a page depends on: which filters it has, and whether it counts."""

    filters: tuple[str, ...]
    counts: bool


class Stored(NamedTuple):
    """What became of an item: its row, or the id that was drawn for it and is taken."""

    position: int
    row_id: int
    body: str | None
    is_stored: bool
    has_triggers: bool  # which may have changed the row since


# Separates the rows of a page, and stands for one that JSON cannot show (ASCII's "substitute").
# No row has such characters in it: JSON escapes them.
BETWEEN, DAMAGED = ",\n", "\x1a"
AFTER = "after"
# In the SELECT of a page, `@` stands for an underscore and its number: no name of a user's has it.
PLACE = "@place"
FROM_PLACE = f'id >= (SELECT id FROM "{PLACE}")'
_BEFORE = "(@before)"  # the condition of the rows from where the plain page before this one starts


class Statements:
    """The statements of one table on one engine; each is the string that the driver gets.

    `filters` are those of its pages, by the names of their parameters. `look` asks a database for
    what else they depend on, and `found` is its rows: the first column says whether there is the
    table of the keys.
    """

    dialect: Dialect
    look: str
    array = "[{}]"
    skips_locked = False
    reads_mixtures = False  # in one statement pages of several shapes, as fast as in several
    catch_up = ""  # for ids that are drawn from a sequence
    create_kept = ""  # `create`, where it can keep the keys of its rows too

    def __init__(self, of: Table, filters: Mapping[str, Filter], found: Sequence[Any] = ()) -> None:
        self.table = of
        self.key = of.c.id
        self.names = [column.name for column in of.columns]
        self.filters = {**filters, AFTER: Filter("id", ">")}
        has_keys = any(has_keys for has_keys, *_ in found)
        self.keys = KEY_STATEMENTS[self.dialect.name] if has_keys else None
        rows = select(*of.columns).where(self._is_one_of_ids()).subquery("_found")
        self.get = self.compile(select(rows.c.id, self.json(rows)))
        self.exist = self.compile(select(self.key).where(self._is_one_of_ids()))
        self.create = self.compile(self._create())
        self.create_chosen = self.compile(self._create_chosen())
        self.update = self.compile(self._update())
        self.delete = self.compile(self._delete())
        unchanged = {each.name: each for each in of.columns if each is not self.key}
        self.probe = self.compile(of.update().values(unchanged).where(false()))
        self.lock = cache(self._lock)
        self._parts = cache(self._compile_parts)
        self.pages = lru_cache(maxsize=512)(self._compile_pages)

    def compile(self, statement: ClauseElement) -> str:
        """Return the text of a statement in the driver's own style of parameters."""
        return str(statement.compile(dialect=self.dialect))

    def json(self, of: FromClause) -> ColumnElement[Any]:
        """Return a row as JSON text; nothing where it holds what JSON cannot."""
        raise NotImplementedError

    def ids(self, ids: Iterable[int]) -> str:
        """Return ids as the parameter `ids` has them: an array of JSON, or of PostgreSQL."""
        return self.array.format(",".join(map(str, ids)))

    def match(self, rows: Sequence[Any], count: int) -> Sequence[Stored]:
        """Say what `create` made of its items. Raises `RefusedError` where a trigger interfered."""
        raise NotImplementedError

    def select_pages(self, pages: Sequence[Page]) -> tuple[str, Mapping[str, object]]:
        """Return the statement that reads pages, in the order of their offsets, with parameters."""
        shapes = tuple(map(self.shape, pages))
        parameters: dict[str, object] = {}
        walked = 0
        for index, (page, shape) in enumerate(zip(pages, shapes, strict=True)):
            offset = page.offset
            if not shape.filters:
                offset, walked = offset - walked, offset
            parameters |= {f"offset_{index}": offset, f"limit_{index}": page.limit}
            parameters |= {f"{name}_{index}": getattr(page, name) for name in shape.filters}
        return self.pages(shapes), parameters

    def cut(self, rows: str | None, found: int | None, limit: int) -> tuple[str, int | None]:  # noqa: ARG002
        """Return a page's rows, and its last id where there are more, of what its SELECT found."""
        return rows or "", found

    def shape(self, page: Page) -> Shape:
        """Return what the SELECT of a page depends on, beside its numbers."""
        filters = (name for name in self.filters if getattr(page, name, None) is not None)
        return Shape(tuple(filters), page.count)

    def _compile_pages(self, shapes: tuple[Shape, ...]) -> str:
        """Return one statement that reads several pages, a row each, from one snapshot.

        Pages without filters, in the order of their offsets, share one walk along the table: each
        starts from where the one before it starts, and its offset counts from there.
        """
        places, selects = [], []
        before = "true"
        for index, shape in enumerate(shapes):
            place, page = self._parts(shape)
            number = f"_{index}"
            if place:
                start = place.replace(_BEFORE, before)
                places.append(f'"{PLACE}" AS MATERIALIZED ({start})'.replace("@", number))
            if not shape.filters:
                before = FROM_PLACE.replace("@", number)
            selects.append(page.replace("@", str(index), 1).replace("@", number))
        with_ = f"WITH {', '.join(places)} " if places else ""
        return with_ + " UNION ALL ".join(selects)

    def _compile_parts(self, shape: Shape) -> tuple[str, str]:
        """Return what finds the place of a page, and its SELECT, whose first `@` is its number."""
        total: ColumnElement[Any] = null()
        if shape.counts:
            counted = self._conditions(name for name in shape.filters if name != AFTER)
            total = select(func.count()).select_from(self.table).where(counted).scalar_subquery()
        found = self._found(self._rows(shape.filters).subquery("_page"), shape.filters)
        page = select(literal_column("@"), *found, cast(total, BigInteger))
        place = self._place(shape.filters)
        return "" if place is None else self.compile(place), self.compile(page)

    def _place(self, filters: Sequence[str]) -> SelectBase | None:
        """Return what a page's SELECT finds in `PLACE`; of a plain one, it has the first id."""
        raise NotImplementedError

    def _rows(self, filters: Sequence[str]) -> Select[Any]:
        """Return the rows of a page."""
        raise NotImplementedError

    def _start(self, filters: Sequence[str], *more: ColumnElement[Any]) -> Select[Any]:
        """Return the id that a page starts with."""
        condition = self._conditions(filters) if filters else literal_column(_BEFORE)
        return self._page(select(self.key, *more), condition, self._number("offset"), ONE)

    def _page(
        self,
        of: Select[Any],
        condition: ColumnElement[Any],
        offset: ColumnElement[Any],
        limit: ColumnElement[Any],
    ) -> Select[Any]:
        return of.where(condition).order_by(self.key).limit(limit).offset(offset)

    def _conditions(self, names: Iterable[str]) -> ColumnElement[bool]:
        columns = self.table.c
        return and_(true(), *(self._condition(n, columns[self.filters[n].column]) for n in names))

    def _condition(self, name: str, compared: ColumnElement[Any]) -> ColumnElement[bool]:
        # A number may be out of the bounds of its column.
        its_type = BigInteger() if isinstance(compared.type, Integer) else compared.type
        operator = self.filters[name].operator
        return compared.op(operator, is_comparison=True)(self._parameter(name, its_type))

    def _number(self, name: str) -> ColumnElement[Any]:
        return self._parameter(name, BigInteger())

    def _parameter(self, name: str, its_type: TypeEngine[Any]) -> ColumnElement[Any]:
        return bindparam(f"{name}@", type_=its_type, required=True)

    def _found(
        self, page: FromClause, filters: Sequence[str]
    ) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
        """Return the rows of a page as JSON, and what tells `cut` whether there are more.

        `DAMAGED` stands for a row that JSON cannot hold.
        """
        raise NotImplementedError

    def _is_one_of_ids(self) -> ColumnElement[bool]:
        raise NotImplementedError

    def _has_triggers(self) -> ColumnElement[Any]:
        """Say whether triggers may change what RETURNING has shown."""
        raise NotImplementedError

    def _create(self) -> ClauseElement:
        raise NotImplementedError

    def _create_chosen(self) -> ClauseElement:
        raise NotImplementedError

    def _update(self) -> ClauseElement:
        raise NotImplementedError

    def _delete(self) -> ClauseElement:
        raise NotImplementedError

    def _lock(self, *, chosen: bool | None, wait: bool) -> str:
        """Return what locks rows by their ids, and returns the ids of those that it has locked.

        On PostgreSQL, it does so behind the lock that drawn (False) or chosen ids (True) need.
        """
        raise NotImplementedError


def text(value: str) -> ColumnElement[Any]:
    """Return text as part of the statement: keys of JSON are no parameters."""
    quoted = value.replace("'", "''")
    return literal_column(f"'{quoted}'", Text())
