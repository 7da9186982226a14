"""Calls that are under way at the same time share a session, a transaction and its sync.

`batched` turns a batch function, which takes a session and a sequence of items, into a call for
one item. A call that finds its queue idle runs at once. Calls that arrive meanwhile wait, and the
next batch carries them, on a session of its own. Nobody is answered before COMMIT has returned.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import AsyncSession

from hero_api.batching.batch import BatchFunction, BatchSpec, Item, Locks, R, S, end_transaction
from hero_api.batching.queue import QUEUES, BatchQueues, QueueSpec
from hero_api.database.sessions import ReadOnlySession
from hero_api.database.verdicts import judge
from hero_api.errors import FaultError, OutcomeUnknownError, ServiceError

__all__ = ["BatchFunction", "BatchQueues", "Item", "QueueSpec", "R", "batched"]

_TURN = "hero_api.turn"


def batched(  # noqa: PLR0913 - each but the first two can be left out
    function: BatchFunction[S, Item, R],
    queue: QueueSpec,
    *,
    name: str,
    touches: Callable[[Item], object] | None = None,
    locks: Locks | None = None,
    is_urgent: bool = False,
    is_alone: bool = False,
) -> Callable[[S, Item], Awaitable[R]]:
    """Return a call for one item, of which concurrent ones share the batches of `queue`.

    `function` returns a result, or the error to raise, for each item, in order; with no items it
    still asks the database. Functions that share a queue share its transactions: each is called
    once for a batch, or more often where several items touch the same row (`touches` says which,
    None for none), so that it never gets two of these together. `locks` takes the locks of a batch
    of several functions, all of them in one order; rows that somebody else has locked are left out,
    unless it is to `wait`. `name` is for the log. Urgent calls have the next batch for themselves,
    in turns with the others; one that `is_alone` has a batch of its own.

    The call is served by the `BatchQueues` of its session. On another session, such as one that a
    test puts in, or that its user has begun a transaction on, it is served alone, after the calls
    that wait for the same session. A call that writes commits the session then; none closes it.
    """
    spec = BatchSpec(function, name, touches, locks, is_urgent, is_alone)

    def call(session: S, item: Item) -> Awaitable[R]:
        if isinstance(session, ReadOnlySession) and not session.in_transaction():
            queues: BatchQueues | None = session.database.info.get(QUEUES)
            if queues is not None:
                return queues.queue(queue).submit(spec, session.database, item)
        return _serve_alone(spec, session, item, writes=queue.writes)

    return call


async def _serve_alone(spec: BatchSpec[S, Item, R], session: S, item: Item, *, writes: bool) -> R:
    """Serve one call on a session that belongs to someone else, and leave it as the ORM would.

    Raises `FaultError` for what is no `AsyncSession`.
    """
    if not isinstance(session, AsyncSession):
        raise FaultError(
            f"A session dependency was overridden with a {type(session).__name__}: "
            "override it with an AsyncSession, of SQLAlchemy or of SQLModel"
        )
    result: Any
    is_committing = False
    async with session.info.setdefault(_TURN, asyncio.Lock()):
        is_begun = session.in_transaction()
        try:
            await session.flush()
            [result] = await spec.function(session, [item])
            # Where a call is refused, its user decides what becomes of what was begun before it.
            if writes and not (is_begun and isinstance(result, ServiceError)):
                await _refresh(session)
                is_committing = True
                await _commit(session)
        except BaseException as error:
            # Who was cancelled leaves nothing behind to the next call either.
            await end_transaction(session)
            if not isinstance(error, Exception):
                raise
            verdict = judge(error)
            is_unknown = is_committing and not verdict.is_undone
            raise (OutcomeUnknownError() if is_unknown else verdict.told) from error
    if isinstance(result, ServiceError):
        raise result
    return result  # type: ignore[no-any-return]


async def _refresh(session: AsyncSession) -> None:
    """Let the session's objects know what the statements did, of which the ORM knows nothing."""
    for instance in [*session.sync_session.identity_map.values()]:
        key = inspect(instance).identity
        if await session.get(type(instance), key, populate_existing=True) is None:
            session.expunge(instance)  # its row is gone


async def _commit(session: AsyncSession) -> None:
    """Commit, and keep what was refreshed: without `await`, nothing could read it again."""
    expires = session.sync_session.expire_on_commit
    session.sync_session.expire_on_commit = False
    try:
        await session.commit()
    finally:
        session.sync_session.expire_on_commit = expires
