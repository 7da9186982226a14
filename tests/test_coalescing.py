"""The rules of a lane. Batches are held at a gate, so that what arrives meanwhile is known."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from hero_api.coalescing import Lanes, coalesce
from hero_api.errors import (
    BrokenError,
    ClosingError,
    HeroError,
    HeroNotFoundError,
    LateError,
    OutcomeUnknownError,
    OverloadedError,
    RefusedError,
)

SOON = 5.0  # seconds: far more than anything here takes


class Session(AsyncSession):
    """A session that says what is done with it; connecting and COMMIT can be held back or fail."""

    def __init__(self, lanes: Lanes | None = None) -> None:
        super().__init__(info=lanes.info if lanes else None)
        self.log: list[str] = []
        self.commits = asyncio.Event()
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self.commit_error: Exception | None = None
        self.may_connect = asyncio.Event()
        self.may_connect.set()

    async def connection(self, *_: Any, **__: Any) -> Any:  # noqa: ANN401 - nobody looks at it
        await self.may_connect.wait()

    async def commit(self) -> None:
        self.log.append("commit")
        self.commits.set()
        await self.may_commit.wait()
        if self.commit_error:
            raise self.commit_error

    async def rollback(self) -> None:
        self.log.append("rollback")

    async def close(self) -> None:
        self.log.append("close")


class Batches:
    """A batch function that doubles its items: it records its batches, and waits at a gate."""

    def __init__(self) -> None:
        self.seen: list[tuple[AsyncSession, list[int]]] = []
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.failures: dict[int, Exception] = {}
        self.not_found: set[int] = set()

    async def __call__(self, session: Session, items: Sequence[int]) -> Sequence[int | HeroError]:
        number = len(self.seen)
        self.seen.append((session, list(items)))
        self.begun.set()
        await self.gate.wait()
        if number in self.failures:
            raise self.failures[number]
        return [HeroNotFoundError() if item in self.not_found else 2 * item for item in items]

    @property
    def items(self) -> list[list[int]]:
        return [items for _, items in self.seen]


Call = Callable[[Session, int], Awaitable[int]]


@pytest.fixture
def batches() -> Batches:
    return Batches()


@pytest.fixture
def double(batches: Batches) -> Call:
    return coalesce(batches, name="double", writes=True, max_items=3)


@pytest.fixture
async def lanes() -> AsyncIterator[Lanes]:
    lanes = Lanes(max_waiting=5, timeout=SOON)
    yield lanes
    await lanes.close()


def database_error(kind: type[Any] = OperationalError, code: int = 5) -> Exception:
    cause = sqlite3.OperationalError("injected")
    cause.sqlite_errorcode = code
    error: Exception = kind("SELECT 1", {}, cause)
    return error


async def start(call: Call, session: Session, *items: int) -> list[asyncio.Task[int]]:
    """Start calls in order, and let each arrive in its lane."""

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


async def test_a_lone_call_runs_at_once_on_its_own_session(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    session = Session(lanes)
    batches.gate.set()
    assert await double(session, 7) == 14
    assert batches.seen == [(session, [7])]
    assert session.log == ["commit"]


async def test_calls_that_arrive_during_a_batch_share_the_next_one_in_order(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(lanes), batches)
    others = await start(double, Session(lanes), 1, 2, 3)
    batches.gate.set()
    assert await asyncio.gather(first, *others) == [0, 2, 4, 6]
    assert batches.items == [[0], [1, 2, 3]]


async def test_a_batch_is_one_transaction_on_the_session_of_its_first_call(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(lanes), batches)
    sessions = [Session(lanes), Session(lanes)]
    others = [task for session in sessions for task in await start(double, session, 1)]
    batches.gate.set()
    await asyncio.gather(first, *others)
    assert batches.seen[1][0] is sessions[0]
    assert [session.log for session in sessions] == [["commit"], []]


async def test_a_batch_that_reads_is_not_committed(lanes: Lanes, batches: Batches) -> None:
    session = Session(lanes)
    batches.gate.set()
    assert await coalesce(batches, name="read")(session, 7) == 14
    assert session.log == ["rollback"]


async def test_a_batch_has_no_more_items_than_its_bound(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(lanes), batches)
    others = await start(double, Session(lanes), 1, 2, 3, 4)
    batches.gate.set()
    await asyncio.gather(first, *others)
    assert batches.items == [[0], [1, 2, 3], [4]]


async def test_a_batch_has_no_more_different_items_than_its_bound(
    lanes: Lanes, batches: Batches
) -> None:
    double = coalesce(batches, name="double", max_distinct=2)
    first = await hold(double, Session(lanes), batches)
    others = await start(double, Session(lanes), 1, 2, 1, 3, 1)
    batches.gate.set()
    await asyncio.gather(first, *others)
    assert batches.items == [[0], [1, 2, 1], [3, 1]]


async def test_nobody_is_answered_before_commit_returned(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    session = Session(lanes)
    session.may_commit.clear()
    batches.gate.set()
    [task] = await start(double, session, 7)
    await asyncio.wait_for(session.commits.wait(), SOON)
    assert not task.done()
    session.may_commit.set()
    assert await task == 14


async def test_a_call_beyond_the_bound_is_refused_at_once(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(lanes), batches)
    others = await start(double, Session(lanes), 1, 2, 3, 4, 5)
    with pytest.raises(OverloadedError):
        await double(Session(lanes), 6)
    batches.gate.set()
    assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10]


async def test_a_cancelled_first_caller_does_not_take_its_batch_down(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(lanes), batches)
    second, third = await start(double, Session(lanes), 1, 2)
    batches.begun.clear()
    batches.gate.set()
    await first
    await batches.begun.wait()
    second.cancel()
    assert await third == 4


async def test_a_cancelled_lone_caller_leaves_its_lane_at_work(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    session = Session(lanes)
    first = await hold(double, session, batches)
    first.cancel()
    batches.gate.set()
    assert await double(Session(lanes), 1) == 2
    assert session.log == ["commit"]


async def test_a_waiter_that_was_cancelled_is_left_out_of_its_batch(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(lanes), batches)
    second, third = await start(double, Session(lanes), 1, 2)
    second.cancel()
    await asyncio.sleep(0)
    batches.gate.set()
    await asyncio.gather(first, third)
    assert batches.items == [[0], [2]]


async def test_a_first_caller_that_was_cancelled_before_its_batch_began_is_left_out(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    answer = asyncio.ensure_future(double(Session(lanes), 1))
    answer.cancel()
    batches.gate.set()
    assert await double(Session(lanes), 2) == 4
    assert batches.items == [[2]]


async def test_an_item_that_fails_fails_its_own_caller_alone(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    batches.not_found = {1}
    first = await hold(double, Session(lanes), batches)
    second, third = await start(double, Session(lanes), 1, 2)
    batches.gate.set()
    await first
    with pytest.raises(HeroNotFoundError):
        await second
    assert await third == 4


async def test_a_batch_that_fails_as_a_whole_is_run_again_one_by_one(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(lanes), batches)
    sessions = [Session(lanes), Session(lanes)]
    others = [task for session in sessions for task in await start(double, session, 1)]
    batches.failures = {1: database_error(IntegrityError, 19)}
    batches.gate.set()
    assert await asyncio.gather(first, *others) == [0, 2, 2]
    assert batches.items == [[0], [1, 1], [1], [1]]
    assert [session.log for session in sessions] == [["rollback", "commit"], ["commit"]]


async def test_an_item_that_breaks_its_batch_fails_alone_when_it_is_run_again(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(lanes), batches)
    others = await start(double, Session(lanes), 1, 2)
    batches.failures = {number: database_error(IntegrityError, 19) for number in (1, 2)}
    batches.gate.set()
    await first
    second, third = others
    with pytest.raises(RefusedError):
        await second
    assert await third == 4


async def test_a_batch_is_not_run_again_when_the_database_is_unavailable(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(lanes), batches)
    others = await start(double, Session(lanes), 1, 2)
    batches.failures = {1: database_error(code=10)}
    batches.gate.set()
    await first
    for task in others:
        with pytest.raises(BrokenError):
            await task
    assert batches.items == [[0], [1, 2]]


async def test_each_caller_of_a_failed_batch_gets_an_error_of_its_own(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(lanes), batches)
    others = await start(double, Session(lanes), 1, 2)
    batches.failures = {1: database_error(code=10)}
    batches.gate.set()
    await first
    one, another = await asyncio.gather(*others, return_exceptions=True)
    assert isinstance(one, BrokenError)
    assert isinstance(another, BrokenError)
    assert one is not another


async def test_a_commit_that_fails_leaves_the_outcome_unknown_and_is_not_run_again(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    session = Session(lanes)
    session.commit_error = database_error(code=10)
    batches.gate.set()
    with pytest.raises(OutcomeUnknownError):
        await double(session, 7)
    assert batches.items == [[7]]
    assert session.log == ["commit", "rollback"]


@pytest.mark.parametrize("at_commit", [False, True])
async def test_the_log_says_what_the_callers_of_a_failed_batch_were_told(
    lanes: Lanes,
    batches: Batches,
    double: Call,
    caplog: pytest.LogCaptureFixture,
    *,
    at_commit: bool,
) -> None:
    session = Session(lanes)
    if at_commit:
        session.commit_error = database_error(code=10)
    else:
        batches.failures = {0: database_error(code=10)}
    batches.gate.set()
    with pytest.raises(OutcomeUnknownError if at_commit else BrokenError) as caught:
        await double(session, 7)
    assert caplog.messages == [f"double: a batch of 1 failed: OperationalError: {caught.value}"]


async def test_failed_batches_of_a_lane_are_logged_once_a_second(
    lanes: Lanes,
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
            await double(Session(lanes), 7)
        lines.append(len(caplog.messages))
    assert lines == [1, 1, 1, 2, 2, 3]


async def test_a_lane_leaves_an_error_that_nobody_foresaw_to_the_log_of_its_request(
    lanes: Lanes, batches: Batches, double: Call, caplog: pytest.LogCaptureFixture
) -> None:
    batches.failures = {0: LookupError("nobody foresaw this")}
    batches.gate.set()
    with pytest.raises(LookupError):
        await double(Session(lanes), 7)
    assert caplog.messages == []


async def test_a_batch_that_answers_too_few_fails_before_commit(lanes: Lanes) -> None:
    async def forgetful(_session: Session, _items: Sequence[int]) -> Sequence[int]:
        return []

    session = Session(lanes)
    with pytest.raises(ValueError, match="zip"):
        await coalesce(forgetful, name="forgetful", writes=True)(session, 7)
    assert session.log == ["rollback"]


async def test_callers_of_a_batch_that_never_ends_are_answered_at_their_deadline(
    batches: Batches, double: Call
) -> None:
    lanes = Lanes(max_waiting=5, timeout=0.05)
    first = await hold(double, Session(lanes), batches)
    [waiting] = await start(double, Session(lanes), 1)
    async with asyncio.timeout(SOON):
        with pytest.raises(OutcomeUnknownError):
            await first
        with pytest.raises(LateError):
            await waiting
        with pytest.raises(LateError):
            await double(Session(lanes), 2)
    batches.gate.set()


async def test_a_lane_serves_again_when_a_batch_that_hung_ends(
    batches: Batches, double: Call
) -> None:
    lanes = Lanes(max_waiting=5, timeout=0.05)
    first = await hold(double, Session(lanes), batches)
    [expired] = await start(double, Session(lanes), 1)
    await asyncio.wait([first, expired], timeout=SOON)
    batches.gate.set()
    assert await double(Session(lanes), 2) == 4
    assert batches.items == [[0], [2]], "what was answered 503 was not done after all"
    assert isinstance(first.exception(), OutcomeUnknownError)
    assert isinstance(expired.exception(), LateError)


async def test_a_write_that_is_answered_while_its_batch_connects_is_never_done(
    batches: Batches, double: Call
) -> None:
    lanes = Lanes(max_waiting=5, timeout=0.05)
    session = Session(lanes)
    session.may_connect.clear()
    [late] = await start(double, session, 1)
    async with asyncio.timeout(SOON):
        with pytest.raises(LateError):
            await late
    session.may_connect.set()
    batches.gate.set()
    assert await double(Session(lanes), 2) == 4
    assert batches.items == [[2]]


async def test_a_batch_that_is_connected_serves_those_who_still_wait(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    batches.gate.set()
    sessions = [Session(lanes), Session(lanes)]
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
    lanes = Lanes(max_waiting=5, timeout=0.05)
    with pytest.raises(LateError):
        await coalesce(batches, name="read")(Session(lanes), 1)
    batches.gate.set()


async def test_two_applications_in_one_process_never_meet(batches: Batches, double: Call) -> None:
    one, other = (Lanes(max_waiting=5, timeout=SOON) for _ in range(2))
    held = await hold(double, Session(one), batches)
    batches.begun.clear()
    others = await start(double, Session(other), 1, 2)
    await asyncio.wait_for(batches.begun.wait(), SOON)
    assert batches.items == [[0], [1]]
    batches.gate.set()
    assert await asyncio.gather(held, *others) == [0, 2, 4]


async def test_functions_have_lanes_of_their_own(lanes: Lanes, batches: Batches) -> None:
    one, other = (coalesce(batches, name=name) for name in ("one", "other"))
    held = await hold(one, Session(lanes), batches)
    batches.begun.clear()
    [free] = await start(other, Session(lanes), 1)
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


async def test_an_item_that_fails_on_a_session_of_someone_else_raises(
    batches: Batches, double: Call
) -> None:
    batches.not_found = {1}
    batches.gate.set()
    with pytest.raises(HeroNotFoundError):
        await double(Session(), 1)


async def test_closing_waits_for_the_batch_under_way(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    first = await hold(double, Session(lanes), batches)
    closing = asyncio.create_task(lanes.close())
    await asyncio.sleep(0)
    assert not closing.done()
    batches.gate.set()
    await asyncio.wait_for(closing, SOON)
    assert await first == 0


async def test_a_closed_lane_refuses_calls(lanes: Lanes, batches: Batches, double: Call) -> None:
    batches.gate.set()
    await double(Session(lanes), 1)
    await lanes.close()
    with pytest.raises(ClosingError):
        await double(Session(lanes), 2)
    with pytest.raises(ClosingError):
        await coalesce(batches, name="new")(Session(lanes), 3)


async def test_a_batch_that_never_ends_does_not_keep_the_lanes_open(
    batches: Batches, double: Call
) -> None:
    lanes = Lanes(max_waiting=5, timeout=0.05)
    first = await hold(double, Session(lanes), batches)
    await asyncio.wait_for(lanes.close(), SOON)
    with pytest.raises(OutcomeUnknownError):
        await first


async def test_a_rollback_that_fails_throws_the_connection_away(
    lanes: Lanes, batches: Batches, double: Call
) -> None:
    class Stuck(Session):
        async def rollback(self) -> None:
            raise database_error(code=10)

        async def invalidate(self) -> None:
            self.log.append("invalidate")

    session = Stuck(lanes)
    batches.gate.set()
    batches.failures = {0: database_error(code=10)}
    with pytest.raises(BrokenError):
        await double(session, 1)
    assert session.log == ["invalidate"]
