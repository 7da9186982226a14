"""The rules of a queue. Batches are held at a gate, so that what arrives meanwhile is known."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import uvloop
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

import hero_api.batching.queue
from hero_api.batching import BatchQueues, QueueSpec, batched
from hero_api.batching.queue import arrived
from hero_api.database.sessions import ReadWriteSession
from hero_api.errors import (
    BrokenError,
    ClosingError,
    LateError,
    NoRoomError,
    NotFoundError,
    OutcomeUnknownError,
    OverloadedError,
    RefusedError,
    RowLockedError,
    ServiceError,
    StatementError,
    UnavailableError,
)

CONSTRAINT, ERROR = sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR
SOON = 5.0  # seconds: far more than anything here takes


class Session(ReadWriteSession):
    """A session that says what is done with it; connecting and COMMIT can be held back or fail.

    A batch whose first call has it is served on it.
    """

    def __init__(self, queues: BatchQueues | None = None) -> None:
        database = Mock(info=queues.info if queues else {}, writer=None)
        database.read_session = database.write_session = lambda: self
        super().__init__(database)
        self.log: list[str] = []
        self.commits = asyncio.Event()
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self.commit_error: Exception | None = None
        self.may_connect = asyncio.Event()
        self.may_connect.set()
        self.is_alive = True  # a transaction in which a statement failed

    async def connection(self, *_: Any, **__: Any) -> Any:  # noqa: ANN401 - nobody looks at it
        await self.may_connect.wait()
        return Mock()

    async def commit(self) -> None:
        self.log.append("commit")
        self.commits.set()
        await self.may_commit.wait()
        if self.commit_error:
            raise self.commit_error

    async def rollback(self) -> None:
        self.log.append("rollback")

    async def begin_part(self) -> None:
        self.log.append("begin_part")

    async def end_part(self) -> None:
        self.log.append("end_part")

    async def undo_part(self, _error: Exception) -> bool:
        self.log.append("undo_part")
        return self.is_alive

    async def limit_lock_waits(self) -> None:
        self.log.append("limit_lock_waits")

    @property
    def can_check(self) -> bool:
        return False

    async def close(self) -> None:
        self.log.append("close")


class Contended(Exception):  # noqa: N818 - as psycopg's, which need not be installed
    sqlstate = "40001"


class Locked(Exception):  # noqa: N818 - as psycopg's too
    sqlstate = "55P03"


class Batches:
    """A batch function that doubles its items: it records its batches, and waits at a gate."""

    def __init__(self) -> None:
        self.seen: list[tuple[AsyncSession, list[int]]] = []
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.failures: dict[int, Exception] = {}
        self.bad: dict[int, Exception] = {}
        self.not_found: set[int] = set()

    async def __call__(
        self, session: Session, items: Sequence[int]
    ) -> Sequence[int | ServiceError]:
        number = len(self.seen)
        self.seen.append((session, list(items)))
        self.begun.set()
        await self.gate.wait()
        if number in self.failures:
            raise self.failures[number]
        for item in items:
            if item in self.bad:
                raise self.bad[item]
        return [NotFoundError("hero") if item in self.not_found else 2 * item for item in items]

    @property
    def items(self) -> list[list[int]]:
        return [items for _, items in self.seen]


class Deferred(Session):
    """A session of which COMMIT refuses the item 1."""

    def __init__(self, queues: BatchQueues, batches: Batches) -> None:
        super().__init__(queues)
        self.batches = batches

    async def commit(self) -> None:
        if 1 in self.batches.items[-1]:
            raise database_error(IntegrityError, CONSTRAINT)


Call = Callable[[Session, int], Awaitable[int]]


@pytest.fixture
def batches() -> Batches:
    return Batches()


@pytest.fixture
def double(batches: Batches) -> Call:
    return batched(batches, QueueSpec("double", writes=True, max_items=3), name="double")


@pytest.fixture
async def queues() -> AsyncIterator[BatchQueues]:
    queues = BatchQueues(timeout=SOON, readers=4)
    yield queues
    await queues.close()


def database_error(kind: type[Any] = OperationalError, code: int = 5) -> Exception:
    cause = sqlite3.OperationalError("injected")
    cause.sqlite_errorcode = code
    error: Exception = kind("SELECT 1", {}, cause)
    return error


async def start(call: Call, session: Session, *items: int) -> list[asyncio.Task[int]]:
    """Start calls in order, and let each arrive in its queue."""

    async def one(item: int) -> int:
        return await call(session, item)

    tasks = [asyncio.create_task(one(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def hold(call: Call, session: Session, batches: Batches, item: int = 0) -> asyncio.Task[int]:
    """Start a call whose batch then waits at the gate."""
    [task] = await start(call, session, item)
    await batches.begun.wait()
    return task


async def test_a_lone_call_runs_at_once(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    session = Session(queues)
    batches.gate.set()
    assert await double(session, 7) == 14
    assert batches.seen == [(session, [7])]
    assert session.log == ["commit"]


async def test_calls_that_arrive_during_a_batch_share_the_next_one_in_order(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    others = await start(double, Session(queues), 1, 2)
    batches.gate.set()
    assert await asyncio.gather(first, *others) == [0, 2, 4]
    assert batches.items == [[0], [1, 2]]


@pytest.mark.parametrize(("writes", "sizes"), [(True, [1, 5, 4]), (False, [1, 9])])
async def test_a_batch_of_writes_leaves_half_of_the_clients_to_the_next_one_of_reads_nobody(
    queues: BatchQueues, batches: Batches, sizes: list[int], *, writes: bool
) -> None:
    call = batched(batches, QueueSpec("each", writes=writes), name="each")
    first = await hold(call, Session(queues), batches)
    others = await start(call, Session(queues), *range(1, 10))
    batches.gate.set()
    await asyncio.gather(first, *others)
    assert [len(items) for items in batches.items] == sizes


async def test_a_batch_is_one_transaction_on_one_session(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    sessions = [Session(queues), Session(queues)]
    others = [task for session in sessions for task in await start(double, session, 1)]
    batches.gate.set()
    await asyncio.gather(first, *others)
    assert batches.seen[1][0] is sessions[0]
    assert [session.log for session in sessions] == [["commit"], []]


async def test_a_batch_that_reads_is_not_committed(queues: BatchQueues, batches: Batches) -> None:
    session = Session(queues)
    batches.gate.set()
    assert await batched(batches, QueueSpec("read"), name="read")(session, 7) == 14
    assert session.log == ["close"]


async def test_a_batch_has_no_more_items_than_its_bound(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    others = await start(double, Session(queues), 1, 2, 3, 4)
    batches.gate.set()
    await asyncio.gather(first, *others)
    assert batches.items == [[0], [1, 2, 3], [4]]


async def test_a_batch_has_no_more_different_items_than_its_bound(
    queues: BatchQueues, batches: Batches
) -> None:
    double = batched(batches, QueueSpec("double", max_distinct=2), name="double")
    first = await hold(double, Session(queues), batches)
    others = await start(double, Session(queues), 1, 2, 1, 3, 1)
    batches.gate.set()
    await asyncio.gather(first, *others)
    assert batches.items == [[0], [1, 2, 1], [3, 1]]


async def test_nobody_is_answered_before_commit_returned(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    session = Session(queues)
    session.may_commit.clear()
    batches.gate.set()
    [task] = await start(double, session, 7)
    await asyncio.wait_for(session.commits.wait(), SOON)
    assert not task.done()
    session.may_commit.set()
    assert await task == 14


async def test_a_call_that_was_late_before_it_came_is_refused_and_not_begun(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    arrived.set(asyncio.get_running_loop().time() - SOON)
    with pytest.raises(OverloadedError):
        await double(Session(queues), 6)
    assert batches.items == []


async def test_the_deadline_of_a_call_counts_from_the_arrival_of_its_request(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    arrived.set(asyncio.get_running_loop().time() - SOON + 0.05)
    with pytest.raises(LateError):
        await double(Session(queues), 6)
    assert not first.done(), "its own deadline is later"
    batches.gate.set()
    await first


def test_calls_that_come_just_before_their_deadline_are_late_and_no_fault_on_uvloop() -> None:
    async def call_late(seconds: float) -> None:
        batches = Batches()
        double = batched(batches, QueueSpec("double", writes=True), name="double")
        arrived.set(asyncio.get_running_loop().time() - SOON + seconds)
        queues = BatchQueues(timeout=SOON, readers=4)
        calls = await start(double, Session(queues), 1, 2, 3)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, UnavailableError) for answer in answers), answers
        batches.gate.set()
        await queues.close()

    for microseconds in range(100, 2_000, 100):
        uvloop.run(call_late(microseconds / 1e6))


async def test_a_cancelled_first_caller_does_not_take_its_batch_down(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    second, third = await start(double, Session(queues), 1, 2)
    batches.begun.clear()
    batches.gate.set()
    await first
    await batches.begun.wait()
    second.cancel()
    assert await third == 4


async def test_a_cancelled_lone_caller_leaves_its_queue_at_work(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    session = Session(queues)
    first = await hold(double, session, batches)
    first.cancel()
    batches.gate.set()
    assert await double(Session(queues), 1) == 2
    assert session.log == ["commit"]


async def test_a_waiter_that_was_cancelled_is_left_out_of_its_batch(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    second, third = await start(double, Session(queues), 1, 2)
    second.cancel()
    await asyncio.sleep(0)
    batches.gate.set()
    await asyncio.gather(first, third)
    assert batches.items == [[0], [2]]


async def test_a_first_caller_that_was_cancelled_before_its_batch_began_is_left_out(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    answer = asyncio.ensure_future(double(Session(queues), 1))
    answer.cancel()
    batches.gate.set()
    assert await double(Session(queues), 2) == 4
    assert batches.items == [[2]]


async def test_an_item_that_fails_fails_its_own_caller_alone(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    batches.not_found = {1}
    first = await hold(double, Session(queues), batches)
    second, third = await start(double, Session(queues), 1, 2)
    batches.gate.set()
    await first
    with pytest.raises(NotFoundError):
        await second
    assert await third == 4


async def test_a_batch_that_one_item_breaks_is_divided_within_one_transaction(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    session = Session(queues)
    good, bad, other = await start(double, session, 1, 2, 3)
    behind = await start(double, Session(queues), 4, 5)
    batches.bad = {2: database_error(IntegrityError, CONSTRAINT)}
    batches.gate.set()
    assert await asyncio.gather(*[first, good, other, *behind]) == [0, 2, 6, 8, 10]
    with pytest.raises(RefusedError):
        await bad
    assert batches.items == [[0], [1, 2, 3], [1], [2], [3], [4, 5]]
    assert session.log.count("commit") == 1
    assert session.log.count("undo_part") == 1


async def test_what_was_served_is_served_again_where_an_error_ends_the_transaction(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    session = Session(queues)
    session.is_alive = False
    good, bad, other = await start(double, session, 1, 2, 3)
    behind = await start(double, Session(queues), 4, 5)
    batches.bad = {2: database_error(IntegrityError, CONSTRAINT)}
    batches.gate.set()
    assert await asyncio.gather(*[first, good, other, *behind]) == [0, 2, 6, 8, 10]
    with pytest.raises(RefusedError):
        await bad
    assert session.log.count("commit") == 1
    assert batches.items[-3:] == [[1], [3], [4, 5]]


async def test_a_batch_that_fails_once_is_served_in_parts(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    sessions = [Session(queues), Session(queues)]
    others = [task for session in sessions for task in await start(double, session, 1)]
    batches.failures = {1: database_error(IntegrityError, CONSTRAINT)}
    batches.gate.set()
    assert await asyncio.gather(first, *others) == [0, 2, 2]
    assert batches.items == [[0], [1, 1], [1], [1]]
    parts = ["limit_lock_waits", *["begin_part", "end_part"] * 2]
    assert [session.log for session in sessions] == [["rollback", *parts, "commit"], []]


async def test_a_commit_that_a_constraint_refuses_is_tried_for_each_half(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    refused, served, *behind = await start(double, Deferred(queues, batches), 1, 2, 3, 4)
    batches.gate.set()
    with pytest.raises(RefusedError):
        await refused
    assert await asyncio.gather(*[first, served, *behind]) == [0, 4, 6, 8]


async def test_where_only_commit_tells_the_others_share_one_and_the_refused_is_told_after_them(
    queues: BatchQueues, batches: Batches
) -> None:
    call = batched(batches, QueueSpec("many", writes=True), name="many")
    first = await hold(call, Session(queues), batches)
    calls = await start(call, Deferred(queues, batches), *range(1, 10), *range(10, 17))
    told: list[asyncio.Future[int]] = []
    for each in calls:
        each.add_done_callback(told.append)
    batches.gate.set()
    results = await asyncio.gather(first, *calls, return_exceptions=True)
    assert isinstance(results.pop(1), RefusedError)
    assert results == [0, *(2 * n for n in range(2, 17))]
    failed = [[*range(1, end)] for end in (10, 7, 5, 3, 2)]
    assert batches.items == [[0], *failed, [*range(2, 10)], [*range(10, 17)]]
    assert told.index(calls[0]) == 8


async def test_a_call_that_was_found_locked_twice_is_waited_for_once(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    class Refusing(Session):
        begun = 1  # the transaction, behind the batch that is held

        async def commit(self) -> None:
            if any(2 in items for items in batches.items[self.begun :]):
                raise database_error(IntegrityError, CONSTRAINT)
            self.begun = len(batches.items)

        async def rollback(self) -> None:
            self.begun = len(batches.items)

    first = await hold(double, Session(queues), batches)
    locked, refused, *behind = await start(double, Refusing(queues), 1, 2, 3, 4)
    batches.bad = {1: Locked()}
    batches.gate.set()
    with pytest.raises(RefusedError):
        await refused
    with pytest.raises(RowLockedError):
        await locked
    assert await asyncio.gather(first, *behind) == [0, 6, 8]
    assert [items for items in batches.items if set(items) == {1}][-1] == [1]


async def test_where_only_commit_tells_of_many_a_call_is_not_run_again_for_each(
    queues: BatchQueues, batches: Batches
) -> None:
    class Refusing(Session):
        async def commit(self) -> None:
            raise database_error(IntegrityError, CONSTRAINT)

    call = batched(batches, QueueSpec("many", writes=True), name="many")
    first = await hold(call, Session(queues), batches)
    calls = await start(call, Refusing(queues), *range(128))
    batches.gate.set()
    results = await asyncio.gather(first, *calls, return_exceptions=True)
    assert all(isinstance(result, RefusedError) for result in results[1:])
    assert len(batches.items) < 3 * len(calls)


async def test_who_was_refused_is_told_so_where_the_others_cannot_be_served(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    class Failing(Deferred):
        async def commit(self) -> None:
            await super().commit()
            self.rollback = self.invalidate = self.fail  # type: ignore[method-assign]
            await self.fail()

        async def fail(self) -> None:
            raise OSError

    first = await hold(double, Session(queues), batches)
    calls = await start(double, Failing(queues, batches), 1, 2, 3)
    batches.gate.set()
    results = await asyncio.gather(first, *calls, return_exceptions=True)
    assert [type(result) for result in results] == [int, RefusedError, OSError, OSError]


async def test_an_error_that_no_list_names_is_about_an_item(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    bad, good = await start(double, Session(queues), 1, 2)
    batches.bad = {1: database_error(code=254)}
    batches.gate.set()
    with pytest.raises(RefusedError):
        await bad
    assert await asyncio.gather(*[first, good]) == [0, 4]


async def test_a_statement_that_fails_without_any_items_is_a_fault_and_is_not_divided(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    others = await start(double, Session(queues), 1, 2)
    batches.failures = {1: database_error(code=ERROR), 2: database_error(code=ERROR)}
    batches.gate.set()
    await first
    for answer in await asyncio.gather(*others, return_exceptions=True):
        assert isinstance(answer, StatementError)
        assert answer.reason == "double: OperationalError: injected"
    assert batches.items == [[0], [1, 2], []]


async def test_a_statement_that_works_without_items_is_broken_by_one_of_them(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    bad, good = await start(double, Session(queues), 1, 2)
    batches.bad = {1: database_error(code=ERROR)}
    batches.gate.set()
    with pytest.raises(RefusedError):
        await bad
    assert await asyncio.gather(*[first, good]) == [0, 4]


async def test_functions_of_one_queue_share_a_transaction(queues: BatchQueues) -> None:
    queue = QueueSpec("write", writes=True)
    one, other = Batches(), Batches()
    call_one, call_other = (batched(each, queue, name="each") for each in (one, other))
    first = await hold(call_one, Session(queues), one)
    session = Session(queues)
    mixed = [(await start(call, session, 1))[0] for call in (call_one, call_other, call_one)]
    behind = await start(call_one, Session(queues), 2, 3)
    one.gate.set()
    other.gate.set()
    await asyncio.gather(first, *mixed, *behind)
    assert [one.items, other.items] == [[[0], [1, 1], [2, 3]], [[1]]]
    assert session.log == ["commit"]


async def test_calls_that_touch_one_row_are_served_in_the_order_of_their_arrival() -> None:
    queue = QueueSpec("write", writes=True)
    served: list[tuple[str, list[int]]] = []
    gate, begun = asyncio.Event(), asyncio.Event()

    def named(name: str) -> Call:
        async def function(_session: Session, items: Sequence[int]) -> Sequence[int]:
            served.append((name, list(items)))
            begun.set()
            await gate.wait()
            return items

        return batched(function, queue, name=name, touches=int)

    create, delete = named("create"), named("delete")
    queues = BatchQueues(timeout=SOON, readers=4)
    [first] = await start(create, Session(queues), 0)
    await begun.wait()
    calls = [(create, 1), (delete, 2), (create, 3), (delete, 1), (delete, 4), (create, 1)]
    tasks = [(await start(call, Session(queues), item))[0] for call, item in calls]
    behind = await start(create, Session(queues), 5, 6, 7, 8, 9)
    gate.set()
    await asyncio.gather(first, *tasks, *behind)
    assert served[1:4] == [
        ("create", [1, 3]),
        ("delete", [2, 1, 4]),
        ("create", [1]),
    ]


async def test_a_batch_function_never_gets_two_items_that_touch_one_row(
    queues: BatchQueues, batches: Batches
) -> None:
    queue = QueueSpec("write", writes=True)
    touching = batched(batches, queue, name="touching", touches=int)
    first = await hold(touching, Session(queues), batches)
    tasks = await start(touching, Session(queues), 1, 1, 2, 1, 2, 3)
    behind = await start(touching, Session(queues), 4, 5, 6, 7, 8)
    batches.gate.set()
    await asyncio.gather(first, *tasks, *behind)
    assert batches.items[1:4] == [[1, 2, 3], [1, 2], [1]]


async def test_the_next_batch_is_of_all_urgent_calls_alone(
    queues: BatchQueues, batches: Batches
) -> None:
    queue = QueueSpec("write", writes=True, max_items=2)
    plain = batched(batches, queue, name="plain")
    urgent = batched(batches, queue, name="urgent", is_urgent=True)
    first = await hold(plain, Session(queues), batches)
    tasks = await start(plain, Session(queues), 1, 2, 3)
    tasks += await start(urgent, Session(queues), 8, 9)
    batches.gate.set()
    await asyncio.gather(first, *tasks)
    assert batches.items == [[0], [8, 9], [1, 2], [3]]


async def test_however_many_urgent_calls_come_the_others_are_served_too(
    queues: BatchQueues,
) -> None:
    served: list[int] = []
    later: list[asyncio.Task[int]] = []

    async def function(_session: Session, items: Sequence[int]) -> Sequence[int]:
        served.extend(items)
        if items[0] < 0 and served.count(-1) < 9:  # while one is served, the next one comes
            later.extend(await start(urgent, Session(queues), -1))
        return items

    queue = QueueSpec("write", writes=True)
    plain = batched(function, queue, name="plain")
    urgent = batched(function, queue, name="urgent", is_urgent=True)
    tasks = await start(urgent, Session(queues), -1)
    tasks += await start(plain, Session(queues), 1)
    await asyncio.gather(*tasks)
    for task in later:  # each of them starts the next one
        await task
    assert 1 in served[:3]


async def test_a_call_that_is_alone_is_in_a_batch_of_its_own_in_its_turn(
    queues: BatchQueues, batches: Batches
) -> None:
    queue = QueueSpec("write", writes=True)
    plain = batched(batches, queue, name="plain")
    alone = batched(batches, queue, name="alone", is_alone=True)
    first = await hold(plain, Session(queues), batches)
    tasks = await start(plain, Session(queues), 1)
    tasks += await start(alone, Session(queues), 2, 3)
    tasks += await start(plain, Session(queues), 4, 5)
    batches.gate.set()
    await asyncio.gather(first, *tasks)
    assert batches.items == [[0], [1], [2], [3], [4, 5]]


async def test_where_there_is_no_room_for_some_calls_there_may_be_for_others(
    queues: BatchQueues,
) -> None:
    queue = QueueSpec("write", writes=True)
    create, delete = Batches(), Batches()
    calls = {each: batched(each, queue, name="each") for each in (create, delete)}
    first = await hold(calls[create], Session(queues), create)
    full = await start(calls[create], Session(queues), 1, 2)
    [served, *_] = await start(calls[delete], Session(queues), 3, 4, 5)
    create.bad = {number: database_error(code=sqlite3.SQLITE_FULL) for number in (1, 2)}
    create.gate.set()
    delete.gate.set()
    assert await asyncio.gather(*[first, served]) == [0, 6]
    for task in full:
        with pytest.raises(NoRoomError):
            await task
    assert create.items == [[0], [1, 2], [1, 2]], "nobody looks for room for one of them"


async def test_calls_of_one_kind_are_refused_together_where_there_is_no_room(
    queues: BatchQueues, batches: Batches
) -> None:
    queue = QueueSpec("write", writes=True)
    touching = batched(batches, queue, name="touching", touches=int)
    first = await hold(touching, Session(queues), batches)
    tasks = await start(touching, Session(queues), 1, 1, 2)
    behind = await start(touching, Session(queues), 3, 4)
    batches.failures = {1: database_error(code=sqlite3.SQLITE_FULL)}
    batches.gate.set()
    await asyncio.gather(first, *behind)
    for task in tasks:
        with pytest.raises(NoRoomError):
            await task
    assert batches.items == [[0], [1, 2], [3, 4]]


async def test_who_waited_longest_for_a_connection_reads_next(batches: Batches) -> None:
    queues = BatchQueues(timeout=SOON, readers=1)
    one, other = (batched(batches, QueueSpec(name), name=name) for name in ("one", "other"))
    first = await hold(one, Session(queues), batches, 1)
    [waits] = await start(other, Session(queues), 2)
    [came_later] = await start(one, Session(queues), 3)
    batches.gate.set()
    assert await asyncio.gather(*[first, waits, came_later]) == [2, 4, 6]
    assert batches.items == [[1], [2], [3]]
    await queues.close()


@pytest.mark.parametrize("in_turn", [True, False])
async def test_short_batches_read_in_turn_where_they_are_to_but_do_not_wait_for_long(
    monkeypatch: pytest.MonkeyPatch, *, in_turn: bool
) -> None:
    monkeypatch.setattr(hero_api.batching.queue, "_TURN", 0.5)
    queues = BatchQueues(timeout=SOON, readers=3, in_turn=in_turn)
    each = {"one": Batches(), "other": Batches(), "long": Batches()}
    one, other, long = (
        batched(function, QueueSpec(name, short=name != "long"), name=name)
        for name, function in each.items()
    )
    first = await hold(one, Session(queues), each["one"], 1)
    [second] = await start(other, Session(queues), 2)
    third = await hold(long, Session(queues), each["long"], 3)
    assert each["other"].begun.is_set() is not in_turn
    await asyncio.wait_for(each["other"].begun.wait(), SOON)
    for function in each.values():
        function.gate.set()
    assert await asyncio.gather(*[first, second, third]) == [2, 4, 6]
    assert await one(Session(queues), 4) == 8
    await queues.close()


async def test_a_row_that_somebody_else_has_locked_is_waited_for_by_its_own_callers_alone(
    queues: BatchQueues,
) -> None:
    free = asyncio.Event()
    is_waiting = asyncio.Event()
    served: list[list[int]] = []

    async def locks(_session: Session, _items: Sequence[int], *, wait: bool) -> None:
        if wait:
            is_waiting.set()
            await free.wait()

    async def function(_session: Session, items: Sequence[int]) -> Sequence[int | ServiceError]:
        served.append(list(items))
        return [RowLockedError() if item == 1 and not free.is_set() else item for item in items]

    write = QueueSpec("write", writes=True)
    call = batched(function, write, name="update", touches=int, locks=locks)
    [waits] = await start(call, Session(queues), 1)
    await asyncio.wait_for(is_waiting.wait(), SOON)
    assert [await call(Session(queues), item) for item in (2, 3)] == [2, 3]
    assert not waits.done()
    free.set()
    assert await asyncio.wait_for(waits, SOON) == 1


async def test_a_locked_row_whose_wait_was_cancelled_is_waited_for_again(
    queues: BatchQueues,
) -> None:
    waits: list[asyncio.Task[Any] | None] = []
    is_waiting = asyncio.Event()

    async def locks(_session: Session, _items: Sequence[int], *, wait: bool) -> None:
        if wait and not waits:
            waits.append(asyncio.current_task())
            is_waiting.set()
            await asyncio.Event().wait()

    async def function(session: Session, items: Sequence[int]) -> Sequence[int | ServiceError]:
        is_locked = "limit_lock_waits" not in session.log  # as it is in a batch that waits
        return [RowLockedError() if is_locked else item for item in items]

    write = QueueSpec("write", writes=True)
    call = batched(function, write, name="update", touches=int, locks=locks)
    [first] = await start(call, Session(queues), 1)
    await asyncio.wait_for(is_waiting.wait(), SOON)
    [second] = await start(call, Session(queues), 1)
    await asyncio.sleep(0.01)  # it has met the lock too
    assert waits[0]
    waits[0].cancel()
    ended = await asyncio.wait_for(asyncio.gather(first, second, return_exceptions=True), SOON)
    assert [type(each) for each in ended] == [asyncio.CancelledError] * 2
    [third] = await start(call, Session(queues), 1)
    assert await asyncio.wait_for(third, SOON / 2) == 1


async def test_a_batch_that_meets_another_is_tried_again(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    batches.failures = {0: Contended(), 1: Contended()}
    batches.gate.set()
    session = Session(queues)
    assert await double(session, 1) == 2
    assert session.log == ["rollback", "rollback", "commit"]


async def test_a_fault_in_the_handling_of_a_failure_leaves_its_queue_at_work(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    class Faulty(Session):
        async def rollback(self) -> None:
            raise LookupError("rollback")

        async def invalidate(self) -> None:
            raise LookupError("invalidate")

    first = await hold(double, Session(queues), batches)
    others = await start(double, Faulty(queues), 1, 2)
    batches.failures = {1: database_error(IntegrityError, CONSTRAINT)}
    batches.gate.set()
    await first
    for task in others:
        with pytest.raises(LookupError):
            await task
    assert await double(Session(queues), 3) == 6


async def test_a_batch_knows_nothing_of_the_context_of_its_callers(queues: BatchQueues) -> None:
    user = ContextVar("user", default="nobody")

    async def users(_session: Session, items: Sequence[int]) -> Sequence[str]:
        return [user.get() for _ in items]

    call = batched(users, QueueSpec("users"), name="users")
    user.set("Deadpond")
    assert await call(Session(queues), 1) == "nobody"


async def test_a_batch_that_is_cancelled_leaves_its_queue_at_work(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    batches.bad = {1: asyncio.CancelledError()}  # type: ignore[dict-item]
    batches.gate.set()
    [task] = await start(double, Session(queues), 1)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, SOON)
    assert await double(Session(queues), 2) == 4


async def test_a_batch_is_not_run_again_when_the_database_is_unavailable(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    others = await start(double, Session(queues), 1, 2)
    batches.failures = {1: database_error(code=10)}
    batches.gate.set()
    await first
    for task in others:
        with pytest.raises(BrokenError):
            await task
    assert batches.items == [[0], [1, 2]]


async def test_each_caller_of_a_failed_batch_gets_an_error_of_its_own(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    others = await start(double, Session(queues), 1, 2)
    batches.failures = {1: database_error(code=10)}
    batches.gate.set()
    await first
    one, another = await asyncio.gather(*others, return_exceptions=True)
    assert isinstance(one, BrokenError)
    assert isinstance(another, BrokenError)
    assert one is not another


async def test_a_commit_that_fails_leaves_the_outcome_unknown_and_is_not_run_again(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    session = Session(queues)
    session.commit_error = database_error(code=10)
    batches.gate.set()
    with pytest.raises(OutcomeUnknownError):
        await double(session, 7)
    assert batches.items == [[7]]
    assert session.log == ["commit", "rollback"]


async def test_what_an_event_of_the_session_raises_after_its_commit_is_not_taken_for_a_refusal(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    session = Session(queues)
    session.commit_error = LookupError("after_commit")
    batches.gate.set()
    with pytest.raises(OutcomeUnknownError):
        await double(session, 7)
    assert batches.items == [[7]], "it may be stored"


@pytest.mark.parametrize("at_commit", [False, True])
async def test_the_log_says_what_the_callers_of_a_failed_batch_were_told(
    queues: BatchQueues,
    batches: Batches,
    double: Call,
    caplog: pytest.LogCaptureFixture,
    *,
    at_commit: bool,
) -> None:
    session = Session(queues)
    if at_commit:
        session.commit_error = database_error(code=10)
    else:
        batches.failures = {0: database_error(code=10)}
    batches.gate.set()
    with pytest.raises(OutcomeUnknownError if at_commit else BrokenError) as caught:
        await double(session, 7)
    assert caplog.messages == [f"double: 1 failed: OperationalError: injected: {caught.value}"]


async def test_failed_batches_of_a_queue_are_logged_once_a_second(
    queues: BatchQueues,
    batches: Batches,
    double: Call,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    batches.failures = dict.fromkeys(range(20), database_error(code=10))
    batches.gate.set()
    lines = []
    for later in (0.0, 0.5, 0.999, 1.0, 1.5, 2.5):
        monkeypatch.setattr(loop, "time", partial(float, began + later))
        with pytest.raises(BrokenError):
            await double(Session(queues), 7)
        lines.append(len(caplog.messages))
    assert lines == [1, 1, 1, 2, 2, 3]


async def test_a_queue_leaves_an_error_that_nobody_foresaw_to_the_log_of_its_request(
    queues: BatchQueues, batches: Batches, double: Call, caplog: pytest.LogCaptureFixture
) -> None:
    batches.failures = {0: LookupError("nobody foresaw this")}
    batches.gate.set()
    with pytest.raises(LookupError):
        await double(Session(queues), 7)
    assert caplog.messages == []


async def test_a_batch_that_answers_too_few_fails_before_commit(queues: BatchQueues) -> None:
    async def forgetful(_session: Session, _items: Sequence[int]) -> Sequence[int]:
        return []

    session = Session(queues)
    with pytest.raises(ValueError, match="zip"):
        await batched(forgetful, QueueSpec("write", writes=True), name="forgetful")(session, 7)
    assert session.log == ["rollback"]


async def test_callers_of_a_batch_that_never_ends_are_answered_at_their_deadline(
    batches: Batches, double: Call
) -> None:
    queues = BatchQueues(timeout=0.05, readers=4)
    first = await hold(double, Session(queues), batches)
    [waiting] = await start(double, Session(queues), 1)
    async with asyncio.timeout(SOON):
        with pytest.raises(OutcomeUnknownError):
            await first
        with pytest.raises(LateError):
            await waiting
        with pytest.raises(LateError):
            await double(Session(queues), 2)
    batches.gate.set()


async def test_a_queue_serves_again_when_a_batch_that_hung_ends(
    batches: Batches, double: Call
) -> None:
    queues = BatchQueues(timeout=0.05, readers=4)
    first = await hold(double, Session(queues), batches)
    [expired] = await start(double, Session(queues), 1)
    await asyncio.wait([first, expired], timeout=SOON)
    batches.gate.set()
    assert await double(Session(queues), 2) == 4
    assert batches.items == [[0], [2]], "what was answered 503 was not done after all"
    assert isinstance(first.exception(), OutcomeUnknownError)
    assert isinstance(expired.exception(), LateError)


async def test_a_write_that_is_answered_while_its_batch_connects_is_never_done(
    batches: Batches, double: Call
) -> None:
    queues = BatchQueues(timeout=0.05, readers=4)
    session = Session(queues)
    session.may_connect.clear()
    [late] = await start(double, session, 1)
    async with asyncio.timeout(SOON):
        with pytest.raises(LateError):
            await late
    session.may_connect.set()
    batches.gate.set()
    assert await double(Session(queues), 2) == 4
    assert batches.items == [[2]]


async def test_a_batch_that_is_connected_serves_those_who_still_wait(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    batches.gate.set()
    sessions = [Session(queues), Session(queues)]
    for session in sessions:
        session.may_connect.clear()
    [first] = await start(double, sessions[0], 1)
    gone, stays = [(await start(double, sessions[1], item))[0] for item in (2, 3)]
    sessions[0].may_connect.set()
    assert await first == 2
    gone.cancel()
    await asyncio.wait([gone])
    sessions[1].may_connect.set()
    assert await stays == 6
    assert batches.items == [[1], [3]]


async def test_a_read_that_hangs_says_that_nothing_was_changed(batches: Batches) -> None:
    queues = BatchQueues(timeout=0.05, readers=4)
    with pytest.raises(LateError):
        await batched(batches, QueueSpec("read"), name="read")(Session(queues), 1)
    batches.gate.set()


async def test_two_applications_in_one_process_never_meet(batches: Batches, double: Call) -> None:
    one, other = (BatchQueues(timeout=SOON, readers=4) for _ in range(2))
    held = await hold(double, Session(one), batches)
    batches.begun.clear()
    others = await start(double, Session(other), 1, 2)
    await asyncio.wait_for(batches.begun.wait(), SOON)
    assert batches.items == [[0], [1]]
    batches.gate.set()
    assert await asyncio.gather(held, *others) == [0, 2, 4]


async def test_functions_have_queues_of_their_own(queues: BatchQueues, batches: Batches) -> None:
    one, other = (batched(batches, QueueSpec(name), name=name) for name in ("one", "other"))
    held = await hold(one, Session(queues), batches)
    batches.begun.clear()
    [free] = await start(other, Session(queues), 1)
    await asyncio.wait_for(batches.begun.wait(), SOON)
    batches.gate.set()
    assert [await held, await free] == [0, 2]


async def test_a_session_of_someone_else_is_served_alone_committed_and_not_closed(
    batches: Batches, double: Call
) -> None:
    session = Session()
    batches.gate.set()
    assert await double(session, 1) == 2
    assert await double(session, 2) == 4
    assert batches.items == [[1], [2]]
    assert session.log == ["commit", "commit"]


async def test_an_error_on_a_session_of_someone_else_rolls_it_back(
    batches: Batches, double: Call
) -> None:
    session = Session()
    batches.gate.set()
    batches.failures = {0: database_error(code=10)}
    with pytest.raises(BrokenError):
        await double(session, 1)
    assert session.log == ["rollback"]


async def test_a_commit_that_fails_on_a_session_of_someone_else_leaves_the_outcome_unknown(
    batches: Batches, double: Call
) -> None:
    session = Session()
    session.commit_error = database_error(code=10)
    batches.gate.set()
    with pytest.raises(OutcomeUnknownError):
        await double(session, 1)
    assert session.log == ["commit", "rollback"]


async def test_a_call_that_is_cancelled_leaves_nothing_on_a_session_of_someone_else(
    batches: Batches, double: Call
) -> None:
    session = Session()
    call = await hold(double, session, batches)
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    assert session.log == ["rollback"]


async def test_an_item_that_fails_on_a_session_of_someone_else_raises(
    batches: Batches, double: Call
) -> None:
    batches.not_found = {1}
    batches.gate.set()
    with pytest.raises(NotFoundError):
        await double(Session(), 1)


async def test_closing_waits_for_the_batch_under_way(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(queues), batches)
    closing = asyncio.create_task(queues.close())
    await asyncio.sleep(0)
    assert not closing.done()
    batches.gate.set()
    await asyncio.wait_for(closing, SOON)
    assert await first == 0


async def test_a_closed_queue_refuses_calls(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    batches.gate.set()
    await double(Session(queues), 1)
    await queues.close()
    with pytest.raises(ClosingError):
        await double(Session(queues), 2)
    with pytest.raises(ClosingError):
        await batched(batches, QueueSpec("new"), name="new")(Session(queues), 3)


async def test_a_batch_that_never_ends_does_not_keep_the_queues_open(
    batches: Batches, double: Call
) -> None:
    queues = BatchQueues(timeout=0.05, readers=4)
    first = await hold(double, Session(queues), batches)
    await asyncio.wait_for(queues.close(), SOON)
    with pytest.raises(OutcomeUnknownError):
        await first


async def test_a_rollback_that_fails_throws_the_connection_away(
    queues: BatchQueues, batches: Batches, double: Call
) -> None:
    class Stuck(Session):
        async def rollback(self) -> None:
            raise database_error(code=10)

        async def invalidate(self) -> None:
            self.log.append("invalidate")

    session = Stuck(queues)
    batches.gate.set()
    batches.failures = {0: database_error(code=10)}
    with pytest.raises(BrokenError):
        await double(session, 1)
    assert session.log == ["invalidate"]
