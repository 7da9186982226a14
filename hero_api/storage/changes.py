"""How rows are changed and deleted, and why some are not: other tags, or somebody's lock."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from hero_api.batching import R
from hero_api.database.pages import MAX_ID, MIN_ID
from hero_api.database.sessions import ReadOnlySession, ReadWriteSession, fetch
from hero_api.errors import (
    DamagedRowError,
    NotFoundError,
    RefusedError,
    RowLockedError,
    ServiceError,
    StaleError,
    UnfitError,
)
from hero_api.etags import tag_of
from hero_api.storage.rendering import array, with_fields
from hero_api.storage.rows import Rows


class Change(NamedTuple):
    """A change of one row: the fields that were sent, none where it is to be deleted.

    Where there are `tags`, the row must have one of them before it.
    """

    id: int
    fields: BaseModel
    tags: Collection[str] | None


async def change_many(
    rows: Rows,
    function: Callable[[Rows, ReadWriteSession, Mapping[int, Change]], Awaitable[Mapping[int, R]]],
    session: ReadWriteSession,
    changes: Sequence[Change],
) -> Sequence[R | ServiceError]:
    """Change rows by `function`, each once."""
    wanted = {change.id: change for change in changes}
    errors = await _refused(rows, session, wanted)
    wanted = {row_id: each for row_id, each in wanted.items() if row_id not in errors}
    changed = await function(rows, session, wanted)
    errors |= await _errors(rows, session, wanted.keys() - changed.keys())
    return [errors[n] if n in errors else changed[n] for n, *_ in changes]


async def update_rows(
    rows: Rows, session: ReadWriteSession, changes: Mapping[int, Change]
) -> Mapping[int, str]:
    """Change the fields that were sent, and return the rows that there are as JSON objects."""
    statements, dump = await rows.statements(session), rows.renderer.dump
    for change in changes.values():
        # SQLite would make a float of it, and the row looks damaged then.
        if any(isinstance(n, int) and not MIN_ID <= n <= MAX_ID for _, n in change.fields):
            raise UnfitError
    items = array(
        with_fields(f'"id":{row_id}', dump(change.fields, only_sent=True))
        for row_id, change in changes.items()
    )
    parameters = {"items": items, "ids": statements.ids(changes)}
    updated = _changed(await fetch(session, statements.update, parameters))
    return await rows.returned(session, updated, DamagedRowError)


async def delete_rows(
    rows: Rows, session: ReadWriteSession, changes: Mapping[int, Change]
) -> Mapping[int, None]:
    """Delete the rows that there are, and what is kept of them under idempotency keys."""
    statements = await rows.statements(session)
    found = _changed(await fetch(session, statements.delete, {"ids": statements.ids(changes)}))
    deleted = {row_id: None for (row_id,) in found}
    if statements.keys:
        gone = {"noun": rows.noun, "ids": statements.ids(deleted)}
        await fetch(session, statements.keys.forget, gone)
    return deleted


async def _refused(
    rows: Rows, session: ReadWriteSession, changes: Mapping[int, Change]
) -> dict[int, ServiceError]:
    """Say why changes that expect a tag are refused, by their ids.

    The rows of the others are locked then, and nobody else changes them before COMMIT.
    """
    tags = {row_id: each.tags for row_id, each in changes.items() if each.tags is not None}
    if not tags:
        return {}
    statements = await rows.statements(session)
    lock = statements.lock(chosen=None, wait=False)
    found = await fetch(session, lock, {"ids": statements.ids(tags)})
    locked = {row_id for (row_id,) in found} if statements.skips_locked else tags.keys()
    bodies = await rows.read(session, tags)
    refused: dict[int, ServiceError] = {}
    for row_id, expected in tags.items():
        body = bodies.get(row_id)
        if row_id not in bodies:
            refused[row_id] = NotFoundError(rows.noun)
        elif row_id not in locked:
            refused[row_id] = RowLockedError()
        elif body is None:
            refused[row_id] = DamagedRowError()
        elif tag_of(body) not in expected:
            refused[row_id] = StaleError(rows.noun)
    return refused


async def _errors(
    rows: Rows, session: ReadOnlySession, ids: Collection[int]
) -> Mapping[int, ServiceError]:
    """Say why rows were not changed: they are not there, or somebody else has locked them."""
    existing = await rows.existing(session, ids)
    if existing and not (await rows.statements(session)).skips_locked:
        raise RefusedError  # by a trigger, and what that did instead is undone
    return {
        row_id: RowLockedError() if row_id in existing else NotFoundError(rows.noun)
        for row_id in ids
    }


def _changed(rows: Sequence[Any]) -> Sequence[Any]:
    """Return rows without the column that says whether they were changed.

    Raises `RefusedError` for one that a trigger has kept as it was: what it did instead is undone.
    """
    if not all(is_changed for _, is_changed, *_ in rows):
        raise RefusedError
    return [(row_id, *rest) for row_id, _, *rest in rows]
