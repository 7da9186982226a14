"""The queues of an application: what waits in one is served in the order in which it came."""

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context, ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from hero_api.batching.batch import AnyCall, Batch, BatchSpec, Call, Item, R, S, waited_for
from hero_api.database.postgresql.engine import LOCKED_ROWS
from hero_api.database.sessions import Database
from hero_api.database.verdicts import describe
from hero_api.errors import (
    ClosingError,
    FaultError,
    LateError,
    LinesRefusedError,
    OutcomeUnknownError,
    OverloadedError,
    ServiceError,
)
from hero_api.histogram import SECONDS, Histogram

QUEUES = "hero_api.queues"  # under this name a database's `info` has its queues
_GRACE = 0.5  # seconds that a batch has to end when all of its callers were answered
_TURN = 0.01  # seconds that a short batch waits for another
_STALLED = 1.0  # seconds: by so much a timer is late only where the process stood still
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # calls of a batch

# When the request of the current task arrived, by the loop's clock, where its server knows better
# than the call: it may have waited before it was begun.
arrived: ContextVar[float | None] = ContextVar("arrived", default=None)
logger = logging.getLogger("hero_api")


@dataclass(frozen=True, eq=False)
class QueueSpec:
    """What shares batches: one queue for each thing that is scarce.

    A batch has at most `max_items`, and at most `max_distinct` different ones (hashable ones,
    then). Those of a queue that `writes` are committed; those that are `short` take a millisecond
    or few, as a rule. `name` names the queue in metrics.
    """

    name: str
    writes: bool = False
    short: bool = False
    max_items: int = 256
    max_distinct: int | None = None


class BatchQueues:
    """The queues of one application, each made when it is first used.

    A database has them in its `info`. `timeout` is the seconds that a request waits for its batch,
    and `readers` is how many batches may read at a time: short ones one after the other where they
    are `in_turn`, but none waits for long.
    """

    def __init__(self, *, timeout: float, readers: int, in_turn: bool = False) -> None:
        self._closed = False
        self.info: dict[str, Any] = {QUEUES: self}
        self._timeout = timeout
        # It is fair, which the pool of connections is not: that one gives a connection back to the
        # queue that has just returned it, before it wakes the one that waits.
        self._readers = asyncio.Semaphore(readers)
        self._turn = asyncio.Lock() if in_turn else None
        self._queues: dict[QueueSpec, BatchQueue] = {}

    def __iter__(self) -> Iterator["BatchQueue"]:
        """Iterate over the queues that were used."""
        return iter(self._queues.values())

    def queue(self, spec: QueueSpec) -> "BatchQueue":
        """Return the queue of this kind. Raises `ClosingError` when the application ends."""
        if self._closed:
            raise ClosingError
        queue = self._queues.get(spec)
        if queue is None:
            # There is one queue that writes, and one batch of it at a time.
            connections = asyncio.Semaphore() if spec.writes else self._readers
            turn = self._turn if spec.short else None
            queue = BatchQueue(spec, connections, turn, timeout=self._timeout)
            self._queues[spec] = queue
        return queue

    def give_up(self) -> None:
        """Answer every call now, as if its deadline had passed, and refuse new ones."""
        self._closed = True
        for queue in self:
            queue.answer_late(float("inf"))

    async def close(self) -> None:
        """Refuse new calls, and wait for those under way, at most until the last one's deadline."""
        self._closed = True
        await asyncio.gather(*(queue.close() for queue in self))


class BatchQueue:
    """Takes calls in, and serves them in batches, one at a time.

    A call that is not answered `timeout` seconds after its request arrived is answered then,
    whether or not its batch ever ends.
    """

    def __init__(
        self,
        spec: QueueSpec,
        connections: asyncio.Semaphore,
        turn: asyncio.Lock | None,
        *,
        timeout: float,
    ) -> None:
        self.name = spec.name
        self.writes = spec.writes
        self.sizes = Histogram(_SIZES)
        self.waits = Histogram(SECONDS)
        self.commits = Histogram(SECONDS)
        self.refused = 0
        self.expired = 0
        self._batch = partial(
            Batch,
            writes=spec.writes,
            report=self._report,
            commits=self.commits,
            is_followed=lambda: self.waiting > 0,
        )
        self._spec = spec
        self._connections = connections
        self._turn = turn
        self._locked_rows = asyncio.Semaphore(LOCKED_ROWS)
        self._timeout = timeout
        self._silent_until: defaultdict[type[Exception], float] = defaultdict(float)
        self._waiting: deque[AnyCall] = deque()
        self._urgent: deque[AnyCall] = deque()
        self._task: asyncio.Task[None] | None = None
        self._begun: set[Batch] = set()
        self._rows: dict[object, list[AnyCall]] = {}  # rows that are waited for, and by whom
        self._row_tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Handle | None = None  # uvloop's does not know when
        self._timer_due = 0.0

    @property
    def waiting(self) -> int:
        """How many calls wait for a batch."""
        return len(self._waiting) + len(self._urgent)

    def submit(
        self, spec: BatchSpec[S, Item, R], database: Database, item: Item
    ) -> asyncio.Future[R]:
        """Take a call in; the future has its result when its batch is committed."""
        loop = asyncio.get_running_loop()
        now, since = loop.time(), arrived.get()
        deadline = self._timeout + (now if since is None else since)
        if deadline <= now:
            self.refused += 1
            raise OverloadedError
        answer: asyncio.Future[R] = loop.create_future()
        call = Call(spec, database, item, answer, deadline)
        (self._urgent if spec.is_urgent else self._waiting).append(call)
        if self._task is None or self._task.done():  # cancelled, with its batch
            # Without the context of whoever came first: it serves all.
            self._task = loop.create_task(self._run(), context=Context())
        if self._timer is None or deadline < self._timer_due:
            self._set_timer(deadline)
        return answer

    def answer_late(self, now: float) -> None:
        """Answer the calls whose deadline has passed, whether or not their batch ever ends."""
        may_be_stored = {
            call for batch in self._begun if batch.may_have_written for call in batch.calls
        }
        for call in self._unanswered():
            if call.deadline <= now:
                self.expired += 1
                call.settle(OutcomeUnknownError() if call in may_be_stored else LateError())

    async def close(self) -> None:
        """Wait for the calls under way, at most until the last one's deadline."""
        tasks = [*self._row_tasks, *([self._task] if self._task else [])]
        if tasks:
            # A batch that nobody waits for still has a connection to give back.
            is_waited_for = bool(self._unanswered())
            await asyncio.wait(tasks, timeout=self._timeout if is_waited_for else _GRACE)
            # One that stands still is left alone: to cancel it would wait for its connection.
        if self._timer is not None:
            self._timer.cancel()

    async def _run(self) -> None:
        """Serve what has come, in batches, until nobody waits."""
        served = 0
        waiting = self._waiting
        while self._waiting or self._urgent:
            async with self._in_turn(), self._connections:
                # In turns: however many urgent calls come, the others are served too.
                is_urgents_turn = waiting is self._waiting or not self._waiting
                waiting = self._urgent if self._urgent and is_urgents_turn else self._waiting
                limit = self._spec.max_items
                if self.writes and waiting is self._waiting:
                    # While the disk works for one half of the clients, the other half is answered
                    # and comes back: those who were served last are counted in.
                    limit = min(limit, (len(waiting) + served + 1) // 2)
                batch = self._batch(self._next_calls(waiting, limit))
                served = len(batch.calls)
                if batch.calls:
                    await self._serve(batch)
            self._wait_for_rows(batch.locked)
        self._task = None

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """Wait for another short batch, unless that takes long after all."""
        if self._turn is None:
            yield
            return
        has_turn = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_TURN if self._turn.locked() else None):
                has_turn = await self._turn.acquire()
        try:
            yield
        finally:
            if has_turn:
                self._turn.release()

    async def _serve(self, batch: Batch) -> None:
        self._begun.add(batch)
        self.sizes.observe(len(batch.calls))
        latest = asyncio.get_running_loop().time() + self._timeout
        for call in batch.calls:
            self.waits.observe(latest - call.deadline)
        try:
            await batch.serve()
        except asyncio.CancelledError:
            # The event loop ends: not even the end of a transaction is waited for.
            batch.session.sync_session.invalidate()
            for call in batch.calls:
                call.answer.cancel()
            raise
        finally:
            self._begun.discard(batch)

    def _wait_for_rows(self, calls: Sequence[AnyCall]) -> None:
        """Serve calls whose rows somebody else has locked, when those are free: nobody else waits.

        Each row has a transaction and a connection of its own.
        """
        for call in calls:
            row = call.touched or call
            if row in self._rows:
                self._rows[row].append(call)
                continue
            self._rows[row] = [call]
            task = asyncio.get_running_loop().create_task(self._serve_row(row))
            self._row_tasks.add(task)
            task.add_done_callback(self._row_tasks.discard)

    async def _serve_row(self, row: object) -> None:
        """Serve those who wait for a row, and those who have come for it meanwhile."""
        try:
            async with self._locked_rows:
                while calls := waited_for(self._rows[row]):
                    await self._serve(self._batch(calls, waits=True))
        finally:
            # Where it was cancelled some still wait, and nobody else serves them.
            for call in self._rows.pop(row):
                call.answer.cancel()

    def _next_calls(self, waiting: deque[AnyCall], limit: int) -> Sequence[AnyCall]:
        calls: list[AnyCall] = []
        distinct: set[Any] = set()
        max_distinct = self._spec.max_distinct
        while waiting and len(calls) < limit:
            call = waiting[0]
            if not call.answer.done():
                if calls and (call.spec.is_alone or calls[0].spec.is_alone):
                    break
                if max_distinct is not None:
                    distinct.add(call.item)
                    if len(distinct) > max_distinct:
                        break
                calls.append(call)
            waiting.popleft()
        return calls

    def _report(self, error: Exception, told: Exception, size: int) -> None:
        """Log an error and what was told, each kind at most once a second: many may meet it."""
        if isinstance(told, LinesRefusedError | FaultError) or not isinstance(told, ServiceError):
            # The client is told all of it; or it is a 500, and logged with the id of its request.
            return
        now = asyncio.get_running_loop().time()
        if now >= self._silent_until[type(told)]:
            self._silent_until[type(told)] = now + 1
            what = describe(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            logger.error("%s: %d failed: %s: %s", self.name, size, what, told)

    def _unanswered(self) -> list[AnyCall]:
        begun = (batch.calls for batch in self._begun)
        return waited_for(chain(*begun, *self._rows.values(), self._waiting, self._urgent))

    def _expire(self, due: float) -> None:
        """Answer who is late, and set the timer for who comes next."""
        loop = asyncio.get_running_loop()
        late = loop.time() - due
        if late > _STALLED:
            # The process stood still, and with it everything that could have answered.
            for call in self._unanswered():
                call.deadline += late
        self.answer_late(loop.time())
        self._timer = None
        if deadlines := [call.deadline for call in self._unanswered()]:
            self._set_timer(min(deadlines))

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = asyncio.get_running_loop().call_at(due, self._expire, due)
