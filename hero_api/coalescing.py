"""Coalesced sessions: calls for one item, served in batches that share a session.

`coalesce` turns a batch function into a call for one item. A call that finds its lane idle runs
at once, alone, on its own session; calls that arrive meanwhile share the next batch: one session,
one transaction, one set of statements. Nobody is answered before COMMIT returned.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from hero_api.errors import (
    ClosingError,
    HeroError,
    LateError,
    OutcomeUnknownError,
    OverloadedError,
    UnavailableError,
    from_database,
)

S = TypeVar("S", bound=AsyncSession)
Item = TypeVar("Item")
R = TypeVar("R")

BatchFunction = Callable[[S, Sequence[Item]], Awaitable[Sequence[R | HeroError]]]

_KEY = "hero_api.lanes"


@dataclass(frozen=True, eq=False)
class Coalesced(Generic[S, Item, R]):
    """A batch function as a call for one item; what the batch function raises, it raises."""

    function: BatchFunction[S, Item, R]
    name: str
    writes: bool
    max_items: int
    max_distinct: int | None

    def __call__(self, session: S, item: Item) -> Awaitable[R]:
        """Serve one item; await it for its result."""
        lanes: Lanes | None = session.info.get(_KEY)
        if lanes is None:
            return self._alone(session, item)
        return lanes.lane(self).submit(session, item)

    async def _alone(self, session: S, item: Item) -> R:
        """Serve one call on a session that belongs to someone else: committed, not closed."""
        try:
            [result] = await self.function(session, [item])
            await session.commit()
        except Exception as error:
            await session.rollback()
            raise from_database(error) from error
        if isinstance(result, HeroError):
            raise result
        return result


def coalesce(
    function: BatchFunction[S, Item, R],
    *,
    name: str,
    writes: bool = False,
    max_items: int = 256,
    max_distinct: int | None = None,
) -> Coalesced[S, Item, R]:
    """Let concurrent calls for one item share the batches of `function`.

    `function` takes a session and a sequence of items, and returns a result, or the error to
    raise, for each, in order. `name` names the lane in metrics; `writes` commits each batch; a
    batch has at most `max_items`, and at most `max_distinct` different ones (hashable ones, then).
    """
    return Coalesced(function, name, writes, max_items, max_distinct)


class Lanes:
    """The lanes of one application: one for each coalesced function, made when it is first called.

    A session brings them along: `AsyncSession(engine, info=lanes.info)`. `max_waiting` bounds the
    calls that wait in a lane; `timeout` is the seconds that a call waits for its batch.
    """

    def __init__(self, *, max_waiting: int, timeout: float) -> None:
        self.max_waiting = max_waiting
        self.timeout = timeout
        self.closed = False
        self.info: dict[str, Any] = {_KEY: self}
        self._lanes: dict[Coalesced[Any, Any, Any], Lane[Any, Any, Any]] = {}

    def __iter__(self) -> "Iterator[Lane[Any, Any, Any]]":
        """Iterate over the lanes that were used."""
        return iter(self._lanes.values())

    def lane(self, coalesced: Coalesced[S, Item, R]) -> "Lane[S, Item, R]":
        """Return the lane of `coalesced`."""
        lane = self._lanes.get(coalesced)
        if lane is None:
            lane = self._lanes[coalesced] = Lane(self, coalesced)
        return lane

    async def close(self) -> None:
        """Refuse new calls, and wait for those under way, at most until the last one's deadline."""
        self.closed = True
        for lane in self:
            await lane.close()


@dataclass(eq=False, slots=True)
class _Call(Generic[S, Item, R]):
    session: S
    item: Item
    answer: asyncio.Future[R]
    deadline: float

    def succeed(self, result: R) -> None:
        if not self.answer.done():
            self.answer.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Lane(Generic[S, Item, R]):
    """The calls of one coalesced function in one application; one batch at a time."""

    def __init__(self, lanes: Lanes, coalesced: Coalesced[S, Item, R]) -> None:
        self.name = coalesced.name
        self.batches = 0
        self.items = 0
        self.refused = 0
        self.expired = 0
        self._lanes = lanes
        self._coalesced = coalesced
        self._waiting: deque[_Call[S, Item, R]] = deque()
        self._begun: Sequence[_Call[S, Item, R]] = ()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many calls wait for a batch."""
        return len(self._waiting)

    def submit(self, session: S, item: Item) -> asyncio.Future[R]:
        """Take a call in; the future has its result when its batch is committed."""
        if self._lanes.closed:
            raise ClosingError
        if len(self._waiting) >= self._lanes.max_waiting:
            self.refused += 1
            raise OverloadedError
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        call = _Call(session, item, answer, loop.time() + self._lanes.timeout)
        if self._task is None:
            self._begun = [call]
            self._task = loop.create_task(self._run())
        else:
            self._waiting.append(call)
        if self._timer is None:
            self._timer = loop.call_at(call.deadline, self._expire)
        return answer

    async def close(self) -> None:
        """Wait until no batch is under way, or until the last caller's deadline has passed."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=self._lanes.timeout)
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while self._begun:
            batch = [call for call in self._begun if not call.answer.done()]
            if batch:
                await self._serve(batch)
            self._begun = self._next_batch()
        self._task = None

    def _next_batch(self) -> Sequence[_Call[S, Item, R]]:
        batch: list[_Call[S, Item, R]] = []
        distinct: set[Item] = set()
        max_distinct = self._coalesced.max_distinct
        while self._waiting and len(batch) < self._coalesced.max_items:
            call = self._waiting[0]
            if not call.answer.done():
                if max_distinct is not None:
                    distinct.add(call.item)
                    if len(distinct) > max_distinct:
                        break
                batch.append(call)
            self._waiting.popleft()
        return batch

    async def _serve(self, batch: Sequence[_Call[S, Item, R]]) -> None:
        session = batch[0].session
        self.batches += 1
        self.items += len(batch)
        try:
            results = await self._coalesced.function(session, [call.item for call in batch])
            answers = list(zip(batch, results, strict=True))
        except Exception as error:  # noqa: BLE001 - it is handed to the callers
            await _give_up(session)
            if len(batch) == 1 or isinstance(from_database(error), UnavailableError):
                for call in batch:
                    call.fail(from_database(error))
            else:
                # One caller never pays for another: each is served alone, on its own session.
                for call in batch:
                    if not call.answer.done():
                        await self._serve([call])
            return
        try:
            # A read needs no COMMIT: the rollback, which sends nothing, returns the connection.
            await (session.commit() if self._coalesced.writes else session.rollback())
        except Exception:  # noqa: BLE001 - nobody knows whether it was stored
            await _give_up(session)
            for call in batch:
                call.fail(OutcomeUnknownError())
            return
        for call, result in answers:
            if isinstance(result, HeroError):
                call.fail(result)
            else:
                call.succeed(result)

    def _expire(self) -> None:
        """Answer the calls whose deadline has passed, whether or not their batch ever ends."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        late = OutcomeUnknownError if self._coalesced.writes else LateError
        for call in self._begun:
            if call.deadline <= now and not call.answer.done():
                self.expired += 1
                call.fail(late())
        while self._waiting and (
            self._waiting[0].answer.done() or self._waiting[0].deadline <= now
        ):
            call = self._waiting.popleft()
            if not call.answer.done():
                self.expired += 1
                call.fail(LateError())
        pending = [call.deadline for call in self._begun if not call.answer.done()]
        pending += [call.deadline for call in self._waiting][:1]
        self._timer = loop.call_at(min(pending), self._expire) if pending else None


async def _give_up(session: AsyncSession) -> None:
    """End the session's transaction; a connection that cannot even do that is thrown away."""
    try:
        await session.rollback()
    except Exception:  # noqa: BLE001 - whatever it is, the connection is of no use
        await session.invalidate()
