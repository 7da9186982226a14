"""uvicorn's protocol, and where in a message its parser is."""

from collections import deque
from enum import Enum, auto
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class Place(Enum):
    """Where the next byte that arrives belongs."""

    BETWEEN = auto()  # to no message that has begun
    HEAD = auto()
    BODY = auto()


class Parser(HttpToolsProtocol):
    """Notes what httptools calls as it parses: nobody else knows for sure where a message ends."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        self.place = Place.BETWEEN
        self.requests = 0  # whose heads have arrived
        self.progress = 0  # counts these, and pieces of bodies
        self.is_lost = (
            False  # what follows a request whose offer to upgrade is not taken, who knows
        )
        self._cycles: deque[RequestResponseCycle] = deque()

    def on_message_begin(self) -> None:
        """Take note that a head begins."""
        self.place = Place.HEAD
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Take note that a head has arrived."""
        self.place = Place.BODY
        self.requests += 1
        self.progress += 1
        self.is_lost = self.parser.should_upgrade()
        super().on_headers_complete()
        while self._cycles and self._cycles[0].response_complete:
            self._cycles.popleft()
        self._cycles.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Take note that some of a body has arrived."""
        self.progress += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take note that a request has arrived."""
        self.place = Place.BETWEEN
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request that the client has left: uvicorn tells the last of several alone."""
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)
