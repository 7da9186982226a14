"""The statements of a table in PostgreSQL."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json
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
    SelectBase,
    Table,
    Text,
    and_,
    any_,
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
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

from hero_api.database.columns import Kind, kind_of
from hero_api.database.keys import KEYS
from hero_api.database.pages import MAX_CHOSEN_ID
from hero_api.database.statements import (
    BETWEEN,
    DAMAGED,
    FROM_PLACE,
    ONE,
    ZERO,
    Filter,
    Statements,
    Stored,
    text,
)
from hero_api.errors import RefusedError

# The key of the lock that orders whoever makes a table or moves its sequence: "hero" in ASCII.
LOCK = 0x6865726F
# The name of a setting of ours: how many milliseconds a batch waits for what one item needs.
PATIENCE = "hero_api.patience"
# Of an item: its place in its batch, its idempotency key, and a hash of what was sent with it.
_POSITION, _KEY, _FINGERPRINT = "_position", "_key", "_fingerprint"


class PostgreSQLStatements(Statements):
    """The statements of a table in PostgreSQL.

    Parameters are sent as text: the casts say what they are, whatever their size, so that each
    statement is prepared once. nextval and setval alone would race: who draws ids holds the
    advisory lock shared until its COMMIT, and who stores chosen ids, and may have to move the
    sequence past them, holds it alone. A row that somebody else has locked is skipped.
    """

    dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]
    look = "SELECT to_regclass('hero_api_idempotency') IS NOT NULL"
    array = "{{{}}}"
    skips_locked = reads_mixtures = True

    def __init__(self, of: Table, filters: Mapping[str, Filter], found: Sequence[Any] = ()) -> None:
        super().__init__(of, filters, found)
        self.probe = self.create  # without items: it meets all that a create would
        self.catch_up = self.compile(self._catch_up())
        if self.keys:
            self.create_kept = self.compile(self._create(keeps=True))

    def json(self, of: FromClause) -> ColumnElement[Any]:
        """Return a row as JSON text; nothing where it holds a float that JSON cannot."""
        row = cast(func.row_to_json(of.table_valued()), Text)  # type: ignore[attr-defined]
        names = [name for name in self.names if kind_of(self.table.c[name]) is Kind.FLOAT]
        if not names:
            return row
        # NaN is greater than any other.
        is_finite = (func.abs(of.c[name]) < literal_column("'Infinity'") for name in names)
        return case((and_(*(func.coalesce(each, true()) for each in is_finite)), row))

    def match(self, rows: Sequence[Any], count: int) -> Sequence[Stored]:
        """Say what `create` made of its items; each row has the position of one."""
        order = [(number, drawn) for _, drawn, number, *_ in rows if number is not None]
        if (
            len(rows) != count
            or any(position is None for position, *_ in rows)
            or not all(number is not None or is_taken for _, _, number, _, is_taken, _ in rows)
            # A trigger has exchanged ids.
            or [drawn for _, drawn in sorted(order)] != sorted(drawn for _, drawn in order)
        ):
            raise RefusedError
        return [
            Stored(position, drawn, body, number is not None, has_triggers)
            for position, drawn, number, body, _, has_triggers in rows
        ]

    def cut(self, rows: str | None, found: int | None, limit: int) -> tuple[str, int | None]:
        """Cut off the row that only shows that there are more: to look for it costs a quarter."""
        if rows is None or found is None or found <= limit:
            return rows or "", None
        rows = rows.rpartition(BETWEEN)[0]
        last = rows.rpartition(BETWEEN)[2]
        return rows, from_json(last)["id"] if last.strip(DAMAGED) else None

    def _found(
        self, page: FromClause, _filters: Sequence[str]
    ) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
        ordered = postgresql.aggregate_order_by(text(BETWEEN), page.c.id)
        rows = func.coalesce(self.json(page), text(DAMAGED))
        return func.string_agg(rows, ordered), func.count()

    def _place(self, filters: Sequence[str]) -> SelectBase | None:
        return None if filters else self._start(filters)

    def _rows(self, filters: Sequence[str]) -> Select[Any]:
        rows, more = select(*self.table.columns), self._number("limit") + ONE
        if not filters:
            return self._page(rows, literal_column(FROM_PLACE), ZERO, more)
        return self._page(rows, self._conditions(filters), self._number("offset"), more)

    def _parameter(self, name: str, its_type: TypeEngine[Any]) -> ColumnElement[Any]:
        return cast(bindparam(f"{name}@", type_=Text(), required=True), its_type)

    def _is_one_of_ids(self) -> ColumnElement[bool]:
        # An array and no rows of JSON: of those PostgreSQL expects a hundred, and reads the table.
        return self.key == any_(cast(bindparam("ids", type_=Text()), ARRAY(BigInteger)))

    def _has_triggers(self) -> ColumnElement[Any]:
        triggers = table("pg_trigger", column("tgrelid"), column("tgisinternal", Boolean))
        of: ColumnElement[Any] = literal_column(f"CAST('{self.table.name}' AS regclass)")
        return exists().where(triggers.c.tgrelid == of, ~triggers.c.tgisinternal)

    def _locked(self, *, chosen: bool) -> CTE:
        """Take the advisory lock; what is waited for behind it concerns single items.

        It has the sequence, too, which takes as long to find as an id to draw.
        """
        lock = func.pg_advisory_xact_lock if chosen else func.pg_advisory_xact_lock_shared
        sequence = self._sequence().label("sequence")
        source = select(lock(literal_column(str(LOCK))), sequence, *_impatience())
        return _materialized(source, "_locked")

    def _records(self, *columns: ColumnElement[Any]) -> TableValuedAlias:
        """Return the JSON objects as rows of the table's own columns and types."""
        typed = [column(each.name, each.type) for each in self.table.columns]
        items = func.json_to_recordset(cast(bindparam("items", type_=Text()), JSON))
        return items.table_valued(*columns, *typed).render_derived(name="_item", with_types=True)

    def _sequence(self) -> ColumnElement[Any]:
        name = func.pg_get_serial_sequence(text(self.table.name), text(self.key.name))
        return cast(name, postgresql.REGCLASS)

    def _create(self, *, keeps: bool = False) -> ClauseElement:
        more = [column(_KEY, Text), column(_FINGERPRINT, Text)] if keeps else []
        locked = self._locked(chosen=False)
        records = self._records(column(_POSITION, Integer), *more)
        others = [name for name in self.names if name != self.key.name]
        draw = func.nextval(locked.c.sequence, type_=BigInteger).label(self.key.name)
        item = _materialized(
            select(
                records.c[_POSITION],
                draw,
                *(records.c[name] for name in others),
                *(records.c[each.name] for each in more),
            ).select_from(locked, records),
            "_drawn",
        )
        stored = self._insert(select(*(item.c[name] for name in self.names)))
        # In the order in which they were stored, in which the ids were drawn.
        numbered = select(*stored.c, func.row_number().over().label(_POSITION)).cte("_numbered")
        # As it was before this statement: what a trigger has stored itself was not taken. It is not
        # EXISTS, for which PostgreSQL may hash the ids of the whole table.
        is_taken = select(self.key).where(self.key == item.c.id).scalar_subquery().is_not(None)
        created = select(
            item.c[_POSITION],
            item.c.id,
            numbered.c[_POSITION],
            self.json(stored),
            is_taken,
            self._has_triggers(),
        ).select_from(
            item.join(numbered, item.c.id == numbered.c.id, full=True).outerjoin(
                stored, stored.c.id == numbered.c.id
            )
        )
        return created.add_cte(self._keep(item, stored)) if keeps else created

    def _keep(self, item: CTE, stored: CTE) -> CTE:
        """Keep the keys of what was stored, but for what triggers may change since."""
        key = item.c[_KEY]
        is_free = func.pg_try_advisory_xact_lock(func.hashtext(text(KEYS.name)), func.hashtext(key))
        kept = {
            KEYS.c.key: case((is_free, key)),  # else it is NULL, and refused
            KEYS.c.noun: text(self.table.name),
            KEYS.c.fingerprint: item.c[_FINGERPRINT],
            KEYS.c.row_id: stored.c.id,
            KEYS.c.answer: self.json(stored),
            KEYS.c.created: cast(bindparam("now", type_=Text()), BigInteger),
        }
        source = select(*kept.values()).select_from(item.join(stored, item.c.id == stored.c.id))
        return KEYS.insert().from_select([*kept], source.where(~self._has_triggers())).cte("_kept")

    def _create_chosen(self) -> ClauseElement:
        locked, records = self._locked(chosen=True), self._records()
        source = select(*(records.c[name] for name in self.names)).select_from(locked, records)
        stored = self._insert(source)
        sequence = self._sequence()
        behind = func.greatest(
            func.nextval(sequence, type_=BigInteger), func.max(stored.c.id) + ONE
        )
        moved = _materialized(
            select(func.setval(sequence, behind, literal_column("false")))
            .select_from(stored)
            .having(func.count() > ZERO),
            "_moved",
        )
        return select(stored.c.id, self.json(stored), self._has_triggers()).select_from(
            stored, moved
        )

    def _catch_up(self) -> ClauseElement:
        """Set the sequence behind the ids of the table."""
        locked, sequence = self._locked(chosen=True), self._sequence()
        last = select(func.max(self.key)).where(self.key <= literal_column(str(MAX_CHOSEN_ID)))
        following = func.greatest(
            func.nextval(sequence, type_=BigInteger), last.scalar_subquery() + ONE
        )
        moved = func.setval(sequence, following, literal_column("false"))
        return select(moved).select_from(locked)

    def _insert(self, source: Select[Any]) -> CTE:
        insert = postgresql.insert(self.table).from_select(self.names, source)
        insert = insert.on_conflict_do_nothing(index_elements=[self.key])
        return insert.returning(*self.table.columns).cte("_stored")

    def _update(self) -> ClauseElement:
        items = func.json_array_elements(cast(bindparam("items", type_=Text()), JSON))
        each = items.table_valued(column("value", JSON)).render_derived(name="_item")
        found = (
            select(self.key.label("locked"), each.c.value, *_impatience())
            .select_from(each.join(self.table, self.key == cast(_field(each, "id"), BigInteger)))
            .where(self._is_one_of_ids())
            .order_by(self.key)
            .with_for_update(of=self.table, key_share=True, skip_locked=True)
            .cte("_found")
        )
        values = {
            name: case(
                (found.c.value.op("->")(text(name)).is_(None), self.table.c[name]),
                else_=cast(_field(found, name), self.table.c[name].type),
            )
            for name in self.names
            if name != self.key.name
        }
        update = self.table.update().values(values).where(self.key == found.c.locked)
        updated = update.returning(*self.table.columns).cte("_updated")
        return select(
            found.c.locked, updated.c.id.is_not(None), self.json(updated), self._has_triggers()
        ).select_from(found.outerjoin(updated, updated.c.id == found.c.locked))

    def _delete(self) -> ClauseElement:
        found = (
            select(self.key.label("locked"), *_impatience())
            .where(self._is_one_of_ids())
            .order_by(self.key)
            .with_for_update(of=self.table, skip_locked=True)
            .cte("_found")
        )
        delete = self.table.delete().where(self.key == found.c.locked).returning(self.key)
        deleted = delete.cte("_deleted")
        return select(found.c.locked, deleted.c.id.is_not(None)).select_from(
            found.outerjoin(deleted, deleted.c.id == found.c.locked)
        )

    def _lock(self, *, chosen: bool | None, wait: bool) -> str:
        rows = select(self.key).where(self._is_one_of_ids()).order_by(self.key)
        if chosen is not None:
            locked = self._locked(chosen=chosen)
            # Also where there is no row to lock.
            rows = rows.where(exists(select(ONE).select_from(locked)))
        # A row that others refer to meanwhile can be changed, but not deleted.
        rows = rows.with_for_update(of=self.table, key_share=not wait, skip_locked=not wait)
        return self.compile(rows)


def _field(items: FromClause, name: str) -> ColumnElement[Any]:
    return items.c.value.op("->>")(text(name))


def _materialized(source: Select[Any], name: str) -> CTE:
    return source.cte(name).prefix_with("MATERIALIZED")


def _impatience() -> list[ColumnElement[Any]]:
    # On an engine of somebody else's there is no such setting.
    ours = func.current_setting(text(PATIENCE), true())
    timeout = func.coalesce(ours, func.current_setting(text("lock_timeout")))
    patience = func.set_config(text("lock_timeout"), timeout, literal_column("true"))
    return [patience.label("patience")]
