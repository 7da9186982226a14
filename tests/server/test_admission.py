"""How many requests are under way at a time, and in which order the others begin."""

import asyncio

import pytest

from hero_api.server.admission import AdmissionLimiter

LIMIT = 6
UNTOUCHED = 30.0  # seconds: what has no promised deadline must still end


class Request:
    """A request that notes when it begins, and whether its connection is closed."""

    def __init__(self, begun: "asyncio.Queue[Request]") -> None:
        self._begun = begun
        self.arrived: float | None = None
        self.is_closed = False
        self.is_receiving = False

    def begin(self, arrived: float) -> None:
        self.arrived = arrived
        self._begun.put_nowait(self)

    def close(self) -> None:
        self.is_closed = True


class Arrivals:
    """Requests that come to a limiter."""

    def __init__(self, timeout: float = UNTOUCHED, patience: float = UNTOUCHED) -> None:
        self.limiter = AdmissionLimiter(LIMIT, timeout, patience)
        self._begun: asyncio.Queue[Request] = asyncio.Queue()

    def come(self, count: int) -> tuple[list[Request], list[bool]]:
        """Let so many come; return them, and of each whether it may begin at once."""
        requests = [Request(self._begun) for _ in range(count)]
        return requests, [self.limiter.acquire(request) for request in requests]

    async def begun(self, count: int) -> list[Request]:
        """Return the next of those who had to wait, when they have begun."""
        async with asyncio.timeout(UNTOUCHED):
            return [await self._begun.get() for _ in range(count)]


@pytest.fixture
async def arrivals() -> Arrivals:
    """Arrivals at a limiter that waits for everybody for a long time."""
    return Arrivals()


async def test_as_many_as_the_limit_begin_at_once(arrivals: Arrivals) -> None:
    _, may_begin = arrivals.come(LIMIT + 2)
    assert may_begin == [True] * LIMIT + [False] * 2


async def test_those_who_wait_begin_in_the_order_in_which_they_came(arrivals: Arrivals) -> None:
    requests, _ = arrivals.come(LIMIT + 5)
    for number in (4, 3, 5):
        arrivals.limiter.release(requests[number])
    assert await arrivals.begun(3) == requests[LIMIT : LIMIT + 3]
    arrivals.limiter.release(requests[LIMIT])
    assert await arrivals.begun(1) == [requests[LIMIT + 3]]


async def test_nobody_overtakes_those_who_wait(arrivals: Arrivals) -> None:
    requests, _ = arrivals.come(LIMIT + 1)
    arrivals.limiter.release(requests[0])
    [last], may_begin = arrivals.come(1)
    assert may_begin == [False]
    arrivals.limiter.release(requests[1])
    assert await arrivals.begun(2) == [requests[LIMIT], last]


async def test_one_that_was_admitted_may_go_on(arrivals: Arrivals) -> None:
    requests, _ = arrivals.come(LIMIT + 1)
    assert arrivals.limiter.acquire(requests[0])
    arrivals.limiter.release(requests[1])
    assert await arrivals.begun(1) == [requests[LIMIT]]
    assert arrivals.limiter.acquire(requests[LIMIT])


async def test_one_that_leaves_while_it_waits_never_begins(arrivals: Arrivals) -> None:
    requests, _ = arrivals.come(LIMIT + 2)
    arrivals.limiter.release(requests[LIMIT])
    arrivals.limiter.release(requests[0])
    assert await arrivals.begun(1) == [requests[LIMIT + 1]]


async def test_one_that_leaves_without_having_come_makes_no_room(arrivals: Arrivals) -> None:
    arrivals.come(LIMIT)
    arrivals.limiter.release(Request(asyncio.Queue()))
    _, may_begin = arrivals.come(1)
    assert may_begin == [False]


async def test_when_clients_give_up_two_of_three_that_begin_are_the_newest() -> None:
    arrivals = Arrivals(patience=0.05)  # so that the next look finds room
    requests, _ = arrivals.come(LIMIT + 30)
    for request in requests[-20:]:
        arrivals.limiter.release(request)
    waiting = requests[LIMIT:-20]
    newest = waiting[::-1]
    expected = [waiting[0], *newest[:2], waiting[1], *newest[2:4]]
    assert await arrivals.begun(LIMIT) == expected


async def test_a_few_clients_that_give_up_change_no_order(arrivals: Arrivals) -> None:
    requests, _ = arrivals.come(LIMIT + 3)
    arrivals.limiter.half_closed(requests[-1])
    arrivals.limiter.release(requests[-1])
    arrivals.limiter.release(requests[0])
    assert await arrivals.begun(1) == [requests[LIMIT]]


async def test_one_that_is_half_closed_waits_on(arrivals: Arrivals) -> None:
    requests, _ = arrivals.come(LIMIT + 1)
    arrivals.limiter.half_closed(requests[LIMIT])
    arrivals.limiter.release(requests[0])
    assert await arrivals.begun(1) == [requests[LIMIT]]
    assert not requests[LIMIT].is_closed


async def test_of_many_that_are_half_closed_the_first_are_dropped(arrivals: Arrivals) -> None:
    requests, _ = arrivals.come(2 * LIMIT + 2)
    for request in requests[LIMIT:]:
        arrivals.limiter.half_closed(request)
    assert [request.is_closed for request in requests[LIMIT:]] == [True] * 2 + [False] * LIMIT
    for request in requests[:LIMIT]:
        arrivals.limiter.release(request)
    assert set(await arrivals.begun(LIMIT)) == set(requests[LIMIT + 2 :])


async def test_those_who_take_long_hold_up_nobody_else() -> None:
    arrivals = Arrivals(patience=0.05)
    arrivals.come(LIMIT)
    others, _ = arrivals.come(3 * LIMIT)
    assert await arrivals.begun(3 * LIMIT) == others


async def test_those_who_take_long_hold_up_others_where_the_limit_is_strict() -> None:
    arrivals = Arrivals(patience=float("inf"))
    requests, _ = arrivals.come(LIMIT + 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(arrivals.begun(1), 0.2)
    arrivals.limiter.release(requests[0])
    assert await arrivals.begun(1) == [requests[LIMIT]]


async def test_slow_senders_hold_up_nobody_even_where_the_limit_is_strict() -> None:
    arrivals = Arrivals(patience=float("inf"))
    slow, _ = arrivals.come(LIMIT)
    for request in slow:
        request.is_receiving = True
    others, _ = arrivals.come(LIMIT)
    assert await arrivals.begun(LIMIT) == others


async def test_those_whose_time_is_over_begin_whatever_the_limit() -> None:
    arrivals = Arrivals(timeout=0.1, patience=float("inf"))
    arrivals.come(LIMIT)
    late, _ = arrivals.come(2 * LIMIT)
    assert await arrivals.begun(2 * LIMIT) == late
    now = asyncio.get_running_loop().time()
    assert all(request.arrived is not None and request.arrived <= now - 0.1 for request in late)


async def test_at_the_end_all_begin_as_late_ones(arrivals: Arrivals) -> None:
    requests, _ = arrivals.come(3 * LIMIT)
    arrivals.limiter.admit_all()
    assert {request.arrived for request in await arrivals.begun(2 * LIMIT)} == {float("-inf")}
    assert {request.arrived for request in requests[:LIMIT]} == {None}
