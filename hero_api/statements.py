"""The SQL of a table, built from its columns and compiled once for each engine.

A statement takes its items as one JSON array of objects, keyed by column, so that it is compiled
once for batches of every size, and renders rows as JSON: none becomes an object on its way to a
client.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    CTE,
    JSON,
    BigInteger,
    Boolean,
    ClauseElement,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    String,
    Table,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    column,
    exists,
    false,
    func,
    literal_column,
    null,
    select,
    table,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

# The key of the lock that orders whoever makes a table or moves its sequence: "hero" in ASCII.
LOCK = 0x6865726F
_ROW_PATIENCE = "200"  # milliseconds that a batch waits for what one of its items needs
_POSITION = "_position"  # of an item in its batch
_ZERO: ColumnElement[Any] = literal_column("0")
_ONE: ColumnElement[Any] = literal_column("1")


class Filter(NamedTuple):
    """A filter of pages: the column and the operator that its parameter is compared with."""

    column: str
    operator: str


class Shape(NamedTuple):
    """What the SELECT of a page depends on: which filters it has, and whether it counts."""

    filters: tuple[str, ...]
    counts: bool


class Stored(NamedTuple):
    """What became of an item: its row, or the id that was drawn for it in vain."""

    position: int
    row_id: int
    body: str | None
    is_stored: bool
    has_triggers: bool  # which may have changed the row since


PLAIN = Shape((), counts=False)
AFTER = "after"


class Statements:
    """The statements of one table on one engine; each is the string that the driver gets.

    `filters` are those of its pages, by the names of their parameters.
    """

    dialect: Dialect
    skips_locked = False

    def __init__(self, of: Table, filters: Mapping[str, Filter]) -> None:
        self.table = of
        self.key = of.c.id
        self.names = [column.name for column in of.columns]
        self.filters = {**filters, AFTER: Filter("id", ">")}
        rows = select(*of.columns).where(self._is_one_of_ids()).subquery("found")
        self.get = self.compile(select(rows.c.id, self.json(rows)))
        self.exist = self.compile(select(self.key).where(self._is_one_of_ids()))
        self.create = self.compile(self._create())
        self.create_chosen = self.compile(self._create_chosen())
        self.update = self.compile(self._update())
        self.delete = self.compile(self._delete())
        unchanged = {each.name: each for each in of.columns if each is not self.key}
        self.probe = self.compile(of.update().values(unchanged).where(false()))
        self._start = self.compile(self._walk())
        self._fragment = cache(self._compile_page)
        self.pages = lru_cache(maxsize=512)(self._compile_pages)

    def compile(self, statement: ClauseElement) -> str:
        """Return the text of a statement in the driver's own style of parameters."""
        return str(statement.compile(dialect=self.dialect))

    def json(self, of: FromClause) -> ColumnElement[Any]:
        """Return a row as JSON text; nothing where it holds what JSON cannot."""
        raise NotImplementedError

    def ids(self, ids: Iterable[int]) -> str:
        """Return ids as the parameter `ids` has them."""
        raise NotImplementedError

    def match(self, rows: Sequence[Any], count: int) -> Sequence[Stored] | None:
        """Say what `create` made of its `count` items, from its rows; nothing if nobody knows."""
        raise NotImplementedError

    def _compile_pages(self, shapes: tuple[Shape, ...]) -> str:
        """Return one statement that reads several pages, a row each, from one snapshot.

        Plain pages, in the order of their offsets, share one walk along the table: each starts from
        where the one before it starts, and its offset counts from there.
        """
        starts, selects = [], []
        start = "true"
        for index, shape in enumerate(shapes):
            number = f"_{index}"
            if shape == PLAIN:
                walk = self._start.replace("(@start)", start).replace("_N", number)
                starts.append(f"start_{index} (id) AS MATERIALIZED ({walk})")
                start = f"id >= (SELECT id FROM start_{index})"
            page = self._fragment(shape).replace("(@start)", start).replace("_N", number)
            selects.append(page.replace("@", str(index), 1))
        with_ = f"WITH {', '.join(starts)} " if starts else ""
        return with_ + " UNION ALL ".join(selects)

    def _compile_page(self, shape: Shape) -> str:
        """Return the SELECT of one page; `@` stands for its number, and `_N` too."""
        total: ColumnElement[Any] = null()
        if shape.counts:
            counted = self._conditions(name for name in shape.filters if name != AFTER)
            total = select(func.count()).select_from(self.table).where(counted).scalar_subquery()
        if shape == PLAIN:
            page = self._page(literal_column("(@start)"), _ZERO)
        else:
            offset = self._parameter("offset", BigInteger())
            page = self._page(self._conditions(shape.filters), offset)
        rows = page.subquery("page")
        return self.compile(
            select(
                literal_column("@"),
                self._joined(rows),
                func.count(),
                func.max(rows.c.id),
                cast(total, BigInteger),
                self._sound(rows),
            )
        )

    def _page(self, condition: ColumnElement[Any], offset: ColumnElement[Any]) -> Select[Any]:
        limit = self._parameter("limit", BigInteger())
        columns = select(*self.table.columns)
        return columns.where(condition).order_by(self.key).limit(limit).offset(offset)

    def _walk(self) -> Select[Any]:
        start = select(self.key).where(literal_column("(@start)")).order_by(self.key)
        return start.limit(_ONE).offset(self._parameter("offset", BigInteger()))

    def _conditions(self, names: Iterable[str]) -> ColumnElement[bool]:
        conditions = []
        for name in names:
            its_column, operator = self.filters[name]
            compared = self.table.c[its_column]
            # A number may be out of the bounds of its column.
            whole = isinstance(compared.type, Integer)
            parameter = self._parameter(name, BigInteger() if whole else compared.type)
            conditions.append(compared.op(operator, is_comparison=True)(parameter))
        return and_(true(), *conditions)

    def _parameter(self, name: str, its_type: TypeEngine[Any]) -> ColumnElement[Any]:
        return bindparam(f"{name}_N", type_=its_type, required=True)

    def _joined(self, page: FromClause) -> ColumnElement[Any]:
        raise NotImplementedError

    def _sound(self, page: FromClause) -> ColumnElement[Any]:
        raise NotImplementedError

    def _is_one_of_ids(self) -> ColumnElement[bool]:
        raise NotImplementedError

    def _has_triggers(self) -> ColumnElement[Any]:
        """Say whether what RETURNING shows may not be what the row holds at the end."""
        raise NotImplementedError

    def _create(self) -> ClauseElement:
        raise NotImplementedError

    def _create_chosen(self) -> ClauseElement:
        raise NotImplementedError

    def _update(self) -> ClauseElement:
        raise NotImplementedError

    def _delete(self) -> ClauseElement:
        raise NotImplementedError


class SQLiteStatements(Statements):
    """The statements of a table in SQLite.

    `has_sequence` is whether the table has AUTOINCREMENT, `casts` whether its text columns are of
    a type that SQLite does not take for text, such as STRING.
    """

    dialect = sqlite.dialect(paramstyle="named")

    def __init__(
        self,
        of: Table,
        filters: Mapping[str, Filter],
        *,
        has_sequence: bool = True,
        casts: bool = False,
    ) -> None:
        self._has_sequence = has_sequence
        self._casts = casts
        super().__init__(of, filters)

    def json(self, of: FromClause) -> ColumnElement[Any]:
        """Return a row as JSON text; nothing where it holds what JSON cannot."""
        pairs = [part for name in self.names for part in (_text(name), self._value(of, name))]
        return case((self._is_sound(of), func.json_object(*pairs)))

    def ids(self, ids: Iterable[int]) -> str:
        """Return ids as the parameter `ids` has them: a JSON array."""
        return f"[{','.join(map(str, ids))}]"

    def match(self, rows: Sequence[Any], count: int) -> Sequence[Stored] | None:
        """Say what `create` made of its items: the ids that it draws stand in their order."""
        drawn = sorted(rows)
        if len(drawn) != count or (count and drawn[-1][0] - drawn[0][0] != count - 1):
            return None
        return [
            Stored(position, row_id, body, is_stored=True, has_triggers=bool(has_triggers))
            for position, (row_id, body, has_triggers) in enumerate(drawn)
        ]

    def _value(self, of: FromClause, name: str) -> ColumnElement[Any]:
        its_type = self.table.c[name].type
        if isinstance(its_type, Boolean):
            words = case((of.c[name], _text("true")), (~of.c[name], _text("false")))
            return func.json(func.coalesce(words, _text("null")))
        return (
            cast(of.c[name], Text) if self._casts and isinstance(its_type, String) else of.c[name]
        )

    def _is_sound(self, of: FromClause) -> ColumnElement[bool]:
        """Say whether a row holds what its columns can: a BLOB makes json_object itself fail."""
        conditions = []
        for its_column in self.table.columns:
            kind = func.typeof(of.c[its_column.name])
            if isinstance(its_column.type, String) and self._casts:
                conditions.append(kind != _text("blob"))
            elif isinstance(its_column.type, Integer) and not its_column.primary_key:
                conditions.append(kind.in_([_text("integer"), _text("null")]))
        return and_(true(), *conditions)

    def _joined(self, page: FromClause) -> ColumnElement[Any]:
        return func.group_concat(self.json(page))

    def _sound(self, page: FromClause) -> ColumnElement[Any]:
        return func.count(case((self._is_sound(page), _ONE)))

    def _page(self, condition: ColumnElement[Any], offset: ColumnElement[Any]) -> Select[Any]:
        if offset is _ZERO:
            return super()._page(condition, offset)
        # Where SQLite sorts what an index found, it sorts ids, in memory, and not whole rows.
        ids = select(self.key).where(condition).order_by(self.key)
        ids = ids.limit(self._parameter("limit", BigInteger())).offset(offset)
        rows = select(*self.table.columns).where(self.key.in_(ids)).order_by(self.key)
        # The limit keeps them in order: SQLite may drop the order of a plain subquery.
        return rows.limit(self._parameter("limit", BigInteger())).offset(_ZERO)

    def _is_one_of_ids(self) -> ColumnElement[bool]:
        return self.key.in_(select(_each("ids").c.value))

    def _has_triggers(self) -> ColumnElement[Any]:
        schema = table("sqlite_master", column("type", Text), column("tbl_name", Text))
        return exists().where(
            schema.c.type == _text("trigger"),
            func.lower(schema.c.tbl_name) == _text(self.table.name.lower()),
        )

    def _create(self) -> ClauseElement:
        """Insert under the ids that follow the last one that was given, in the items' order."""
        items = _each("items")
        last: ColumnElement[Any] = func.coalesce(
            select(func.max(self.key)).scalar_subquery(), _ZERO
        )
        if self._has_sequence:
            sequence = table("sqlite_sequence", column("name", Text), column("seq", BigInteger))
            drawn = select(func.max(sequence.c.seq)).where(
                sequence.c.name == _text(self.table.name)
            )
            last = func.max(last, func.coalesce(drawn.scalar_subquery(), _ZERO))
        values = {name: _item(items, name) for name in self.names if name != self.key.name}
        row_id = last + _ONE + items.c.key
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
        return update.returning(self.key, self.json(self.table), self._has_triggers())

    def _delete(self) -> ClauseElement:
        return self.table.delete().where(self._is_one_of_ids()).returning(self.key)


class PostgreSQLStatements(Statements):
    """The statements of a table in PostgreSQL.

    Parameters are sent as text: the casts say what they are, whatever their size, so that each
    statement is prepared once. nextval and setval alone would race: who draws ids holds the
    advisory lock shared until its COMMIT, and who stores chosen ids, and may have to move the
    sequence past them, holds it alone. A row that somebody else has locked is skipped.
    """

    dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]
    skips_locked = True

    def __init__(self, of: Table, filters: Mapping[str, Filter]) -> None:
        super().__init__(of, filters)
        # By whether ids are drawn (False) or chosen (True), or neither (None), and whether to wait.
        self._locks = {
            (chosen, wait): self.compile(self._lock(chosen=chosen, wait=wait))
            for chosen in (None, False, True)
            for wait in (False, True)
        }

    def lock(self, *, chosen: bool | None, wait: bool) -> str:
        """Return what locks rows by their ids, behind the lock that drawn or chosen ids need."""
        return self._locks[chosen, wait]

    def json(self, of: FromClause) -> ColumnElement[Any]:
        """Return a row as JSON text."""
        return cast(func.row_to_json(of.table_valued()), Text)  # type: ignore[attr-defined]

    def ids(self, ids: Iterable[int]) -> str:
        """Return ids as the parameter `ids` has them: an array of PostgreSQL."""
        return f"{{{','.join(map(str, ids))}}}"

    def match(self, rows: Sequence[Any], count: int) -> Sequence[Stored] | None:
        """Say what `create` made of its items; each row has the position of one."""
        if any(position is None for position, *_ in rows) or len(rows) != count:
            return None  # one was stored under an id that nobody drew
        return [
            Stored(position, drawn, body, stored is not None, has_triggers)
            for position, drawn, stored, body, has_triggers in rows
        ]

    def _joined(self, page: FromClause) -> ColumnElement[Any]:
        ordered = postgresql.aggregate_order_by(_text(","), page.c.id)
        return func.string_agg(self.json(page), ordered)

    def _sound(self, _page: FromClause) -> ColumnElement[Any]:
        return func.count()

    def _parameter(self, name: str, its_type: TypeEngine[Any]) -> ColumnElement[Any]:
        return cast(bindparam(f"{name}_N", type_=Text(), required=True), its_type)

    def _is_one_of_ids(self) -> ColumnElement[bool]:
        # An array and no rows of JSON: of those PostgreSQL expects a hundred, and reads the table.
        return self.key == any_(cast(bindparam("ids", type_=Text()), ARRAY(BigInteger)))

    def _has_triggers(self) -> ColumnElement[Any]:
        triggers = table("pg_trigger", column("tgrelid"), column("tgisinternal", Boolean))
        of: ColumnElement[Any] = literal_column(f"CAST('{self.table.name}' AS regclass)")
        return exists().where(triggers.c.tgrelid == of, ~triggers.c.tgisinternal)

    def _locked(self, *, chosen: bool) -> CTE:
        """Take the advisory lock; what is waited for behind it concerns single items."""
        lock = func.pg_advisory_xact_lock if chosen else func.pg_advisory_xact_lock_shared
        return _materialized(select(lock(literal_column(str(LOCK))), *_impatience()), "locked")

    def _records(self, *columns: ColumnElement[Any]) -> TableValuedAlias:
        """Return the JSON objects as rows of the table's own columns and types."""
        typed = [column(each.name, each.type) for each in self.table.columns]
        items = func.json_to_recordset(cast(bindparam("items", type_=Text()), JSON))
        return items.table_valued(*columns, *typed).render_derived(name="item", with_types=True)

    def _sequence(self) -> ColumnElement[Any]:
        return func.pg_get_serial_sequence(_text(self.table.name), _text(self.key.name))

    def _create(self) -> ClauseElement:
        locked, records = self._locked(chosen=False), self._records(column(_POSITION, Integer))
        others = [name for name in self.names if name != self.key.name]
        draw = func.nextval(self._sequence(), type_=BigInteger).label(self.key.name)
        item = _materialized(
            select(records.c[_POSITION], draw, *(records.c[name] for name in others)).select_from(
                locked, records
            ),
            "drawn",
        )
        stored = self._insert(select(*(item.c[name] for name in self.names)))
        return select(
            item.c[_POSITION], item.c.id, stored.c.id, self.json(stored), self._has_triggers()
        ).select_from(item.join(stored, item.c.id == stored.c.id, full=True))

    def _create_chosen(self) -> ClauseElement:
        locked, records = self._locked(chosen=True), self._records()
        source = select(*(records.c[name] for name in self.names)).select_from(locked, records)
        stored = self._insert(source)
        sequence = self._sequence()
        behind = func.greatest(
            func.nextval(sequence, type_=BigInteger), func.max(stored.c.id) + _ONE
        )
        moved = _materialized(
            select(func.setval(sequence, behind, literal_column("false")))
            .select_from(stored)
            .having(func.count() > _ZERO),
            "moved",
        )
        return select(stored.c.id, self.json(stored), self._has_triggers()).select_from(
            stored, moved
        )

    def _insert(self, source: Select[Any]) -> CTE:
        insert = postgresql.insert(self.table).from_select(self.names, source)
        insert = insert.on_conflict_do_nothing(index_elements=[self.key])
        return insert.returning(*self.table.columns).cte("stored")

    def _update(self) -> ClauseElement:
        items = func.json_array_elements(cast(bindparam("items", type_=Text()), JSON))
        each = items.table_valued(column("value", JSON)).render_derived(name="item")
        found = (
            select(self.key.label("locked"), each.c.value, *_impatience())
            .select_from(each.join(self.table, self.key == cast(_field(each, "id"), BigInteger)))
            .where(self._is_one_of_ids())
            .order_by(self.key)
            .with_for_update(of=self.table, skip_locked=True)
            .subquery("found")
        )
        values = {
            name: case(
                (found.c.value.op("->")(_text(name)).is_(None), self.table.c[name]),
                else_=cast(_field(found, name), self.table.c[name].type),
            )
            for name in self.names
            if name != self.key.name
        }
        update = self.table.update().values(values).where(self.key == found.c.locked)
        updated = update.returning(*self.table.columns).cte("updated")
        return select(updated.c.id, self.json(updated), self._has_triggers())

    def _delete(self) -> ClauseElement:
        found = (
            select(self.key.label("locked"), *_impatience())
            .where(self._is_one_of_ids())
            .order_by(self.key)
            .with_for_update(of=self.table, skip_locked=True)
            .subquery("found")
        )
        return self.table.delete().where(self.key == found.c.locked).returning(self.key)

    def _lock(self, *, chosen: bool | None, wait: bool) -> ClauseElement:
        rows = select(self.key).where(self._is_one_of_ids()).order_by(self.key)
        if chosen is not None:
            locked = self._locked(chosen=chosen)
            # Also where there is no row to lock.
            rows = rows.where(exists(select(_ONE).select_from(locked)))
        return rows.with_for_update(of=self.table, skip_locked=not wait)


def _text(value: str) -> ColumnElement[Any]:
    """Return text as part of the statement: keys of JSON are no parameters."""
    quoted = value.replace("'", "''")
    return literal_column(f"'{quoted}'", Text())


def _each(name: str) -> TableValuedAlias:
    return func.json_each(bindparam(name, type_=Text())).table_valued("key", "value")


def _path(name: str) -> ColumnElement[Any]:
    return _text(f"$.{json.dumps(name)}")


def _item(items: TableValuedAlias, name: str) -> ColumnElement[Any]:
    return func.json_extract(items.c.value, _path(name))


def _field(items: FromClause, name: str) -> ColumnElement[Any]:
    return items.c.value.op("->>")(_text(name))


def _materialized(source: Select[Any], name: str) -> CTE:
    return source.cte(name).prefix_with("MATERIALIZED")


def _impatience() -> list[ColumnElement[Any]]:
    patience = func.set_config(_text("lock_timeout"), _text(_ROW_PATIENCE), literal_column("true"))
    return [patience.label("patience")]
