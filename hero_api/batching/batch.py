"""A batch: calls that share a transaction, and how the one that spoils it is found."""

import asyncio
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from hero_api.database.sessions import Database, check_constraints, connect
from hero_api.database.verdicts import Concerns, blame_statement, describe, is_hearsay, judge
from hero_api.errors import (
    NoRoomError,
    OutcomeUnknownError,
    RefusedError,
    RowLockedError,
    ServiceError,
    StatementError,
    UnavailableError,
)
from hero_api.histogram import Histogram

S = TypeVar("S", bound=AsyncSession)
Item = TypeVar("Item")
R = TypeVar("R")
BatchFunction = Callable[[S, Sequence[Item]], Awaitable[Sequence[R | ServiceError]]]
Locks = Callable[..., Awaitable[None]]  # of a session and items of any kind, and whether to `wait`

_TRIES = 16  # of a batch whose transactions others get in the way of
_PAUSE = 0.02  # seconds at most between two of them
_MANY = 4  # culprits of a batch, which its rest would be run again for, one by one


@dataclass(frozen=True, eq=False)
class BatchSpec(Generic[S, Item, R]):
    """A batch function, and what is known of it: see `batched`."""

    function: BatchFunction[S, Item, R]
    name: str
    touches: Callable[[Item], object] | None
    locks: Locks | None
    is_urgent: bool
    is_alone: bool


@dataclass(eq=False, slots=True)
class Call(Generic[S, Item, R]):
    """One item, and the future that its caller waits for."""

    spec: BatchSpec[S, Item, R]
    database: Database
    item: Item
    answer: asyncio.Future[R]
    deadline: float

    @property
    def touched(self) -> object:
        """The row that the item is about; None where it is about none that exists."""
        return self.spec.touches(self.item) if self.spec.touches else None

    def settle(self, result: Any) -> None:  # noqa: ANN401 - R, or an error
        """Answer the caller, unless it has gone or was answered."""
        if self.answer.done():
            return
        if isinstance(result, Exception):
            self.answer.set_exception(result)
        else:
            self.answer.set_result(result)


AnyCall = Call[Any, Any, Any]
_Outcomes = list[tuple[AnyCall, Any]]
Report = Callable[[Exception, Exception, int], None]


class Batch:
    """Serves calls in one transaction, and in as few as can be where some of them are refused.

    `report` is told of each error, what the callers are told of it, and how many they are, and
    `commits` of the seconds of each COMMIT; `is_followed` says whether the next batch waits. Calls
    whose rows somebody else has locked end up in `locked`, unless the batch `waits` for them.
    """

    def __init__(  # noqa: PLR0913 - what its queue knows
        self,
        calls: Sequence[AnyCall],
        *,
        writes: bool,
        report: Report,
        commits: Histogram,
        is_followed: Callable[[], bool],
        waits: bool = False,
    ) -> None:
        self.calls = calls
        self.session: Any = None  # of its own: a caller that has left may close, or use, its own
        self.locked: list[AnyCall] = []
        self.may_have_written = False
        self._writes = writes
        self._waits = waits
        self._report = report
        self._commits = commits
        self._is_followed = is_followed
        self._running: BatchSpec[Any, Any, Any] | None = None
        self._failed_at_commit = False
        self._refused: _Outcomes = []
        self._has_many_culprits = False
        self._rest: list[AnyCall] = []  # of a batch that was divided, to be served at the end
        self._tries = _TRIES

    async def serve(self) -> None:
        """Serve every call that is still waited for."""
        failure = None
        try:
            database = self.calls[0].database
            self.session = database.write_session() if self._writes else database.read_session()
            if self._writes and not self._waits:
                self.session.is_optimistic = True
            await self._transact(self.calls)
            while self._rest:
                rest, self._rest = self._rest, []
                self._has_many_culprits = len(self._refused) >= _MANY
                await self._transact(rest)
        except Exception as error:  # noqa: BLE001 - raised where an error was handled
            failure = error
        for call, told in self._refused:
            self._answer(call, told)
        if failure:
            for call in self.calls:
                call.settle(failure)
            with suppress(Exception):
                await end_transaction(self.session)

    async def _transact(self, calls: Sequence[AnyCall], *, in_parts: bool = False) -> bool:
        """Serve calls in one transaction; where that fails, see what can be done, and say False."""
        calls = waited_for(calls)
        if not calls:
            return True
        session = self.session
        is_committing = False
        refused = len(self._refused)
        self._running = None
        try:
            if self._writes:
                # It may take longer than some wait, who are told then that nothing was changed.
                await connect(session)
                self.may_have_written = True
                calls = waited_for(calls)
            run = self._run_parts if in_parts else self._run
            outcomes = await run(calls)
            is_committing = self._writes
            if is_committing:
                begun = perf_counter()
                await session.commit()
                self._commits.observe(perf_counter() - begun)
                if self._is_followed():
                    # For a handler that waits for SQLite's one writing connection: else the next
                    # batch has it before the handler is awake, and so on. It would cost a lone
                    # write 4 %.
                    await asyncio.sleep(0)
            else:
                # A read needs no COMMIT, and gives its connection back sooner than by a rollback.
                await session.close()
        except Exception as raised:  # noqa: BLE001 - it is handed to the callers
            error = raised
            if self._writes:
                session.is_optimistic = False
            await end_transaction(session)
            # They are run again, and one that was found locked twice would be waited for twice.
            del self._refused[refused:]
            self._failed_at_commit = is_committing
            if is_committing and not judge(error).is_undone:
                self._tell(calls, error, OutcomeUnknownError)
            else:
                await self._recover(calls, error, may_divide=not in_parts)
            return False
        for call, result in outcomes:
            self._answer(call, result)
        return True

    async def _recover(
        self, calls: Sequence[AnyCall], error: Exception, *, may_divide: bool
    ) -> None:
        """Serve again calls of which nothing was stored, but for those whom the error concerns."""
        verdict = judge(error)
        if self._waits and isinstance(verdict.told, RowLockedError):
            self._tell(calls, error, RowLockedError)  # they want one row, and have waited
        elif verdict.concerns is Concerns.EVERYBODY and (
            self._running is None or not is_hearsay(error)
        ):
            kinds: defaultdict[object, list[AnyCall]] = defaultdict(list)
            for call in calls:
                kinds[call.spec].append(call)
            # Where there is no room for creates, there still is for the deletes that make some.
            if isinstance(verdict.told, NoRoomError) and len(kinds) > 1:
                for kind in kinds.values():
                    await self._transact(kind)
            else:
                self._tell(calls, error, lambda: judge(error).told)
        elif verdict.concerns is Concerns.MOMENT and self._tries > 1:
            if self._tries < _TRIES:  # the first time at once: it may be by ourselves
                await asyncio.sleep(random.uniform(0, _PAUSE))  # noqa: S311
            self._tries -= 1
            await self._transact(calls)
        elif verdict.concerns is not Concerns.ITEM and self._running is not None and may_divide:
            await self._find_fault(self._running, calls, error)
        else:
            in_parts = may_divide and (not self._failed_at_commit or self.session.can_check)
            await self._divide(calls, error, in_parts=in_parts)

    async def _divide(
        self, calls: Sequence[AnyCall], error: Exception, *, in_parts: bool = True
    ) -> None:
        """Find the call that spoils the others, in one transaction (`in_parts`) or in several."""
        if len(calls) == 1:
            self._refuse(calls[0], error)
        elif self._writes and in_parts:
            await self._transact(calls, in_parts=True)
        else:
            ordered = _in_stages(calls)
            # More than half: where these fail, which is likely then, that has cost no sync.
            cut = max(1, len(ordered) * 2 // 3)
            if await self._transact(ordered[:cut]) or self._has_many_culprits:
                await self._transact(ordered[cut:])
            else:
                # These may well be good, and share a transaction with all that are left over.
                self._rest += ordered[cut:]

    async def _find_fault(
        self, spec: BatchSpec[Any, Any, Any], calls: Sequence[AnyCall], error: Exception
    ) -> None:
        """Tell a statement that cannot be run at all from one that an item makes fail."""
        session = self.session
        try:
            if self._writes:
                await session.limit_lock_waits()
            await spec.function(session, [])
        except Exception as without_items:  # noqa: BLE001 - it is handed to the callers
            found = without_items
            await end_transaction(session)
            # A database that is not available is not there for the others either.
            is_fault = not isinstance(blame_statement(spec.name, found), UnavailableError)
            told = [call for call in calls if call.spec is spec or not is_fault]
            rest = [call for call in calls if call.spec is not spec and is_fault]
            self._tell(told, found, lambda: blame_statement(spec.name, found))
            await self._transact(rest)
            return
        await end_transaction(session)
        await self._divide(calls, error)

    async def _run(self, calls: Sequence[AnyCall]) -> _Outcomes:
        """Take the locks, and call each batch function once, or as often as items touch one row."""
        await self._lock(calls)
        if self._waits:
            await self.session.limit_lock_waits()  # the row is locked: nothing else is waited for
        return await self._call(calls)

    async def _call(self, calls: Sequence[AnyCall]) -> _Outcomes:
        """Call the batch functions of calls whose locks are taken."""
        outcomes: _Outcomes = []
        for stage in stages(calls):
            self._running = stage[0].spec
            results = await self._running.function(self.session, [call.item for call in stage])
            outcomes += zip(stage, results, strict=True)
        self._running = None
        return outcomes

    async def _run_parts(self, calls: Sequence[AnyCall]) -> _Outcomes:
        """Run calls of which some fail: parts of them, each behind a savepoint.

        Of a part that fails one half is run, and half of what is left of it, until the call that
        fails is found. Behind that the parts begin small, and each is twice as large as the last.
        """
        session = self.session
        await session.limit_lock_waits()
        await self._lock(calls)
        served: list[AnyCall] = []
        outcomes: _Outcomes = []
        left = _in_stages(calls)
        suspects = len(left)  # so many from here on have a call that fails among them
        size = max(1, suspects // 2)
        while left:
            part, others = left[:size], left[size:]
            await session.begin_part()
            try:
                found = await self._call(part)
                if self._failed_at_commit:
                    await check_constraints(session)
                await session.end_part()
            except Exception as error:
                verdict = judge(error)
                concerns_all = verdict.concerns is Concerns.EVERYBODY and not is_hearsay(error)
                if concerns_all or verdict.concerns is Concerns.MOMENT:
                    raise
                if not await session.undo_part(error):
                    # It has ended the transaction: begin once more, with what went well.
                    await session.rollback()
                    outcomes = await self._call(served)
                if len(part) > 1:
                    suspects = len(part)
                    size = suspects // 2
                else:
                    self._refuse(part[0], error)
                    left, suspects = others, 0
            else:
                served += part
                outcomes += found
                left = others
                suspects = max(0, suspects - len(part))
                size = (suspects + 1) // 2 or size * 2
        return outcomes

    async def _lock(self, calls: Sequence[AnyCall]) -> None:
        """Take the locks of several kinds of calls in one order; one kind has an order itself."""
        if not self._waits and len({call.spec for call in calls}) == 1:
            return
        items: defaultdict[Locks, list[Any]] = defaultdict(list)
        for call in calls:
            if call.spec.locks:
                items[call.spec.locks].append(call.item)
        for locks, its_items in items.items():
            await locks(self.session, its_items, wait=self._waits)

    def _answer(self, call: AnyCall, result: Any) -> None:  # noqa: ANN401 - R, or an error
        if not isinstance(result, RowLockedError):
            call.settle(result)
        elif self._waits:
            # It has the lock, and the row is as it was.
            call.settle(RefusedError())
        else:
            self.locked.append(call)

    def _refuse(self, call: AnyCall, error: Exception) -> None:
        # Told when the others are served: a client that tries again at once would spoil the next
        # batch too.
        self._refused.append((call, self._refusal(call, error)))

    def _refusal(self, call: AnyCall, error: Exception) -> Exception:
        """Return what is told of an error that is one item's, and report it."""
        told = judge(error).told
        if isinstance(told, RowLockedError):
            return told
        if isinstance(told, UnavailableError) and is_hearsay(error):
            told = RefusedError()  # the same statement works for others
        if isinstance(told, RefusedError) and not self._writes:
            # Nobody refuses a read.
            told = StatementError(reason=f"{call.spec.name}: {describe(error)}")
        self._report(error, told, 1)
        return told

    def _tell(
        self, calls: Sequence[AnyCall], error: Exception, told: Callable[[], Exception]
    ) -> None:
        self._report(error, told(), len(calls))
        for call in calls:
            call.settle(told())  # an error each: whoever raises it adds to its traceback


def stages(calls: Iterable[AnyCall]) -> list[list[AnyCall]]:
    """Group calls by their functions; those that touch one row follow each other as they came."""
    found: list[list[AnyCall]] = []
    of_kind: defaultdict[BatchSpec[Any, Any, Any], list[int]] = defaultdict(list)
    latest: dict[object, int] = {}  # the stage in which a row was last touched
    for call in calls:
        touched = call.touched
        places = of_kind[call.spec]
        following = bisect_right(places, latest[touched]) if touched in latest else 0
        if following == len(places):
            places.append(len(found))
            found.append([])
        found[places[following]].append(call)
        if touched is not None:
            latest[touched] = places[following]
    return found


def waited_for(calls: Iterable[AnyCall]) -> list[AnyCall]:
    """Return the calls that are not answered, and whose callers have not gone."""
    return [call for call in calls if not call.answer.done()]


def _in_stages(calls: Iterable[AnyCall]) -> list[AnyCall]:
    return [call for stage in stages(calls) for call in stage]


async def end_transaction(session: AsyncSession) -> None:
    """End the session's transaction; a connection that cannot even do that is thrown away."""
    try:
        await session.rollback()
    except Exception:  # noqa: BLE001 - whatever it is, the connection is of no use
        await session.invalidate()
