"""How many cheap requests are begun at a time.

A request that waits before it is begun is a few bytes of its connection. Begun, and waiting in a
queue, it is a task and a hundred other objects; of a thousand such none is in a near cache any more
when its turn comes.
"""

import asyncio
from collections import OrderedDict
from typing import Protocol

_ROOM = 64  # a batch of them
_PATIENCE = 0.05  # seconds


class Admitted(Protocol):
    """What comes to the entrance."""

    def begin(self) -> None:
        """Begin: there is room now."""


class AdmissionLimiter:
    """Lets guests begin in the order in which they came, while there is room.

    One that stays for longer than `_PATIENCE` needs no room: what holds it up holds up no others.
    Where `max_waiting` wait already, nobody waits here: the queues refuse what is too much. `cheap`
    are the beginnings of the requests that come here, which are many and cheap: what costs more
    would hold them up, and of writes the more the better share a sync.
    """

    def __init__(self, max_waiting: int, cheap: tuple[bytes, ...] = ()) -> None:
        self._cheap = cheap
        self._max_waiting = max_waiting
        self._loop = asyncio.get_running_loop()
        self._inside: dict[Admitted, float] = {}  # since when
        self._waiting: OrderedDict[Admitted, None] = OrderedDict()
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None

    def is_cheap(self, data: bytes) -> bool:
        """Say whether `data` is the whole head of a cheap request: half of one takes up no room."""
        return data.startswith(self._cheap) and data.endswith(b"\r\n\r\n")

    def enter(self, guest: Admitted) -> bool:
        """Say whether `guest` may begin now; where not, it is told when it may, and comes again."""
        if guest in self._inside:
            return True
        if len(self._inside) < _ROOM and not self._waiting:
            self._inside[guest] = self._loop.time()
            return True
        if len(self._waiting) >= self._max_waiting:
            return True
        self._waiting[guest] = None
        if self._timer is None:
            self._timer = self._loop.call_later(_PATIENCE, self._pass_over)
        return False

    def leave(self, guest: Admitted) -> None:
        """Take note that `guest` has ended, or will not begin any more."""
        self._waiting.pop(guest, None)
        self._inside.pop(guest, None)
        if self._waiting and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._let_in)

    def _let_in(self, room: int = _ROOM) -> None:
        self._is_due = False
        while self._waiting and len(self._inside) < room:
            guest, _ = self._waiting.popitem(last=False)
            self._inside[guest] = self._loop.time()
            guest.begin()

    def _pass_over(self) -> None:
        """Make room where some take too long; where all do, nobody need wait for the others."""
        self._timer = None
        latest = self._loop.time() - _PATIENCE
        for guest in [guest for guest, since in self._inside.items() if since <= latest]:
            del self._inside[guest]
        self._let_in(_ROOM if self._inside else len(self._waiting))
        if self._waiting:
            self._timer = self._loop.call_later(_PATIENCE, self._pass_over)
