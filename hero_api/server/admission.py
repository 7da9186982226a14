"""How many requests are under way at a time.

A request that waits before it is begun is a few bytes of its connection. Once begun, it is a task
and a hundred other objects, and of a thousand such none is in a near cache when its turn comes.
"""

import asyncio
from collections import OrderedDict
from typing import Protocol

_PATIENCE = 0.05  # seconds
_SLOW = 0.5  # seconds that a client may take to send what was begun
_SHARE = 8  # the order changes when more than one client gives up for so many that begin
_FEW = 64  # requests that are under way then
_STALLED = 1.0  # seconds: a timer that is so late means that the process stood still


class Admitted(Protocol):
    """A connection with a request."""

    @property
    def is_receiving(self) -> bool:
        """Whether some of the request that was begun has not arrived yet."""

    def begin(self, arrived: float) -> None:
        """Begin the request that has waited since `arrived`."""

    def close(self) -> None:
        """Close the connection, whose client has probably left."""


class AdmissionLimiter:
    """Admits `limit` requests at a time; the others wait, for at most `timeout` seconds.

    A request whose time is over is admitted too: the application sees that it is late, and answers
    it. One that takes longer than `patience` seconds does not count any more, so that slow work
    holds up nobody else, and neither does one whose client is slow to send it.

    The first to come is the first to be admitted, until clients give up waiting. Those who came
    first would then give up before they are answered, nearly all of them. So two of three that
    begin are the newest, and few at a time, so that they are answered soon; the third is the
    oldest, which may be patient, and must not wait for ever.
    """

    def __init__(self, limit: int, timeout: float, patience: float = _PATIENCE) -> None:
        self._limit = limit
        self._timeout = timeout
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._admitted: dict[Admitted, float] = {}  # since when
        self._waiting: OrderedDict[Admitted, float] = OrderedDict()  # in the order of arrival
        self._half_closed: OrderedDict[Admitted, None] = OrderedDict()  # some of the waiting
        self._given_up = 0  # of late
        self._begun = 0
        self._is_hasty = False  # whether clients give up
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def acquire(self, connection: Admitted) -> bool:
        """Say whether the connection's request may begin now; if not, it is begun later."""
        if connection in self._admitted:
            return True
        now = self._loop.time()
        if len(self._admitted) < self._limit and not self._waiting:
            self._admitted[connection] = now
            return True
        self._waiting[connection] = now
        if self._timer is None:
            self._start_timer()
        return False

    def release(self, connection: Admitted) -> None:
        """Stop counting a connection: its request was answered, or will not begin."""
        if self._waiting.pop(connection, None) is not None:
            self._half_closed.pop(connection, None)
            self._given_up += 1
        self._admitted.pop(connection, None)
        if self._waiting and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._admit)

    def half_closed(self, connection: Admitted) -> None:
        """Count a client that will send no more while its request waits.

        Nearly always it has given up, but it may still read the answer. So the request waits on,
        unless many are like it: then the one of longest ago is dropped.
        """
        self._given_up += 1
        self._half_closed[connection] = None
        if len(self._half_closed) > self._limit:
            dropped, _ = self._half_closed.popitem(last=False)
            del self._waiting[dropped]
            dropped.close()

    def admit_all(self) -> None:
        """Admit all that wait, as late ones."""
        while self._waiting:
            connection, _ = self._waiting.popitem()
            self._begin(connection, float("-inf"))

    def _admit(self) -> None:
        self._is_due = False
        limit = min(self._limit, _FEW) if self._is_hasty else self._limit
        while self._waiting and len(self._admitted) < limit:
            is_newest = self._is_hasty and self._begun % 3 > 0
            self._begin(*self._waiting.popitem(last=is_newest))

    def _begin(self, connection: Admitted, arrived: float) -> None:
        self._begun += 1
        self._half_closed.pop(connection, None)
        self._admitted[connection] = self._loop.time()
        connection.begin(arrived)

    def _start_timer(self) -> None:
        due = self._loop.time() + _PATIENCE
        self._timer = self._loop.call_at(due, self._pass_over, due)

    def _pass_over(self, due: float) -> None:
        """Make room where requests take too long, and admit those whose time is over."""
        self._timer = None
        self._is_hasty = self._given_up * _SHARE > self._begun + self._limit
        self._given_up //= 2
        self._begun //= 2
        now = self._loop.time()
        if now - due > _STALLED:
            # Nobody could have been admitted meanwhile.
            for connection in self._waiting:
                self._waiting[connection] += now - due
        for connection, since in [*self._admitted.items()]:
            patience = min(_SLOW, self._patience) if connection.is_receiving else self._patience
            if since <= now - patience:
                del self._admitted[connection]
        self._admit()
        while self._waiting and next(iter(self._waiting.values())) <= now - self._timeout:
            self._begin(*self._waiting.popitem(last=False))
        if self._waiting:
            self._start_timer()
        else:
            self._is_hasty = False
