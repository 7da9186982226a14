"""How many requests are begun at a time, and in which order."""

import asyncio

import pytest

from hero_api.server.admission import AdmissionLimiter

ROOM = 64
WAITING = 1_000
UNTOUCHED = 30  # seconds: what has no promised deadline must still end


class Visitor:
    """A guest that takes note of when it begins."""

    def __init__(self, begun: "asyncio.Queue[Visitor]") -> None:
        self._begun = begun

    def begin(self) -> None:
        self._begun.put_nowait(self)


class Visit:
    """An entrance, and those who come to it."""

    def __init__(self) -> None:
        self.entrance = AdmissionLimiter(WAITING)
        self._begun: asyncio.Queue[Visitor] = asyncio.Queue()

    def come(self, count: int) -> tuple[list[Visitor], list[bool]]:
        """Let so many come; return them, and of each whether it may begin at once."""
        visitors = [Visitor(self._begun) for _ in range(count)]
        return visitors, [self.entrance.enter(visitor) for visitor in visitors]

    async def begun(self, count: int) -> list[Visitor]:
        """Return the next of those who had to wait, when they have begun."""
        async with asyncio.timeout(UNTOUCHED):
            return [await self._begun.get() for _ in range(count)]

    def all_begun(self) -> list[Visitor]:
        """Return all who had to wait, and have begun since."""
        return [self._begun.get_nowait() for _ in range(self._begun.qsize())]


@pytest.fixture
async def visit() -> Visit:
    """An entrance of the loop that the test runs in."""
    return Visit()


async def test_as_many_as_there_is_room_for_begin_at_once(visit: Visit) -> None:
    _, may_begin = visit.come(ROOM + 2)
    assert may_begin == [True] * ROOM + [False] * 2


async def test_nobody_waits_where_as_many_wait_as_may(visit: Visit) -> None:
    _, may_begin = visit.come(ROOM + WAITING + 2)
    assert may_begin == [True] * ROOM + [False] * WAITING + [True] * 2


async def test_those_who_wait_begin_in_the_order_in_which_they_came(visit: Visit) -> None:
    visitors, _ = visit.come(ROOM + 5)
    for number in (7, 3, 5):
        visit.entrance.leave(visitors[number])
    assert await visit.begun(3) == visitors[ROOM : ROOM + 3]
    visit.entrance.leave(visitors[ROOM])
    assert await visit.begun(1) == [visitors[ROOM + 3]]


async def test_nobody_overtakes_those_who_wait(visit: Visit) -> None:
    visitors, _ = visit.come(ROOM + 1)
    visit.entrance.leave(visitors[0])
    [late], may_begin = visit.come(1)
    assert may_begin == [False]
    visit.entrance.leave(visitors[1])
    assert await visit.begun(2) == [visitors[ROOM], late]


async def test_one_that_is_inside_may_go_on(visit: Visit) -> None:
    visitors, _ = visit.come(ROOM + 1)
    assert visit.entrance.enter(visitors[0])
    assert not visit.entrance.enter(visitors[ROOM])
    visit.entrance.leave(visitors[1])
    assert await visit.begun(1) == [visitors[ROOM]]


async def test_one_that_leaves_while_it_waits_never_begins(visit: Visit) -> None:
    visitors, _ = visit.come(ROOM + 2)
    visit.entrance.leave(visitors[ROOM])
    visit.entrance.leave(visitors[0])
    assert await visit.begun(1) == [visitors[ROOM + 1]]


async def test_one_that_leaves_without_having_come_makes_no_room(visit: Visit) -> None:
    visit.come(ROOM)
    visit.entrance.leave(Visitor(asyncio.Queue()))
    _, may_begin = visit.come(1)
    assert may_begin == [False]


async def test_those_who_stay_long_hold_up_nobody_else(visit: Visit) -> None:
    visit.come(ROOM - 1)
    [quick], _ = visit.come(1)
    others, _ = visit.come(WAITING)
    begun: list[Visitor] = []
    while len(begun) < 2:
        # One makes room for one, until those who stay are passed over.
        visit.entrance.leave(quick)
        begun = await visit.begun(1)
        await asyncio.sleep(0.001)
        begun += visit.all_begun()
        quick = begun[-1]
    assert len(begun) >= ROOM
    assert begun == others[others.index(begun[0]) :][: len(begun)]


async def test_all_begin_at_once_where_none_of_those_inside_gets_on(visit: Visit) -> None:
    visit.come(ROOM)
    others, _ = visit.come(WAITING)
    assert await visit.begun(1) == others[:1]
    assert visit.all_begun() == others[1:]
