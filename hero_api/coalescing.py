"""Coalesced sessions: calls for one item, served in batches that share a session.

`coalesce` turns a batch function into a call for one item. A call that finds its lane idle runs
at once, alone, on its own session; calls that arrive meanwhile share the next batch: one session,
one transaction, one set of statements. Nobody is answered before COMMIT returned.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from hero_api.errors import ClosingError, HeroError, from_database
from hero_api.lane import Item, Lane, R, S, Work

_KEY = "hero_api.lanes"


def coalesce(
    function: Callable[[S, Sequence[Item]], Awaitable[Sequence[R | HeroError]]],
    *,
    name: str,
    writes: bool = False,
    max_items: int = 256,
    max_distinct: int | None = None,
) -> Callable[[S, Item], Awaitable[R]]:
    """Return a call for one item, of which concurrent ones share the batches of `function`.

    `function` takes a session and a sequence of items, and returns a result, or the error to
    raise, for each, in order. `name` names the lane in metrics; `writes` commits each batch; a
    batch has at most `max_items`, and at most `max_distinct` different ones (hashable ones, then).

    The call is served in a lane of the session's `Lanes`; on a session that brings none it is
    served alone, at once, and the session is committed and not closed.
    """
    work = Work(function, name, writes, max_items, max_distinct)

    def call(session: S, item: Item) -> Awaitable[R]:
        lanes: Lanes | None = session.info.get(_KEY)
        if lanes is None:
            return _serve_alone(work, session, item)
        return lanes.lane(work).submit(session, item)

    return call


async def _serve_alone(work: Work[S, Item, R], session: S, item: Item) -> R:
    """Serve one call on a session that belongs to someone else."""
    try:
        await session.flush()
        [result] = await work.function(session, [item])
        await session.commit()
    except Exception as error:
        await session.rollback()
        raise from_database(error) from error
    if isinstance(result, HeroError):
        raise result
    return result


class Lanes:
    """The lanes of one application: one for each coalesced function, made when it is first called.

    A session brings them along: `AsyncSession(engine, info=lanes.info)`. `max_waiting` bounds the
    calls that wait in a lane; `timeout` is the seconds that a call waits for its batch.
    """

    def __init__(self, *, max_waiting: int, timeout: float) -> None:
        self.closed = False
        self.info: dict[str, Any] = {_KEY: self}
        self._max_waiting = max_waiting
        self._timeout = timeout
        self._lanes: dict[Work[Any, Any, Any], Lane[Any, Any, Any]] = {}

    def __iter__(self) -> Iterator[Lane[Any, Any, Any]]:
        """Iterate over the lanes that were used."""
        return iter(self._lanes.values())

    def lane(self, work: Work[S, Item, R]) -> Lane[S, Item, R]:
        """Return the lane that does `work`."""
        lane = self._lanes.get(work)
        if lane is None:
            if self.closed:
                raise ClosingError
            lane = Lane(work, max_waiting=self._max_waiting, timeout=self._timeout)
            self._lanes[work] = lane
        return lane

    def give_up(self) -> None:
        """Answer every call now, as if its deadline had passed, and refuse new ones."""
        self.closed = True
        for lane in self:
            lane.give_up()

    async def close(self) -> None:
        """Refuse new calls, and wait for those under way, at most until the last one's deadline."""
        self.closed = True
        await asyncio.gather(*(lane.close() for lane in self))
