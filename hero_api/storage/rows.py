"""The rows of a table: how they are read and created.

Batch functions take a session and a sequence of items, and return a result, or an error, for each.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from operator import attrgetter
from time import time
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import to_json
from sqlalchemy import Table

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
from hero_api.database.statements import Filter, Statements
from hero_api.database.verdicts import Concerns, judge
from hero_api.errors import (
    CorruptError,
    DamagedRowError,
    LinesRefusedError,
    NotFoundError,
    RefusedError,
    ServiceError,
    TakenError,
    UnfitError,
)
from hero_api.etags import tag_of
from hero_api.storage.rendering import Listed, Renderer, array, with_fields

_DRAWS = 1_000  # at most, for an id that others have not taken past the sequence
_ENGINES = {each.dialect.name: each for each in (SQLiteStatements, PostgreSQLStatements)}
_ABOUT_ROWS = (RefusedError, UnfitError, CorruptError)  # errors that single rows may cause

Bulk = Mapping[int, BaseModel]  # rows to be stored together, by the numbers of their lines


class Created(NamedTuple):
    """A row that was stored, now or before under the same key: its id, and its JSON object then."""

    id: int
    body: str
    is_replay: bool = False
    is_kept: bool = False  # under its key: that was stored with it


class Keyed(NamedTuple):
    """A row, or several, to be stored once, however often they are sent with this key."""

    key: str
    content: Any  # a row, or a `Bulk`
    fingerprint: str


class Rows:
    """Reads and creates the rows of a table, whose primary key is an integer `id`."""

    def __init__(
        self, table: Table, filters: Mapping[str, Filter], public: type[BaseModel]
    ) -> None:
        self.noun = table.name
        self.renderer = Renderer(table, public)
        # Their text is the same for all databases in which as much is found.
        self._make = cache(lambda name, *found: _ENGINES[name](table, filters, found))

    async def statements(self, session: ReadOnlySession) -> Statements:
        """Return the statements for the table as the session's database has it."""
        known: dict[object, Statements] = session.info.get(STATEMENTS, {})
        if self not in known:
            name = session.get_bind().dialect.name
            found = await fetch(session, _ENGINES[name].look, {"table": self.noun})
            known[self] = self._make(name, *found)
        return known[self]

    def fingerprint(self, sent: BaseModel | Bulk) -> str:
        """Return a hash of the fields that a client has sent.

        Raises `UnfitError`, or of a bulk `LinesRefusedError`, for what no engine can store.
        """
        dump = partial(self.renderer.dump, only_sent=True)
        if isinstance(sent, BaseModel):
            return tag_of(dump(sent))
        dumped: list[str] = []
        errors: dict[int, ServiceError] = {}
        for number, row in sent.items():
            try:
                dumped.append(dump(row))
            except UnfitError as error:
                errors[number] = error
        if errors:
            raise LinesRefusedError(errors)
        return tag_of(array(dumped))

    async def get_many(
        self, session: ReadOnlySession, ids: Sequence[int]
    ) -> Sequence[str | ServiceError]:
        """Read rows by id, each as a JSON object."""
        found = await self.read(session, ids)
        return [
            found[row_id] or DamagedRowError() if row_id in found else NotFoundError(self.noun)
            for row_id in ids
        ]

    async def list_many(
        self, session: ReadOnlySession, pages: Sequence[Page]
    ) -> Sequence[Listed | ServiceError]:
        """Read pages, in id order; equal ones are read once."""
        statements = await self.statements(session)
        distinct = sorted(set(pages), key=attrgetter("offset")) or [Page(limit=0)]
        groups = defaultdict(list)
        for page in distinct:
            groups[statements.reads_mixtures or statements.shape(page)].append(page)
        listed = {}
        for group in groups.values():
            rows = await fetch(session, *statements.select_pages(group))
            for n, found, more, total in rows:
                page = group[n]
                cut = statements.cut(found, more, page.limit)
                listed[page] = self.renderer.render_page(*cut, total)
        return [listed[page] for page in pages]

    async def create_many(
        self,
        session: ReadWriteSession,
        rows: Sequence[BaseModel],
        keyed: Sequence[Keyed] | None = None,
    ) -> Sequence[Created | ServiceError]:
        """Store rows under ids that the database draws.

        The keys of those that are `keyed` are kept with them, where one statement can do both.
        """
        statements, dump = await self.statements(session), self.renderer.dump
        statement, more = statements.create, [""] * len(rows)
        parameters: dict[str, object] = {}
        keeps = False
        if keyed is not None and statements.create_kept and self.renderer.is_databases:
            keeps = True
            statement, more = statements.create_kept, [_key_fields(each) for each in keyed]
            parameters = {"now": int(time())}
        results: list[Created | ServiceError] = [RefusedError() for _ in rows]
        places: Sequence[int] = range(len(rows))
        for _ in range(_DRAWS):
            items = array(
                with_fields(f'"_position":{n}{more[place]}', dump(rows[place]))
                for n, place in enumerate(places)
            )
            found = await fetch(session, statement, {"items": items, **parameters})
            drawn = statements.match(found, len(places))
            stored = [row for row in drawn if row.is_stored]
            bodies = await self.returned(
                session, [(row.row_id, row.body, row.has_triggers) for row in stored]
            )
            for row in stored:
                results[places[row.position]] = Created(
                    row.row_id, bodies[row.row_id], is_kept=keeps and not row.has_triggers
                )
            # An id that another has taken is drawn anew.
            places = [places[row.position] for row in drawn if not row.is_stored]
            if not places:
                break
            await _catch_up(session, statements)
        return results

    async def create_chosen(
        self, session: ReadWriteSession, rows: Sequence[BaseModel]
    ) -> Sequence[Created | ServiceError]:
        """Store rows under ids that clients chose, while they are free."""
        statements = await self.statements(session)
        ids: list[int] = [row.id for row in rows]  # type: ignore[attr-defined]
        first: dict[int, int] = {}
        for place, row_id in enumerate(ids):
            first.setdefault(row_id, place)
        taken = await self.existing(session, first)
        free = [place for row_id, place in first.items() if row_id not in taken]
        items = array(self.renderer.dump(rows[place]) for place in free)
        stored = await fetch(session, statements.create_chosen, {"items": items})
        bodies = await self.returned(session, stored)
        if len(bodies) < len(free):
            raise RefusedError
        return [
            Created(row_id, bodies[row_id])
            if row_id in bodies and first[row_id] == place
            else TakenError(self.noun, row_id)
            for place, row_id in enumerate(ids)
        ]

    async def create_all(
        self, session: ReadWriteSession, rows: Sequence[BaseModel]
    ) -> Sequence[Created | ServiceError]:
        """Store rows; where the database refuses them, find those that it means."""
        if not isinstance(session, ReadWriteSession):  # a test's own: its savepoints are its own
            return await self._create_mixed(session, rows)
        await session.begin_part()
        try:
            results = await self._create_mixed(session, rows)
            await check_constraints(session)
        except Exception as error:
            concerns, told, _ = judge(error)
            if not (rows and isinstance(told, _ABOUT_ROWS) and await session.undo_part(error)):
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
        self, session: ReadWriteSession, bulks: Sequence[Bulk]
    ) -> Sequence[Sequence[Created]]:
        """Store all rows of each bulk. Raises `LinesRefusedError`, which names their numbers."""
        if not bulks:
            await self.create_many(session, [])
        stored = []
        for bulk in bulks:
            results = dict(zip(bulk, await self.create_all(session, [*bulk.values()]), strict=True))
            errors = {n: each for n, each in results.items() if isinstance(each, ServiceError)}
            if errors:
                raise LinesRefusedError(errors)
            stored.append([each for each in results.values() if isinstance(each, Created)])
        return stored

    async def _create_mixed(
        self, session: ReadWriteSession, rows: Sequence[BaseModel]
    ) -> Sequence[Created | ServiceError]:
        """Store rows; no id is drawn that another of them has chosen."""
        results: dict[int, Created | ServiceError] = {}
        is_drawn = [getattr(row, "id", None) is None for row in rows]
        for create, draws in ((self.create_chosen, False), (self.create_many, True)):
            places = [place for place, each in enumerate(is_drawn) if each is draws]
            if places:
                stored = await create(session, [rows[place] for place in places])
                results |= zip(places, stored, strict=True)
        return [results[place] for place in range(len(rows))]

    async def read(self, session: ReadOnlySession, ids: Iterable[int]) -> dict[int, str | None]:
        """Return the rows that there are, by id; nothing for one that holds what JSON cannot."""
        statements = await self.statements(session)
        rows = await fetch(session, statements.get, {"ids": statements.ids(ids)})
        return {row_id: self.renderer.render(body) for row_id, body in rows}

    async def existing(self, session: ReadOnlySession, ids: Collection[int]) -> set[int]:
        """Return the ids of which there is a row."""
        if not ids:
            return set()
        statements = await self.statements(session)
        rows = await fetch(session, statements.exist, {"ids": statements.ids(ids)})
        return {row_id for (row_id,) in rows}

    async def returned(
        self,
        session: ReadOnlySession,
        rows: Sequence[tuple[int, str | None, object]],
        damaged: type[ServiceError] = UnfitError,
    ) -> Mapping[int, str]:
        """Return what rows hold, by their ids, from what RETURNING said of them.

        Raises an error for a row that cannot be answered: what is answered with an error must not
        be stored, and the batch is rolled back.
        """
        bodies = {row_id: self.renderer.render(body) for row_id, body, _ in rows}
        if any(has_triggers for *_, has_triggers in rows):
            await check_constraints(session)  # which may have deferred triggers
            # RETURNING shows what a row was before the triggers that fire after it.
            bodies = await self.read(session, bodies)
            if len(bodies) < len(rows):
                raise RefusedError
        found = {row_id: body for row_id, body in bodies.items() if body is not None}
        if len(found) < len(bodies):
            raise damaged
        return found


def _key_fields(keyed: Keyed) -> str:
    key, fingerprint = to_json(keyed.key).decode(), to_json(keyed.fingerprint).decode()
    return f',"_key":{key},"_fingerprint":{fingerprint}'


async def _catch_up(session: ReadWriteSession, statements: Statements) -> None:
    """Let the sequence go on behind the ids of the table, if this role may set it."""
    await fetch(session, "SAVEPOINT catch_up", {})
    try:
        await fetch(session, statements.catch_up, {})
    except Exception as error:
        if judge(error).concerns is not Concerns.ITEM:
            raise
        await fetch(session, "ROLLBACK TO catch_up", {})
