"""Creates that have an idempotency key: each is done once, and answered the same again."""

import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from time import time

from pydantic_core import to_json

from hero_api.database.keys import KEEPING, KEYS, Keeping, KeyStatements
from hero_api.database.sessions import ReadWriteSession, fetch
from hero_api.database.verdicts import Concerns, is_duplicate, judge
from hero_api.errors import (
    ContendedError,
    DamagedRowError,
    DeletedSinceError,
    KeyReusedError,
    LinesRefusedError,
    NoKeysError,
    RowLockedError,
    ServiceError,
)
from hero_api.storage.rows import Created, Keyed, Rows

_BITE = 8  # old keys at most that are cleared away for each that is looked for
_WARY = 64  # batches that look for their keys first, after one that had a known key
_EVERY = 16  # of the batches after them, the one that looks all the same, and clears old keys away


_Known = dict[str, tuple[str, Created | ServiceError]]  # by key: its fingerprint, and the result
_Results = Awaitable[Sequence[Created | ServiceError]]


async def create_drawn_once(
    rows: Rows, session: ReadWriteSession, items: Sequence[Keyed]
) -> Sequence[Created | ServiceError]:
    """Store rows under ids that the database draws."""

    def create(new: Sequence[Keyed]) -> _Results:
        return rows.create_many(session, [item.content for item in new], new)

    return await _create_once(rows, create, session, items)


async def create_chosen_once(
    rows: Rows, session: ReadWriteSession, items: Sequence[Keyed]
) -> Sequence[Created | ServiceError]:
    """Store rows under ids that clients chose, while they are free."""

    def create(new: Sequence[Keyed]) -> _Results:
        return rows.create_chosen(session, [item.content for item in new])

    return await _create_once(rows, create, session, items)


async def _create_once(
    rows: Rows,
    create: Callable[[Sequence[Keyed]], _Results],
    session: ReadWriteSession,
    items: Sequence[Keyed],
    *,
    looks: bool = False,
) -> Sequence[Created | ServiceError]:
    """Store rows by `create`, with their keys; what was stored under a key is answered again.

    A row that is refused leaves no key. While none was known lately, a batch does not look for its
    keys first: one that is known fails when it is stored, and the batch is run again, with a look.
    """
    keys = (await rows.statements(session)).keys
    if keys is None:
        return [NoKeysError() for _ in items]
    keeping = _keeping(session)
    known: _Known = {}
    looks = looks or _is_wary(session, keeping)
    if looks:
        known = await _look(rows, session, keys, [item.key for item in items])
    new = [item for item in items if item.key not in known]
    results: dict[str, Created | ServiceError] = {}
    if new or not items:
        try:
            created = [*zip(new, await create(new), strict=True)]
            await _keep(rows, session, keys, created)
        except Exception as error:
            # Whatever the database says of a row, its key may be known.
            is_item = judge(error).concerns is Concerns.ITEM
            if not (is_duplicate(error, KEYS.name) if looks else is_item):
                raise
            keeping.unknown = 0
            raise ContendedError from error
        results = {item.key: row for item, row in created}
    for item in items:
        if item.key in known:
            fingerprint, result = known[item.key]
            is_other = isinstance(result, Created) and fingerprint != item.fingerprint
            results[item.key] = KeyReusedError() if is_other else result
    return [results[item.key] for item in items]


async def _keep(
    rows: Rows,
    session: ReadWriteSession,
    keys: KeyStatements,
    created: Sequence[tuple[Keyed, Created | ServiceError]],
) -> None:
    """Keep the keys of the rows that were stored, and how they are answered."""
    kept = [
        {"key": item.key, "fingerprint": item.fingerprint, "row_id": row.id, "answer": row.body}
        for item, row in created
        if isinstance(row, Created) and not row.is_kept
    ]
    if kept or not created:  # without items, to see whether it can be run at all
        parameters = {"noun": rows.noun, "now": int(time()), "items": to_json(kept).decode()}
        await fetch(session, keys.store, parameters)
    refused = [item.key for item, row in created if isinstance(row, ServiceError)]
    if refused and await _look(rows, session, keys, refused):
        raise ContendedError


async def create_bulks_once(
    rows: Rows, session: ReadWriteSession, items: Sequence[Keyed]
) -> Sequence[Sequence[Created] | ServiceError]:
    """Store all rows of each bulk with its key, or read those that were stored under it."""
    create = partial(_create_for_ids, rows, session)
    # They would be much to run again.
    stored = await _create_once(rows, create, session, items, looks=True)
    for each in stored:
        if isinstance(each, LinesRefusedError):
            raise each  # raised, not returned: the other rows are undone
    return [
        await _read_together(rows, session, each) if isinstance(each, Created) else each
        for each in stored
    ]


async def _create_for_ids(
    rows: Rows, session: ReadWriteSession, items: Sequence[Keyed]
) -> Sequence[Created | ServiceError]:
    """Store all rows of each bulk; what is kept of a bulk is its ids, and not its rows."""
    try:
        stored = await rows.create_bulks(session, [item.content for item in items])
    except LinesRefusedError as error:
        return [error for _ in items]
    kept = ([row.id for row in bulk] for bulk in stored)
    return [Created(ids[0], json.dumps(ids)) for ids in kept]


async def _read_together(
    rows: Rows, session: ReadWriteSession, stored: Created
) -> Sequence[Created] | ServiceError:
    """Read the rows of a bulk of which the ids were kept."""
    ids: list[int] = json.loads(stored.body)
    bodies = await rows.read(session, ids)
    if len(bodies) < len(ids):
        return DeletedSinceError(rows.noun)
    found = [Created(n, body, stored.is_replay) for n in ids if (body := bodies[n])]
    return found if len(found) == len(ids) else DamagedRowError()


async def _look(
    rows: Rows, session: ReadWriteSession, keys: KeyStatements, names: Collection[str]
) -> _Known:
    """Return the keys that are known or that another process works on; clear old ones away."""
    keeping = _keeping(session)
    asked: dict[str, object] = {
        "noun": rows.noun,
        "keys": json.dumps(sorted(names)),
        "oldest": int(time() - keeping.seconds),
        "bite": _BITE * len(names),
    }
    found = await fetch(session, keys.find, asked)
    keeping.has_old = bool(found[0][0])
    if keeping.has_old:
        await fetch(session, keys.expire, asked)
        found = await fetch(session, keys.find, asked)
    found = [row for _, *row in found if row[0] is not None]
    if found:
        keeping.unknown = 0
    row_ids = {row_id for _, _, row_id, _ in found if row_id is not None}
    existing = await rows.existing(session, row_ids)
    known: _Known = {}
    for key, fingerprint, row_id, body in found:
        known[key] = fingerprint, DeletedSinceError(rows.noun)
        if row_id is None:
            known[key] = "", RowLockedError()
        elif body is not None and row_id in existing:
            known[key] = fingerprint, Created(row_id, body, is_replay=True)
    return known


def _is_wary(session: ReadWriteSession, keeping: Keeping) -> bool:
    """Say whether to look first: always in what would not be run again, and most often else."""
    if not (isinstance(session, ReadWriteSession) and session.is_optimistic):
        return True
    batch = keeping.unknown
    keeping.unknown += 1
    return batch < _WARY or batch % _EVERY == 0 or keeping.has_old


def _keeping(session: ReadWriteSession) -> Keeping:
    keeping: Keeping = session.info.get(KEEPING) or Keeping()
    return keeping
