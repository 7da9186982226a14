"""What can be done with the rows of a table: batch functions, and the calls that batch them."""

import json
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from datetime import UTC, datetime
from functools import cache, partial
from operator import attrgetter
from time import time
from typing import Any, Generic, NamedTuple, TypeGuard, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json
from sqlalchemy import Table
from sqlmodel import SQLModel

from hero_api.batching import BatchFunction, Item, QueueSpec, R, batched
from hero_api.database.columns import RENDERED, Kind, kind_of
from hero_api.database.keys import KEPT, KEY_STATEMENTS, KEYS, KeyStatements
from hero_api.database.pages import Page
from hero_api.database.postgresql.statements import PostgreSQLStatements
from hero_api.database.sessions import (
    STATEMENTS,
    ReadOnlySession,
    ReadWriteSession,
    check_constraints,
    fetch,
)
from hero_api.database.sqlite.statements import SQLiteStatements
from hero_api.database.statements import (
    AFTER,
    BETWEEN,
    Filter,
    Shape,
    Statements,
)
from hero_api.database.verdicts import Concerns, judge
from hero_api.errors import (
    ContendedError,
    DamagedRowError,
    DeletedSinceError,
    FaultError,
    KeyReusedError,
    LinesRefusedError,
    NoKeysError,
    NotFoundError,
    RefusedError,
    RowLockedError,
    ServiceError,
    StaleError,
    TakenError,
    UnavailableError,
    UnfitError,
)
from hero_api.etags import tag_of

_DEEP = 10_000  # rows: a page that skips more of them is a scan
_HAS_SEQUENCE = "SELECT count(*) FROM sqlite_master WHERE name = 'sqlite_sequence'"
_TYPES = "SELECT name, type FROM pragma_table_info(:table)"
_DRAWS = 1_000  # at most, for an id that others have not taken past the sequence
_NONE = SQLModel()
_DAY = 86_400.0

# Whatever writes waits in one queue: there is one writing connection, and one sync for a batch.
WRITES = QueueSpec("write", writes=True)
PROBES = QueueSpec("probe")

Create = TypeVar("Create", bound=BaseModel)
Update = TypeVar("Update", bound=BaseModel)


class Listed(NamedTuple):
    """A page: a JSON array; after which id the next one starts, if any; the total, if counted."""

    body: str
    next_after: int | None
    total: int | None

    @property
    def lines(self) -> str:
        """The page as JSON Lines."""
        rows = self.body[1:-1]
        return rows and rows.replace(BETWEEN, "\n") + "\n"


class Created(NamedTuple):
    """A row that was stored, now or before under the same key: its id, and its JSON object then."""

    id: int
    body: str
    is_replay: bool = False


class CreatedRows(NamedTuple):
    """Rows that were stored together, now or before under the same key: their JSON objects."""

    bodies: Sequence[str]
    is_replay: bool = False


Rows = Mapping[int, BaseModel]  # to be stored together, by the numbers of their lines


class Keyed(NamedTuple):
    """A row, or several, to be stored once, however often they are sent with this key."""

    key: str
    content: BaseModel | Rows


class Change(NamedTuple):
    """A change of one row: the fields that were sent, none where it is to be deleted.

    Where there are `tags`, the row must have one of them before it.
    """

    id: int
    fields: BaseModel
    tags: Collection[str] | None


class Storage(Generic[Create, Update]):
    """The rows of a table, whose primary key is an integer `id`.

    `filters` are those of its pages: each is a field of the `Page` that is listed. Batch functions
    take a session and a sequence of items, and return a result, or an error, for each. Calls take
    one item, raise its error, and share batches: all tables' changes in one queue, and reads of
    each kind in queues of their own.
    """

    def __init__(
        self,
        model: type[SQLModel],
        *,
        filters: Mapping[str, Filter],
        public: type[BaseModel],
    ) -> None:
        self.table: Table = model.metadata.tables[str(model.__tablename__)]
        self._noun = self.table.name
        # The database renders rows as `public` would, but for floats, dates and times.
        kinds = {kind_of(column) for column in self.table.columns}
        self._public = None if kinds <= RENDERED else TypeAdapter(public)
        self._names = (*filters, AFTER)
        # The text of the statements is the same for all databases of one kind.
        self._on_postgresql = cache(partial(PostgreSQLStatements, self.table, filters))
        self._on_sqlite = cache(partial(SQLiteStatements, self.table, filters))
        self._scans = [name for name, each in filters.items() if each.operator != "="]

        def write(
            function: BatchFunction[ReadWriteSession, Item, R],
            kind: str,
            touches: Callable[[Item], object] | None = None,
            *,
            is_alone: bool = False,
        ) -> Callable[[ReadWriteSession, Item], Awaitable[R]]:
            name = f"{kind}_{self._noun}"
            return batched(
                function, WRITES, name=name, touches=touches, locks=self.lock, is_alone=is_alone
            )

        # A batch of gets is small, so that its answers do not keep the next batch waiting for long.
        gets = QueueSpec(f"get_{self._noun}", max_items=64)
        lists = QueueSpec(f"list_{self._noun}", max_distinct=32)
        # What costs more as the table grows has its own queue, so that no other page waits for it.
        scans = QueueSpec(f"scan_{self._noun}", max_distinct=1)
        self.queues = [WRITES, PROBES, gets, lists, scans]
        self._get = batched(self.get_many, gets, name=gets.name)
        self._list = batched(self.list_many, lists, name=lists.name)
        self._scan = batched(self.list_many, scans, name=scans.name)
        self._create = write(self.create_many, "create")
        self._choose = write(self.create_chosen, "create_chosen", self._touched_by_create)
        once, chosen_once = (
            partial(self.create_keyed, create) for create in (self.create_many, self.create_chosen)
        )
        self._create_once = write(once, "create_once", self._touched_by_keyed)
        self._choose_once = write(chosen_once, "choose_once", self._touched_by_keyed)
        self._create_bulk = write(self.create_bulks, "create_bulk", is_alone=True)
        self._bulk_once = write(
            self.create_bulks_once, "bulk_once", self._touched_by_keyed, is_alone=True
        )
        self._update = write(self.update_many, "update", self._touched_by_change)
        self._delete = write(self.delete_many, "delete", self._touched_by_change)
        self._check_reads = batched(self.check_reads, PROBES, name=f"probe_{self._noun}")
        # Alone: a batch in which something is refused is served anew, part by part.
        self._check_writes = batched(
            self.check_writes,
            WRITES,
            name=f"write_probe_{self._noun}",
            is_urgent=True,
            is_alone=True,
        )

    def get(self, session: ReadOnlySession, row_id: int) -> Awaitable[str]:
        """Read one row, as a JSON object."""
        return self._get(session, row_id)

    def list_page(self, session: ReadOnlySession, page: Page) -> Awaitable[Listed]:
        """Read one page of rows, in id order."""
        costly = page.count or page.offset > _DEEP
        costly = costly or any(getattr(page, name, None) is not None for name in self._scans)
        return (self._scan if costly else self._list)(session, page)

    async def pages(self, session: ReadOnlySession, page: Page) -> AsyncIterator[Listed]:
        """Read a page, and those that follow it; where its `limit` was sent, that one alone.

        Between two of them, nothing is held.
        """
        while True:
            listed = await self.list_page(session, page)
            yield listed
            if listed.next_after is None or "limit" in page.model_fields_set:
                return
            after = {"offset": 0, "count": False, "after": listed.next_after}
            page = page.model_copy(update=after)

    def create(
        self, session: ReadWriteSession, row: Create, key: str | None = None
    ) -> Awaitable[Created]:
        """Store a row; an `id` that the client chose is honoured while it is free.

        A row that has a key is stored once, and answered the same again.
        """
        is_drawn = _chosen_id(row) is None
        if key is None:
            return (self._create if is_drawn else self._choose)(session, row)
        return (self._create_once if is_drawn else self._choose_once)(session, Keyed(key, row))

    def create_bulk(
        self, session: ReadWriteSession, rows: Mapping[int, Create], key: str | None = None
    ) -> Awaitable[CreatedRows]:
        """Store rows, all or none, in a batch of their own; an error names their numbers.

        Those that have a key are stored once, and answered again as they are then.
        """
        if key is None or not rows:
            return self._create_bulk(session, rows)
        return self._bulk_once(session, Keyed(key, rows))

    def update(
        self,
        session: ReadWriteSession,
        row_id: int,
        changes: Update,
        tags: Collection[str] | None = None,
    ) -> Awaitable[str]:
        """Change the fields that were sent, and return the row as a JSON object.

        Where there are `tags`, only a row whose JSON has one of them is changed.
        """
        return self._update(session, Change(row_id, changes, tags))

    def delete(
        self, session: ReadWriteSession, row_id: int, tags: Collection[str] | None = None
    ) -> Awaitable[None]:
        """Delete one row; where there are `tags`, only one whose JSON has one of them."""
        return self._delete(session, Change(row_id, _NONE, tags))

    def check(self, reads: ReadOnlySession, writes: ReadWriteSession) -> list[Awaitable[None]]:
        """Ask whether the database can run the statements that serve, and takes writes."""
        return [self._check_reads(reads, None), self._check_writes(writes, None)]

    async def get_many(
        self, session: ReadOnlySession, ids: Sequence[int]
    ) -> Sequence[str | ServiceError]:
        """Read rows by id, each as a JSON object."""
        bodies = await self._read(session, ids)
        return [
            NotFoundError(self._noun)
            if row_id not in bodies
            else bodies[row_id] or DamagedRowError()
            for row_id in ids
        ]

    async def list_many(
        self, session: ReadOnlySession, pages: Sequence[Page]
    ) -> Sequence[Listed | ServiceError]:
        """Read pages, in id order; equal ones are read once, and all from one snapshot."""
        statements = await self._statements(session)
        distinct = sorted(set(pages), key=attrgetter("offset")) or [Page(limit=0)]
        shapes = tuple(map(self._shape, distinct))
        parameters: dict[str, object] = {}
        walked = 0
        for index, (page, shape) in enumerate(zip(distinct, shapes, strict=True)):
            offset = page.offset
            if not shape.filters:
                offset, walked = offset - walked, offset
            parameters |= {f"offset_{index}": offset, f"limit_{index}": page.limit + 1}
            parameters |= {f"{name}_{index}": getattr(page, name) for name in shape.filters}
        rows = await fetch(session, statements.pages(shapes), parameters)
        listed = {distinct[index]: self._listed(distinct[index], *row) for index, *row in rows}
        return [listed[page] for page in pages]

    async def create_many(
        self, session: ReadWriteSession, rows: Sequence[Create]
    ) -> Sequence[Created | ServiceError]:
        """Store rows under ids that the database draws."""
        statements = await self._statements(session)
        results: list[Created | ServiceError] = [RefusedError() for _ in rows]
        places: Sequence[int] = range(len(rows))
        for _ in range(_DRAWS):
            items = _array(
                _with_position(n, self._dump(rows[place])) for n, place in enumerate(places)
            )
            stored = statements.match(
                await fetch(session, statements.create, {"items": items}), len(places)
            )
            # Raised, not returned: what a trigger did instead of it is undone.
            if stored is None or not all(row.is_stored or row.is_taken for row in stored):
                raise RefusedError
            bodies = await self._returned(
                session,
                [(row.row_id, row.body, row.has_triggers) for row in stored if row.is_stored],
            )
            for row in stored:
                if row.is_stored:
                    results[places[row.position]] = Created(row.row_id, bodies[row.row_id])
            # An id that another has taken is drawn anew.
            places = [places[row.position] for row in stored if not row.is_stored]
            if not places:
                break
            await self._catch_up(session)
        return results

    async def create_chosen(
        self, session: ReadWriteSession, rows: Sequence[Create]
    ) -> Sequence[Created | ServiceError]:
        """Store rows under ids that clients chose, while they are free."""
        statements = await self._statements(session)
        ids: list[int] = [row.id for row in rows]  # type: ignore[attr-defined]
        first: dict[int, int] = {}
        for place, row_id in enumerate(ids):
            first.setdefault(row_id, place)
        taken = await self._existing(session, first)
        free = [place for row_id, place in first.items() if row_id not in taken]
        items = _array(self._dump(rows[place]) for place in free)
        stored = await fetch(session, statements.create_chosen, {"items": items})
        bodies = await self._returned(session, stored)
        if len(bodies) < len(free):
            raise RefusedError
        return [
            Created(row_id, bodies[row_id])
            if row_id in bodies and first[row_id] == place
            else TakenError(self._noun, row_id)
            for place, row_id in enumerate(ids)
        ]

    async def create_all(
        self, session: ReadWriteSession, rows: Sequence[Create]
    ) -> Sequence[Created | ServiceError]:
        """Store rows; where the database refuses them, find those that it means."""
        if not isinstance(session, ReadWriteSession):  # a test's own: its savepoints are its own
            return await self._create_mixed(session, rows)
        await session.begin_part()
        try:
            results = await self._create_mixed(session, rows)
            await session.check()
        except Exception as error:
            concerns, told, _ = judge(error)
            is_about_rows = rows and concerns in {Concerns.ITEM, Concerns.STATEMENT}
            if not is_about_rows or not _is_refusal(told) or not await session.undo_part(error):
                raise
            if concerns is Concerns.STATEMENT:
                await self.create_many(session, [])  # which fails too where no row is to blame
            if len(rows) == 1:
                return [told]
            middle = len(rows) // 2
            first = await self.create_all(session, rows[:middle])
            return [*first, *await self.create_all(session, rows[middle:])]
        await session.end_part()
        return results

    async def create_bulks(
        self, session: ReadWriteSession, bulks: Sequence[Rows]
    ) -> Sequence[CreatedRows]:
        """Store all rows of each bulk. Raises `LinesRefusedError`, which names their numbers."""
        stored = await self._create_together(session, bulks)
        return [CreatedRows([row.body for row in rows]) for rows in stored]

    async def create_bulks_once(
        self, session: ReadWriteSession, items: Sequence[Keyed]
    ) -> Sequence[CreatedRows | ServiceError]:
        """Store all rows of each bulk with its key, or read those that were stored under it."""
        results: list[CreatedRows | ServiceError] = []
        for result in await self.create_keyed(self._create_for_ids, session, items):
            if isinstance(result, LinesRefusedError):
                raise result  # raised, not returned: the other rows are undone
            if isinstance(result, Created):
                results.append(await self._read_together(session, result))
            else:
                results.append(result)
        return results

    async def create_keyed(
        self,
        create: Callable[..., Awaitable[Sequence[Created | ServiceError]]],
        session: ReadWriteSession,
        items: Sequence[Keyed],
    ) -> Sequence[Created | ServiceError]:
        """Store rows by `create`, with their keys; what was stored under a key is answered again.

        A row that is refused leaves no key.
        """
        keys = await self._keys(session)
        if keys is None:
            return [NoKeysError() for _ in items]
        now = int(time())
        known = await self._known(session, keys, {item.key for item in items}, now)
        fingerprints = [self._fingerprint(item.content) for item in items]
        new: dict[str, int] = {}
        for place, item in enumerate(items):
            if item.key not in known:
                new.setdefault(item.key, place)
        created = await create(session, [items[place].content for place in new.values()])
        rows, refused = [], []
        for (key, place), result in zip(new.items(), created, strict=True):
            known[key] = fingerprints[place], result
            if isinstance(result, Created):
                row = {"key": key, "fingerprint": fingerprints[place]}
                rows.append(row | {"row_id": result.id, "answer": result.body})
            else:
                refused.append(key)
        parameters = {"noun": self._noun, "now": now, "items": json.dumps(rows)}
        stored = await fetch(session, keys.store, parameters)
        if len(stored) < len(rows) or (refused and await self._known(session, keys, refused, now)):
            raise ContendedError  # another process has stored it since the first look
        results: list[Created | ServiceError] = []
        for place, (key, _) in enumerate(items):
            fingerprint, result = known[key]
            if isinstance(result, Created) and new.get(key) != place:
                is_same = fingerprint == fingerprints[place]
                result = result._replace(is_replay=True) if is_same else KeyReusedError()
            results.append(result)
        return results

    async def update_many(
        self, session: ReadWriteSession, changes: Sequence[Change]
    ) -> Sequence[str | ServiceError]:
        """Change the fields that were sent; changes of one row apply one after the other."""
        statements = await self._statements(session)
        results: dict[int, str | ServiceError] = {}
        pending = dict(enumerate(changes))
        while True:
            refused = await self._refused(session, pending)
            results |= refused
            for place in refused:
                del pending[place]
            # A statement changes a row once: the second change of it goes into a second statement.
            turn = {change.id: place for place, change in reversed(pending.items())}
            items = _array(
                _with_id(row_id, self._dump(pending[place].fields, only_sent=True))
                for row_id, place in turn.items()
            )
            parameters = {"items": items, "ids": statements.ids(turn)}
            updated = await fetch(session, statements.update, parameters)
            bodies = await self._returned(session, _changed(updated), DamagedRowError)
            errors = await self._errors(session, turn.keys() - bodies.keys())
            for row_id, place in turn.items():
                results[place] = bodies.get(row_id) or errors[row_id]
                del pending[place]
            if not pending:
                return [results[place] for place in range(len(changes))]

    async def delete_many(
        self, session: ReadWriteSession, changes: Sequence[Change]
    ) -> Sequence[ServiceError | None]:
        """Delete rows by id; of two deletes of one row, one succeeds."""
        statements = await self._statements(session)
        refused = await self._refused(session, dict(enumerate(changes)))
        ids = [change.id for place, change in enumerate(changes) if place not in refused]
        rows = await fetch(session, statements.delete, {"ids": statements.ids(ids)})
        deleted = {row_id for (row_id,) in _changed(rows)}
        keys = await self._keys(session)
        if keys:
            gone = {"noun": self._noun, "ids": statements.ids(deleted)}
            await fetch(session, keys.forget, gone)
        errors = await self._errors(session, set(ids) - deleted)
        results: list[ServiceError | None] = []
        for place, change in enumerate(changes):
            if place not in refused and change.id in deleted:
                results.append(None)
                deleted.discard(change.id)
            else:
                why_not = refused.get(place) or errors.get(change.id)
                results.append(why_not or NotFoundError(self._noun))
        return results

    async def check_reads(
        self, session: ReadOnlySession, items: Sequence[None]
    ) -> Sequence[ServiceError | None]:
        """Read nothing, by the statements that serve."""
        await self.get_many(session, [])
        await self.list_many(session, [])
        return items

    async def check_writes(
        self, session: ReadWriteSession, items: Sequence[None]
    ) -> Sequence[ServiceError | None]:
        """Write no row; the result is what a create would be told."""
        statements = await self._statements(session)
        await fetch(session, statements.probe, {"items": "[]"})
        # Returned: what else is in the batch may still fit.
        return [await session.probe()] * len(items)

    async def lock(self, session: ReadWriteSession, items: Sequence[Any], *, wait: bool) -> None:
        """Lock the rows that items of any kind are about, where the engine locks rows."""
        statements = await self._statements(session)
        if not isinstance(statements, PostgreSQLStatements):
            return
        keys = KEY_STATEMENTS["postgresql"]
        names = sorted({item.key for item in items if isinstance(item, Keyed)})
        if names and wait:
            # Before what others need: nobody else is to wait with this one.
            await fetch(session, keys.wait, {"keys": json.dumps(names)})
        contents = [item.content if isinstance(item, Keyed) else item for item in items]
        creates = [row for row in contents if isinstance(row, BaseModel)]
        chosen = [row_id for row_id in map(_chosen_id, creates) if row_id is not None]
        ids = [*(item.id for item in items if isinstance(item, Change)), *chosen]
        statement = statements.lock(chosen=bool(chosen) if creates else None, wait=wait)
        await fetch(session, statement, {"ids": statements.ids(ids)})

    async def _create_together(
        self, session: ReadWriteSession, bulks: Sequence[Rows]
    ) -> Sequence[Sequence[Created]]:
        if not bulks:
            await self.create_many(session, [])
        created: list[Sequence[Created]] = []
        for bulk in bulks:
            rows: list[Any] = [*bulk.values()]
            results = dict(zip(bulk, await self.create_all(session, rows), strict=True))
            errors = {n: each for n, each in results.items() if isinstance(each, ServiceError)}
            if errors:
                raise LinesRefusedError(errors)
            created.append([each for each in results.values() if isinstance(each, Created)])
        return created

    async def _create_for_ids(
        self, session: ReadWriteSession, bulks: Sequence[Rows]
    ) -> Sequence[Created | ServiceError]:
        """Store all rows of each bulk; what is kept of a bulk is its ids, and not its rows."""
        try:
            stored = await self._create_together(session, bulks)
        except LinesRefusedError as error:
            return [error for _ in bulks]
        return [Created(rows[0].id, json.dumps([row.id for row in rows])) for rows in stored]

    async def _read_together(
        self, session: ReadWriteSession, stored: Created
    ) -> CreatedRows | ServiceError:
        """Read the rows of a bulk of which the ids were kept."""
        ids: list[int] = json.loads(stored.body)
        bodies = await self._read(session, ids)
        if len(bodies) < len(ids):
            return DeletedSinceError(self._noun)
        found = [body for row_id in ids if (body := bodies[row_id]) is not None]
        return CreatedRows(found, stored.is_replay) if len(found) == len(ids) else DamagedRowError()

    async def _create_mixed(
        self, session: ReadWriteSession, rows: Sequence[Create]
    ) -> Sequence[Created | ServiceError]:
        """Store rows; no id is drawn that another of them has chosen."""
        results: dict[int, Created | ServiceError] = {}
        for create, is_chosen in ((self.create_chosen, True), (self.create_many, False)):
            places = [n for n, row in enumerate(rows) if (_chosen_id(row) is not None) == is_chosen]
            if places:
                stored = await create(session, [rows[place] for place in places])
                results |= zip(places, stored, strict=True)
        return [results[place] for place in range(len(rows))]

    async def _statements(self, session: ReadOnlySession) -> Statements:
        """Return the statements for the table as the session's database has it."""
        known: dict[object, Statements] = session.info.get(STATEMENTS, {})
        if self not in known:
            known[self] = await self._build(session)
        return known[self]

    async def _keys(self, session: ReadOnlySession) -> KeyStatements | None:
        """Return the statements for keys, where the session's database has their table."""
        known: dict[object, KeyStatements | None] = session.info.get(STATEMENTS, {})
        if KEYS not in known:
            keys = KEY_STATEMENTS[session.get_bind().dialect.name]
            [(exist,)] = await fetch(session, keys.exist, {})
            known[KEYS] = keys if exist else None
        return known[KEYS]

    async def _known(
        self, session: ReadWriteSession, keys: KeyStatements, names: Collection[str], now: int
    ) -> dict[str, tuple[str, Created | ServiceError]]:
        """Return the fingerprint and the result of each key that is known; clear old ones away."""
        asked: dict[str, object] = {
            "noun": self._noun,
            "keys": json.dumps(sorted(names)),
            "oldest": now - int(session.info.get(KEPT, _DAY)),
            "bite": 2 * len(names),
        }
        if keys.expire:
            await fetch(session, keys.expire, asked)
        found = await fetch(session, keys.find, asked)
        row_ids = {row_id for _, _, row_id, _ in found if row_id is not None}
        existing = await self._existing(session, row_ids)
        known: dict[str, tuple[str, Created | ServiceError]] = {}
        for key, fingerprint, row_id, body in found:
            known[key] = fingerprint, DeletedSinceError(self._noun)
            if row_id is None:
                known[key] = "", RowLockedError()
            elif body is not None and row_id in existing:
                known[key] = fingerprint, Created(row_id, body, is_replay=True)
        return known

    async def _build(self, session: ReadOnlySession) -> Statements:
        if session.get_bind().dialect.name == "postgresql":
            return self._on_postgresql()
        [(has_sequence,)] = await fetch(session, _HAS_SEQUENCE, {})
        rows = await fetch(session, _TYPES, {"table": self._noun})
        texts = {each.name for each in self.table.columns if kind_of(each) is Kind.TEXT}
        casts = any(not _holds_text(kind) for name, kind in rows if name in texts)
        return self._on_sqlite(has_sequence=bool(has_sequence), casts=casts)

    async def _read(self, session: ReadOnlySession, ids: Iterable[int]) -> dict[int, str | None]:
        statements = await self._statements(session)
        rows = await fetch(session, statements.get, {"ids": statements.ids(ids)})
        return {row_id: self._render(body) for row_id, body in rows}

    async def _returned(
        self,
        session: ReadOnlySession,
        rows: Sequence[tuple[int, str | None, object]],
        damaged: type[ServiceError] = UnfitError,
    ) -> Mapping[int, str]:
        """Return what rows hold, by their ids, from what RETURNING said of them.

        Raises an error for a row that cannot be answered: what is answered with an error must not
        be stored, and the batch is rolled back.
        """
        bodies = {row_id: self._render(body) for row_id, body, _ in rows}
        if any(has_triggers for *_, has_triggers in rows):
            await check_constraints(session)  # which may have deferred triggers
            # RETURNING shows what a row was before the triggers that fire after it.
            bodies = await self._read(session, bodies)
            if len(bodies) < len(rows):
                raise RefusedError
        found = {row_id: body for row_id, body in bodies.items() if body is not None}
        if len(found) < len(bodies):
            raise damaged
        return found

    async def _existing(self, session: ReadOnlySession, ids: Collection[int]) -> set[int]:
        if not ids:
            return set()
        statements = await self._statements(session)
        rows = await fetch(session, statements.exist, {"ids": statements.ids(ids)})
        return {row_id for (row_id,) in rows}

    async def _refused(
        self, session: ReadWriteSession, changes: Mapping[int, Change]
    ) -> dict[int, ServiceError]:
        """Say why changes that expect a tag are refused, by their places.

        The rows of the others are locked then, and nobody else changes them before COMMIT.
        """
        tagged = {place: each for place, each in changes.items() if each.tags is not None}
        if not tagged:
            return {}
        ids = {change.id for change in tagged.values()}
        statements = await self._statements(session)
        if isinstance(statements, PostgreSQLStatements):
            lock = statements.lock(chosen=None, wait=False)
            rows = await fetch(session, lock, {"ids": statements.ids(ids)})
            locked = {row_id for (row_id,) in rows}
        else:
            # It takes the file's one lock, which a session that a test put in may not have yet.
            await fetch(session, statements.probe, {})
            locked = ids
        bodies = await self._read(session, ids)
        refused: dict[int, ServiceError] = {}
        for place, (row_id, _, tags) in tagged.items():
            body = bodies.get(row_id)
            if row_id not in bodies:
                refused[place] = NotFoundError(self._noun)
            elif row_id not in locked:
                refused[place] = RowLockedError()
            elif body is None:
                refused[place] = DamagedRowError()
            elif tag_of(body) not in (tags or ()):
                refused[place] = StaleError(self._noun)
        return refused

    async def _errors(
        self, session: ReadOnlySession, ids: Collection[int]
    ) -> Mapping[int, ServiceError]:
        """Say why rows were not changed: they are not there, or somebody else has locked them."""
        existing = await self._existing(session, ids)
        if existing and not (await self._statements(session)).skips_locked:
            raise RefusedError  # by a trigger, and what that did instead is undone
        return {
            row_id: RowLockedError() if row_id in existing else NotFoundError(self._noun)
            for row_id in ids
        }

    def _listed(
        self, page: Page, rows: str | None, size: int, total: int | None
    ) -> Listed | ServiceError:
        """Return a page; of its rows, one more than it has room for shows that there is a next."""
        rows, next_after = rows or "", None
        if size > page.limit:
            rows = rows.rpartition(BETWEEN)[0]
            if rows:
                next_after = from_json(rows.rpartition(BETWEEN)[2])["id"]
        rendered = self._render_rows(rows)
        return (
            Listed(f"[{rendered}]", next_after, total)
            if rendered is not None
            else DamagedRowError()
        )

    def _dump(self, item: BaseModel, *, only_sent: bool = False) -> str:
        """Return an item as JSON; moments in one zone, so that they can be compared as text."""
        if self._public is None:
            return item.model_dump_json(exclude_unset=only_sent)
        values = item.model_dump(exclude_unset=only_sent)
        for name, value in values.items():
            if isinstance(value, datetime) and value.tzinfo:
                values[name] = value.astimezone(UTC)
        return to_json(values).decode()

    def _fingerprint(self, content: BaseModel | Rows) -> str:
        """Return a hash of what was sent."""
        if isinstance(content, BaseModel):
            return tag_of(self._dump(content, only_sent=True))
        return tag_of(_array(self._dump(row, only_sent=True) for row in content.values()))

    def _render(self, body: str | None) -> str | None:
        """Return JSON as Pydantic has it, where the database has it otherwise."""
        if self._public is None or body is None:
            return body
        try:
            return self._public.dump_json(self._public.validate_json(body)).decode()
        except ValidationError:
            return None

    def _render_rows(self, rows: str) -> str | None:
        if not rows:
            return rows
        if self._public is None:
            is_sound = f"{BETWEEN}null{BETWEEN}" not in f"{BETWEEN}{rows}{BETWEEN}"
            return rows if is_sound else None
        rendered = [self._render(row) for row in rows.split(BETWEEN)]
        sound = [row for row in rendered if row is not None]
        return BETWEEN.join(sound) if len(sound) == len(rendered) else None

    async def _catch_up(self, session: ReadWriteSession) -> None:
        """Let the sequence go on behind the ids of the table, if this role may set it."""
        statements = await self._statements(session)
        if isinstance(statements, PostgreSQLStatements):
            await fetch(session, "SAVEPOINT catch_up", {})
            try:
                await fetch(session, statements.catch_up, {})
            except Exception as error:
                if judge(error).concerns is not Concerns.ITEM:
                    raise
                await fetch(session, "ROLLBACK TO catch_up", {})

    def _shape(self, page: Page) -> Shape:
        filters = (name for name in self._names if getattr(page, name, None) is not None)
        return Shape(tuple(filters), page.count)

    def _touched_by_create(self, row: BaseModel) -> object:
        return self._noun, _chosen_id(row)

    def _touched_by_keyed(self, item: Keyed) -> object:
        return self._noun, item.key

    def _touched_by_change(self, change: Change) -> object:
        return self._noun, change.id


def _changed(rows: Sequence[Any]) -> Sequence[Any]:
    """Return rows without the word that they were changed.

    Raises `RefusedError` for one that a trigger has kept as it was: what it did instead is undone.
    """
    if not all(is_changed for _, is_changed, *_ in rows):
        raise RefusedError
    return [(row_id, *rest) for row_id, _, *rest in rows]


def _is_refusal(told: Exception) -> TypeGuard[ServiceError]:
    """Say whether an error is about what was to be stored."""
    return isinstance(told, ServiceError) and not isinstance(told, (FaultError, UnavailableError))


def _chosen_id(row: BaseModel) -> int | None:
    chosen: int | None = getattr(row, "id", None)
    return chosen


def _holds_text(kind: str) -> bool:
    """Say whether SQLite keeps text as it is in such a column (sqlite.org/datatype3.html)."""
    kind = kind.upper()
    if "INT" in kind:
        return False
    return kind in {"", "BLOB"} or any(word in kind for word in ("CHAR", "CLOB", "TEXT", "BLOB"))


def _array(items: Iterable[str]) -> str:
    return f"[{','.join(items)}]"


def _with_position(position: int, item: str) -> str:
    return f'{{"_position":{position},{item[1:]}'


def _with_id(row_id: int, changes: str) -> str:
    return f'{{"id":{row_id}{"}" if changes == "{}" else "," + changes[1:]}'


AnyStorage = Storage[Any, Any]
