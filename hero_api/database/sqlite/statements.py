"""The statements of a table in SQLite."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnElement,
    FromClause,
    Select,
    SelectBase,
    Table,
    Text,
    UnaryExpression,
    and_,
    bindparam,
    case,
    cast,
    column,
    exists,
    func,
    literal_column,
    select,
    table,
    true,
    union_all,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler, SQLiteDialect
from sqlalchemy.sql import operators
from sqlalchemy.sql.selectable import TableValuedAlias

from hero_api.database.columns import Kind, kind_of
from hero_api.database.pages import MAX_ID
from hero_api.database.statements import (
    AFTER,
    BETWEEN,
    DAMAGED,
    ONE,
    PLACE,
    ZERO,
    Filter,
    Statements,
    Stored,
    text,
)
from hero_api.errors import RefusedError

# The storage classes of the values that are expected in a column.
TYPES = {
    Kind.TEXT: ("text",),
    Kind.INTEGER: ("integer",),
    Kind.BOOLEAN: ("integer",),
    Kind.FLOAT: ("real", "integer"),
    Kind.TIME: ("text",),
}
_RANGE = ("<", "<=", ">", ">=")  # operators
_PLACE = table(PLACE, column("id", BigInteger), column("behind", BigInteger))
_BEHIND = "@behind"
_FEW = 1_000  # rows that are sorted in less time than it takes to find as many along the table


class _Compiler(SQLiteCompiler):
    """Writes hints behind the tables that they are about, which SQLAlchemy's leaves out."""

    def get_from_hint_text(self, table: FromClause, text: str | None) -> str | None:  # noqa: ARG002
        return text


class _Dialect(SQLiteDialect):
    statement_compiler = _Compiler


class SQLiteStatements(Statements):
    """The statements of a table in SQLite; `look` asks for AUTOINCREMENT, and what holds text."""

    dialect = _Dialect(paramstyle="named")
    look = """
        SELECT (SELECT count(*) FROM sqlite_master WHERE name = 'hero_api_idempotency'),
               (SELECT count(*) FROM sqlite_master WHERE name = 'sqlite_sequence'),
               name, type NOT LIKE '%INT%' AND (type = '' OR type LIKE '%BLOB%'
                   OR type LIKE '%CHAR%' OR type LIKE '%CLOB%' OR type LIKE '%TEXT%')
        FROM pragma_table_info(:table)"""

    def __init__(self, of: Table, filters: Mapping[str, Filter], found: Sequence[Any] = ()) -> None:
        self._has_sequence = any(has_sequence for _, has_sequence, *_ in found)
        # SQLite does not take each type for text, such as STRING (sqlite.org/datatype3.html).
        texts = {each.name for each in of.columns if kind_of(each) is Kind.TEXT}
        self._casts = any(name in texts and not holds_text for *_, name, holds_text in found)
        super().__init__(of, filters, found)

    def json(self, of: FromClause) -> ColumnElement[Any]:
        """Return a row as JSON text; nothing where it holds what JSON cannot."""
        pairs = [part for name in self.names for part in (text(name), self._value(of, name))]
        return case((self._is_sound(of), func.json_object(*pairs)))

    def match(self, rows: Sequence[Any], count: int) -> Sequence[Stored]:
        """Say what `create` made of its items: the ids that it draws stand in their order."""
        drawn = sorted(rows)
        if len(drawn) != count or (count and drawn[-1][0] - drawn[0][0] != count - 1):
            raise RefusedError
        return [
            Stored(position, row_id, body, True, bool(has_triggers))  # noqa: FBT003
            for position, (row_id, body, has_triggers) in enumerate(drawn)
        ]

    def _value(self, of: FromClause, name: str) -> ColumnElement[Any]:
        kind = kind_of(self.table.c[name])
        if kind is Kind.FLOAT:
            # 21 digits, of which no double is lost; json_object has 15.
            digits = func.printf(text("%!.20e"), of.c[name])
            is_null = func.typeof(of.c[name]) == text("null")
            return func.json(case((is_null, text("null")), else_=digits))
        if kind is Kind.BOOLEAN:
            words = case((of.c[name], text("true")), (~of.c[name], text("false")))
            return func.json(func.coalesce(words, text("null")))
        return cast(of.c[name], Text) if self._casts and kind is Kind.TEXT else of.c[name]

    def _is_sound(self, of: FromClause) -> ColumnElement[bool]:
        """Say whether a row holds what its columns can."""
        conditions = []
        for its_column in self.table.columns:
            kind = func.typeof(of.c[its_column.name])
            expected = kind_of(its_column)
            if expected is Kind.TEXT:
                # A BLOB makes json_object itself fail.
                if self._casts:
                    conditions.append(kind != text("blob"))
            elif not its_column.primary_key:
                conditions.append(kind.in_([*map(text, TYPES[expected]), text("null")]))
            if expected is Kind.FLOAT:
                is_finite = func.abs(of.c[its_column.name]) < literal_column("9e999")
                conditions.append(func.ifnull(is_finite, true()))
        return and_(true(), *conditions)

    def _found(
        self, page: FromClause, filters: Sequence[str]
    ) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
        # The row behind the page is not read: it may be damaged, and the page is not.
        rows = func.group_concat(func.ifnull(self.json(page), text(DAMAGED)), text(BETWEEN))
        if self._is_plain(filters):
            has_more: ColumnElement[bool] = page.c[_BEHIND].is_not(None)
        else:
            ids = select(func.count(_PLACE.c.id)).select_from(_PLACE)
            has_more = ids.scalar_subquery() > self._number("limit")
        return rows, case((has_more, func.max(page.c.id)))

    def _is_plain(self, filters: Sequence[str]) -> bool:
        """Say whether a page is nothing but a part of the table."""
        return set(filters) <= {AFTER}

    def _place(self, filters: Sequence[str]) -> SelectBase:
        """Find the id that a plain page starts with, and the one behind it; all ids of others."""
        if self._is_plain(filters):
            later = self.table.alias("@later").c.id
            behind = select(later).where(later >= self.key).order_by(later)
            behind = behind.limit(ONE).offset(self._number("limit"))
            return self._start(filters, behind.scalar_subquery().label("behind"))
        if self._is_range([name for name in filters if name != AFTER]):
            return self._range_ids(filters)
        place = self._number("offset"), self._number("limit") + ONE
        return self._page(select(self.key), self._conditions(filters), *place)

    def _rows(self, filters: Sequence[str]) -> Select[Any]:
        rows = select(*self.table.columns)
        if self._is_plain(filters):
            # A LIMIT would cost a third: SQLite copies the rows to count them. Between two ids it
            # walks along the table, so in the order of ids, unless it has an index to walk along.
            # BETWEEN it stops at the second, whatever its statistics say; of two comparisons it may
            # use the first alone. Of a page without room, the end could be below all numbers.
            behind = _PLACE.c.behind
            last = func.ifnull(behind - ONE, literal_column(str(MAX_ID)))
            within = and_(self.key.between(_PLACE.c.id, last), self._number("limit") > ZERO)
            rows = rows.add_columns(behind.label(_BEHIND)).join_from(_PLACE, self.table, within)
            return rows.with_hint(self.table, "NOT INDEXED")
        # Where SQLite sorts what an index found, it sorts ids, in memory, and not whole rows.
        rows = rows.where(self.key.in_(select(_PLACE.c.id)))
        # The limit keeps them in order: SQLite may drop the order of a plain subquery.
        return rows.order_by(self.key).limit(self._number("limit")).offset(ZERO)

    def _is_range(self, filters: Sequence[str]) -> bool:
        """Say whether filters ask for a range of one column, and for nothing else."""
        asked = [self.filters[name] for name in filters]
        are_ranges = all(each.operator in _RANGE for each in asked)
        return are_ranges and len({each.column for each in asked}) == 1 and not self._casts

    def _range_ids(self, filters: Sequence[str]) -> SelectBase:
        """Return the ids of a page of a range, of which SQLite does not know how much is in it.

        By itself it would take all of them from the index and sort them, be it the whole table.
        That is good for few; where there are more, a walk along the table soon finds the next ones.
        """
        ranges = {n: self.table.c[self.filters[n].column] for n in filters if n != AFTER}
        some = select(self.key).where(*(self._condition(n, of) for n, of in ranges.items()))
        some = some.limit(literal_column(f"{_FEW} + 1")).offset(ZERO)
        few = some.subquery("_few")
        are_few = select(func.count() <= literal_column(str(_FEW))).select_from(few)
        limit, offset = self._number("limit") + ONE, self._number("offset")

        def page(
            key: ColumnElement[Any],
            conditions: Iterable[ColumnElement[bool]],
            limit: ColumnElement[int],
        ) -> Select[Any]:
            after = [self._condition(AFTER, key)] if AFTER in filters else []
            ids = select(key).where(*conditions, *after).order_by(key)
            return select(ids.limit(limit).offset(offset).subquery())

        # A plus before a column keeps SQLite from its index.
        along = (self._condition(n, _plus(of)) for n, of in ranges.items())
        is_small = are_few.scalar_subquery()
        return union_all(
            page(few.c.id, (), case((is_small, limit), else_=ZERO)),
            page(self.key, along, case((is_small, ZERO), else_=limit)),
        )

    def _is_one_of_ids(self) -> ColumnElement[bool]:
        return self.key.in_(select(_each("ids").c.value))

    def _has_triggers(self) -> ColumnElement[Any]:
        schema = table("sqlite_master", column("type", Text), column("tbl_name", Text))
        return exists().where(
            schema.c.type == text("trigger"),
            func.lower(schema.c.tbl_name) == text(self.table.name.lower()),
        )

    def _create(self) -> ClauseElement:
        """Insert under the ids that follow the last one that was given, in the items' order."""
        items = _each("items")
        last: ColumnElement[Any] = func.coalesce(select(func.max(self.key)).scalar_subquery(), ZERO)
        if self._has_sequence:
            sequence = table("sqlite_sequence", column("name", Text), column("seq", BigInteger))
            drawn = select(func.max(sequence.c.seq)).where(sequence.c.name == text(self.table.name))
            last = func.max(last, func.coalesce(drawn.scalar_subquery(), ZERO))
        values = {name: _item(items, name) for name in self.names if name != self.key.name}
        row_id = last + ONE + items.c.key
        source = select(row_id, *values.values()).where(literal_column("true"))
        insert = self.table.insert().from_select([self.key.name, *values], source)
        return insert.returning(self.key, self.json(self.table), self._has_triggers())

    def _create_chosen(self) -> ClauseElement:
        items = _each("items")
        source = select(*(_item(items, name) for name in self.names)).where(literal_column("true"))
        insert = sqlite.insert(self.table).from_select(self.names, source)
        insert = insert.on_conflict_do_nothing(index_elements=[self.key])
        return insert.returning(self.key, self.json(self.table), self._has_triggers())

    def _update(self) -> ClauseElement:
        items = _each("items")
        values = {
            name: case(
                (func.json_type(items.c.value, _path(name)).is_(None), self.table.c[name]),
                else_=_item(items, name),
            )
            for name in self.names
            if name != self.key.name
        }
        update = self.table.update().values(values).where(self.key == _item(items, self.key.name))
        return update.returning(self.key, true(), self.json(self.table), self._has_triggers())

    def _delete(self) -> ClauseElement:
        return self.table.delete().where(self._is_one_of_ids()).returning(self.key, true())

    def _lock(self, **_: object) -> str:
        # It takes the file's one lock, which a session that a test put in may not have yet.
        return self.probe


def _plus(of: ColumnElement[Any]) -> ColumnElement[Any]:
    return UnaryExpression(of, operator=operators.custom_op("+"), type_=of.type)


def _each(name: str) -> TableValuedAlias:
    return func.json_each(bindparam(name, type_=Text())).table_valued("key", "value")


def _path(name: str) -> ColumnElement[Any]:
    return text(f"$.{json.dumps(name)}")


def _item(items: TableValuedAlias, name: str) -> ColumnElement[Any]:
    return func.json_extract(items.c.value, _path(name))
