"""Calls that are under way at the same time share a session, a transaction and its sync.

`batched` turns a batch function, which takes a session and a sequence of items, into a call for
one item. A call that finds its queue idle runs at once, alone, on its own session. Calls that
arrive meanwhile wait, and the next batch carries them all, on the session of the first of them.
Nobody is answered before COMMIT returned.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from hero_api.batching.batch import BatchFunction, BatchSpec, Item, Locks, R, S
from hero_api.batching.queue import BatchQueues, QueueSpec
from hero_api.database.verdicts import judge
from hero_api.errors import ServiceError

__all__ = ["BatchQueues", "QueueSpec", "batched"]


def batched(  # noqa: PLR0913 - each but the first two can be left out
    function: BatchFunction[S, Item, R],
    queue: QueueSpec,
    *,
    name: str,
    touches: Callable[[Item], object] | None = None,
    locks: Locks[S] | None = None,
    is_urgent: bool = False,
) -> Callable[[S, Item], Awaitable[R]]:
    """Return a call for one item, of which concurrent ones share the batches of `queue`.

    `function` returns a result, or the error to raise, for each item, in order; with no items it
    still asks the database. Functions that share a queue share its transactions: each is called
    once for a batch, or more often where items that touch the same row (`touches` says which, None
    for none) came in another order. `locks` takes the locks of a batch of several functions, all of
    them in one order. `name` is for the log; an urgent call is in the next batch.

    The call is served by the session's `BatchQueues`; on a session that brings none it is served
    alone, at once, and the session is committed and not closed.
    """
    spec = BatchSpec(function, name, touches, locks, is_urgent)

    def call(session: S, item: Item) -> Awaitable[R]:
        queues = BatchQueues.of(session)
        if queues is None:
            return _serve_alone(spec, session, item)
        return queues.queue(queue).submit(spec, session, item)

    return call


async def _serve_alone(spec: BatchSpec[S, Item, R], session: S, item: Item) -> R:
    """Serve one call on a session that belongs to someone else."""
    result: Any
    try:
        await session.flush()
        [result] = await spec.function(session, [item])
        await session.commit()
    except Exception as error:
        await session.rollback()
        raise judge(error).told from error
    if isinstance(result, ServiceError):
        raise result
    return result  # type: ignore[no-any-return]
