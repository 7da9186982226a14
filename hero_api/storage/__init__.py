"""What can be done with the rows of a table: the calls that handlers use, and their queues."""

import json
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from sqlalchemy import Table
from sqlmodel import SQLModel

from hero_api.batching import QueueSpec, batched
from hero_api.batching.queue import arrived
from hero_api.database.pages import Page
from hero_api.database.sessions import ReadOnlySession, ReadWriteSession, fetch
from hero_api.database.statements import Filter
from hero_api.errors import ServiceError
from hero_api.storage.changes import Change, change_many, delete_rows, update_rows
from hero_api.storage.keyed import create_bulks_once, create_chosen_once, create_drawn_once
from hero_api.storage.rendering import Listed
from hero_api.storage.rows import Created, Keyed, Rows

__all__ = ["AnyStorage", "Listed", "Storage"]

_DEEP = 10_000  # rows: a page that skips more of them is a scan
_NONE = SQLModel()

# Whatever writes waits in one queue: there is one writing connection, and one sync for a batch.
WRITES = QueueSpec("write", writes=True)
PROBES = QueueSpec("probe")

Create = TypeVar("Create", bound=BaseModel)
Update = TypeVar("Update", bound=BaseModel)


class Storage(Generic[Create, Update]):
    """The rows of a table, whose primary key is an integer `id`.

    `filters` are those of its pages: each is a field of the `Page` that is listed. Calls take one
    item, raise its error, and share batches: all tables' changes in one queue, and reads of each
    kind in queues of their own.
    """

    def __init__(
        self, model: type[SQLModel], *, filters: Mapping[str, Filter], public: type[BaseModel]
    ) -> None:
        self.table: Table = model.metadata.tables[str(model.__tablename__)]
        self.rows = rows = Rows(self.table, filters, public)
        noun = rows.noun
        self._scans = [name for name, each in filters.items() if each.operator != "="]

        # A batch of gets is small, so that its answers do not keep the next batch waiting for long.
        gets = QueueSpec(f"get_{noun}", max_items=64, short=True)
        lists = QueueSpec(f"list_{noun}", max_distinct=32, short=True)
        # What costs more as the table grows has its own queue, so that no other page waits for it.
        scans = QueueSpec(f"scan_{noun}", max_distinct=1)
        self.queues = [WRITES, PROBES, gets, lists, scans]
        self._get = batched(rows.get_many, gets, name=gets.name)
        self._list = batched(rows.list_many, lists, name=lists.name)
        self._scan = batched(rows.list_many, scans, name=scans.name)
        self._check_reads = batched(self.check_reads, PROBES, name=f"probe_{noun}")

        def its_id(item: Any) -> object:  # noqa: ANN401 - a row, or a change of one
            return noun, item.id

        def its_key(item: Keyed) -> object:
            return noun, item.key

        write = partial(batched, queue=WRITES, locks=self._lock)
        drawn_once = partial(create_drawn_once, rows)
        chosen_once = partial(create_chosen_once, rows)
        bulk_once = partial(create_bulks_once, rows)
        update = partial(change_many, rows, update_rows)
        delete = partial(change_many, rows, delete_rows)
        self._create = write(rows.create_many, name=f"create_{noun}")
        self._choose = write(rows.create_chosen, name=f"create_chosen_{noun}", touches=its_id)
        self._create_once = write(drawn_once, name=f"create_once_{noun}", touches=its_key)
        self._choose_once = write(chosen_once, name=f"choose_once_{noun}", touches=its_key)
        self._create_bulk = write(rows.create_bulks, name=f"create_bulk_{noun}", is_alone=True)
        self._bulk_once = write(bulk_once, name=f"bulk_once_{noun}", touches=its_key, is_alone=True)
        self._update = write(update, name=f"update_{noun}", touches=its_id)
        self._delete = write(delete, name=f"delete_{noun}", touches=its_id)
        self._check_writes = batched(
            self.check_writes, WRITES, name=f"write_probe_{noun}", is_urgent=True
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
            arrived.set(None)  # the next page has time of its own, however long ago this was asked

    def create(
        self, session: ReadWriteSession, row: Create, key: str | None = None
    ) -> Awaitable[Created]:
        """Store a row; an `id` that the client chose is honoured while it is free.

        A row that has a key is stored once, and answered the same again.
        """
        is_drawn = getattr(row, "id", None) is None
        if key is None:
            return (self._create if is_drawn else self._choose)(session, row)
        item = Keyed(key, row, self.rows.fingerprint(row))
        return (self._create_once if is_drawn else self._choose_once)(session, item)

    def create_bulk(
        self, session: ReadWriteSession, rows: Mapping[int, Create], key: str | None = None
    ) -> Awaitable[Sequence[Created]]:
        """Store rows, all or none, in a batch of their own; an error names their numbers.

        Those that have a key are stored once, and answered again as they are then.
        """
        if key is None or not rows:
            return self._create_bulk(session, rows)
        return self._bulk_once(session, Keyed(key, rows, self.rows.fingerprint(rows)))

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

    async def check_reads(
        self, session: ReadOnlySession, items: Sequence[None]
    ) -> Sequence[ServiceError | None]:
        """Read nothing, by the statements that serve."""
        await self.rows.get_many(session, [])
        await self.rows.list_many(session, [])
        return items

    async def check_writes(
        self, session: ReadWriteSession, items: Sequence[None]
    ) -> Sequence[ServiceError | None]:
        """Write no row; the result is what a create would be told."""
        statements = await self.rows.statements(session)
        await fetch(session, statements.probe, {"items": "[]"})
        # Returned: what else is in the batch may still fit.
        return [await session.probe()] * len(items)

    async def _lock(self, session: ReadWriteSession, items: Sequence[Any], *, wait: bool) -> None:
        """Lock the rows that items of any kind are about, where the engine locks rows."""
        statements = await self.rows.statements(session)
        if not statements.skips_locked:
            return
        names = sorted({item.key for item in items if isinstance(item, Keyed)})
        if names and wait and statements.keys:
            # Before what others need: nobody else is to wait with this one.
            await fetch(session, statements.keys.wait, {"keys": json.dumps(names)})
        contents = [item.content if isinstance(item, Keyed) else item for item in items]
        creates = [getattr(row, "id", None) for row in contents if isinstance(row, BaseModel)]
        chosen = [row_id for row_id in creates if row_id is not None]
        ids = [*(item.id for item in items if isinstance(item, Change)), *chosen]
        statement = statements.lock(chosen=bool(chosen) if creates else None, wait=wait)
        await fetch(session, statement, {"ids": statements.ids(ids)})


AnyStorage = Storage[Any, Any]
