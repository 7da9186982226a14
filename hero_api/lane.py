"""A lane: the calls of one batch function in one application, one batch at a time."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from hero_api.errors import (
    ClosingError,
    DamagedHeroError,
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

_GRACE = 0.5  # seconds that a batch has to end when all of its callers were answered

logger = logging.getLogger("hero_api")


@dataclass(frozen=True, eq=False)
class Work(Generic[S, Item, R]):
    """A batch function, and how large its batches may be; `writes` commits each of them."""

    function: Callable[[S, Sequence[Item]], Awaitable[Sequence[R | HeroError]]]
    name: str
    writes: bool
    max_items: int
    max_distinct: int | None


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
    """Takes calls in, and serves them in batches.

    At most `max_waiting` calls wait; one that is not answered `timeout` seconds after it came is
    answered then, whether or not its batch ever ends.
    """

    def __init__(self, work: Work[S, Item, R], *, max_waiting: int, timeout: float) -> None:
        self.name = work.name
        self.batches = 0
        self.items = 0
        self.refused = 0
        self.expired = 0
        self._work = work
        self._max_waiting = max_waiting
        self._timeout = timeout
        self._closed = False
        self._silent_until = 0.0
        self._waiting: deque[_Call[S, Item, R]] = deque()
        self._begun: Sequence[_Call[S, Item, R]] = ()
        self._has_connection = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many calls wait for a batch."""
        return len(self._waiting)

    def submit(self, session: S, item: Item) -> asyncio.Future[R]:
        """Take a call in; the future has its result when its batch is committed."""
        if self._closed:
            raise ClosingError
        if len(self._waiting) >= self._max_waiting:
            self.refused += 1
            raise OverloadedError
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        call = _Call(session, item, answer, loop.time() + self._timeout)
        if self._task is None:
            self._begun = [call]
            self._task = loop.create_task(self._run())
        else:
            self._waiting.append(call)
        if self._timer is None:
            self._timer = loop.call_at(call.deadline, self._expire)
        return answer

    def give_up(self) -> None:
        """Answer every call now, as if its deadline had passed, and refuse new ones."""
        self._closed = True
        self._expire(float("inf"))

    async def close(self) -> None:
        """Refuse new calls, and wait for those under way, at most until the last one's deadline."""
        self._closed = True
        answers = [call.answer for call in (*self._begun, *self._waiting)]
        if self._task is not None:
            # A batch that nobody waits for still has a connection to give back.
            answered = all(answer.done() for answer in answers)
            await asyncio.wait([self._task], timeout=_GRACE if answered else self._timeout)
            # One that stands still is left alone: to cancel it would wait for its connection.
        if self._timer is not None:
            self._timer.cancel()

    async def _run(self) -> None:
        try:
            while self._begun:
                batch = [call for call in self._begun if not call.answer.done()]
                if batch:
                    await self._serve(batch)
                self._has_connection = False
                self._begun = self._next_batch()
        except asyncio.CancelledError:
            # The event loop ends: not even the end of a transaction is waited for.
            for call in self._begun:
                call.session.sync_session.invalidate()
            raise
        self._task = None

    def _next_batch(self) -> Sequence[_Call[S, Item, R]]:
        batch: list[_Call[S, Item, R]] = []
        distinct: set[Item] = set()
        max_distinct = self._work.max_distinct
        while self._waiting and len(batch) < self._work.max_items:
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
            answers = await self._perform(session, batch)
        except Exception as error:  # noqa: BLE001 - it is handed to the callers
            await _give_up(session)
            told = from_database(error)
            if len(batch) == 1 or isinstance(told, UnavailableError):
                self._report(error, told, len(batch))
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
            await (session.commit() if self._work.writes else session.rollback())
        except Exception as error:  # noqa: BLE001 - nobody knows whether it was stored
            await _give_up(session)
            self._report(error, OutcomeUnknownError(), len(batch))
            for call in batch:
                call.fail(OutcomeUnknownError())
            return
        for call, result in answers:
            if isinstance(result, HeroError):
                call.fail(result)
            else:
                call.succeed(result)

    async def _perform(
        self, session: S, batch: Sequence[_Call[S, Item, R]]
    ) -> Sequence[tuple[_Call[S, Item, R], R | HeroError]]:
        """Run the batch function; return the calls that it has served, with their results."""
        if self._work.writes:
            # It may take longer than some wait, who are told then that nothing was changed.
            await session.connection()
            self._has_connection = True
            batch = [call for call in batch if not call.answer.done()]
        items = [call.item for call in batch]
        results = await self._work.function(session, items) if items else []
        return list(zip(batch, results, strict=True))

    def _report(self, error: Exception, told: Exception, size: int) -> None:
        """Log why a batch failed, at most once a second: a database that is gone fails them all."""
        if not isinstance(told, HeroError) or isinstance(told, DamagedHeroError):
            return  # it is answered 500, and logged with the id of its request
        now = asyncio.get_running_loop().time()
        if now >= self._silent_until:
            self._silent_until = now + 1
            cause = error.orig if isinstance(error, DBAPIError) else error.__cause__ or error
            # Not its message, which may quote what a hero holds.
            kind = getattr(cause, "sqlite_errorname", None) or type(cause).__name__
            logger.error("%s: a batch of %d failed: %s: %s", self.name, size, kind, told)

    def _expire(self, until: float | None = None) -> None:
        """Answer the calls whose deadline has passed, whether or not their batch ever ends."""
        loop = asyncio.get_running_loop()
        now = until or loop.time()
        late = OutcomeUnknownError if self._has_connection else LateError
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
