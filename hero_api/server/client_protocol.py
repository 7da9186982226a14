"""A client's connection: closed when the client takes too long, or sends too long a head.

uvicorn has no deadline for receiving a request, no bound on its head, none on what a client sends
behind it, and begins all requests at once. This protocol wraps uvicorn's, and asks it how far a
request has arrived.
"""

import asyncio
import random
from collections import deque
from http import HTTPStatus
from typing import Any, cast

from hero_api.server.admission import AdmissionLimiter
from hero_api.server.buffered_transport import BufferedTransport
from hero_api.server.http_protocol import Parser, ParseState

_SLICE = 2_048  # bytes that uvicorn gets at a time: it makes objects of all requests in them
_MAX_HEAD = 65_536  # bytes
_LOOK_EVERY = 0.01  # seconds
_RETRY_AFTER = 1.0  # seconds, as an overloaded service says it
_REST = 0.3, 0.6  # seconds that a client is not listened to when it came back sooner, in vain


class ProtocolFactory:
    """The open connections of a server: what makes its protocols, as uvicorn has it.

    A client may take `timeout` seconds to send a request, as long to read an answer, and as long
    until it asks again. At most `max_waiting` of the `cheap` requests wait before they are begun.
    """

    def __init__(self, timeout: float, max_waiting: int, cheap: tuple[bytes, ...] = ()) -> None:
        self.open: set[Connection] = set()
        self._entrance = AdmissionLimiter(max_waiting, cheap)
        self._timeout = timeout
        self._time = asyncio.get_running_loop().time

    def __call__(self, *, app_state: dict[str, Any], **options: Any) -> asyncio.Protocol:  # noqa: ANN401
        """Make the protocol of a new connection."""
        connection = Connection(self.open, self._entrance)
        connection.parser = Parser(app_state=app_state | {"connection": connection}, **options)
        return connection

    async def sweep(self) -> None:
        """Close the connections of late clients, until cancelled."""
        # One look at all of them now and then costs less than a timer for each request. Looks are
        # counted, not seconds: no client was late while this process was stopped.
        looks = deque([self._time()], maxlen=9)  # eight whole intervals
        while True:
            await asyncio.sleep(self._timeout / 8)
            await asyncio.sleep(0)  # what has arrived meanwhile is read first
            for connection in [*self.open]:
                connection.close_if_late(looks[0])
            looks.append(self._time())

    async def catch_up(self, patience: float) -> None:
        """Wait until no request waits behind another on its connection, for so many seconds."""
        end = self._time() + patience
        while self._time() < end:
            if not any(connection.is_behind for connection in self.open):
                return
            await asyncio.sleep(_LOOK_EVERY)

    def abort_waiting(self) -> None:
        """Close the connections whose clients are waited for."""
        for connection in [*self.open]:
            connection.close_if_late(float("inf"))


class Connection(asyncio.Protocol):
    """Passes everything on to the parser, and knows since when it waits for the client."""

    parser: Parser

    def __init__(self, connections: "set[Connection]", entrance: AdmissionLimiter) -> None:
        self._connections = connections
        self._entrance = entrance
        self._is_outside = False
        self._time = asyncio.get_running_loop().time
        self._transport: asyncio.Transport | None = None
        self._held = bytearray()
        self._is_full = False  # uvicorn has paused the reading
        self._at_end = False
        self._endless = 0  # bytes since the parser last had the end of a head, or some of a body
        self._answered = 0
        self._refused_at = 0.0
        self._is_resting = False
        self._receives_since: float | None = None
        self._sends_since: float | None = None

    @property
    def is_behind(self) -> bool:
        """Whether requests were read that wait for others."""
        return self._under_way > 1 or (bool(self._held) and self._is_busy())

    @property
    def _under_way(self) -> int:
        return self.parser.requests - self._answered

    def _is_busy(self) -> bool:
        """Say whether what arrives has to wait: for room, a rest, or the request before it."""
        if self._is_outside or self._is_resting:
            return True
        return self._under_way > 0 and self.parser.place is not ParseState.BODY

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = BufferedTransport(cast("asyncio.Transport", transport))
        self._receives_since = self._time()
        self._connections.add(self)
        self.parser.connection_made(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._entrance.leave(self)
        self._transport = None
        self._held.clear()
        self.parser.connection_lost(exc)
        # It refers to this one too: let both go now, not when the collector finds them.
        del self.parser

    def data_received(self, data: bytes) -> None:
        if self.parser.is_lost:
            return
        is_new = not self._under_way and self.parser.place is ParseState.IDLE
        if is_new and not data.isspace():
            self._receives_since = None
        if len(data) > _SLICE or self._held or self._is_busy():
            self._held += data
            self._feed()
        elif is_new and self._entrance.is_cheap(data) and not self._entrance.enter(self):
            self._is_outside = True
            self._held += data
        else:
            self._pass_on(data)

    def begin(self) -> None:
        """Take what was held back, now that there is room."""
        self._is_outside = False
        data, self._held = bytes(self._held), bytearray()
        self.data_received(data)

    def eof_received(self) -> bool:
        # What has arrived is answered, for a client that has only ended its own side.
        self._at_end = self._is_busy()
        if not self._at_end and self._transport:
            self._transport.close()
        return True

    def pause_writing(self) -> None:
        self._sends_since = self._time()
        self.parser.pause_writing()

    def resume_writing(self) -> None:
        self._sends_since = None
        if self._receives_since is not None and self.parser.place is ParseState.IDLE:
            self._receives_since = self._time()
        self.parser.resume_writing()

    def close_if_late(self, latest: float) -> None:
        """Close the connection if its client has been waited for since before `latest`."""
        if self._transport is None:
            return
        if self._transport.is_closing() and self._sends_since is None:
            # The rest of the answer may be too small for `pause_writing`.
            self._sends_since = self._time()
        waited = (self._receives_since, self._sends_since)
        if any(since is not None and since < latest for since in waited):
            self._transport.abort()

    def body_taken(self) -> None:
        """Take note that some of a request's body was taken: there is room for more."""
        self._is_full = False
        if self._held:
            self._feed()

    def request_ended(self, *, overloaded: bool) -> None:
        """Take note that a request was answered, maybe before the whole of it has arrived.

        Where the answer was that the service is overloaded, a client that does not wait as it is
        told is made to: else clients in a loop could keep the service busy with refusals.
        """
        self._answered += 1
        self._is_full = False
        if (transport := self._transport) is None:
            return
        if overloaded:
            self._refuse_again()
        self._receives_since = None
        self._time_client()
        if not self._under_way:
            self._entrance.leave(self)
            if self.parser.place is ParseState.IDLE:
                self.parser.forget()
        if self.parser.is_lost and not self._under_way:
            transport.close()
        elif self._held or self._at_end or self._is_busy() or not transport.is_reading():
            self._feed()

    def _feed(self) -> None:
        """Pass on what was held back, in slices; nothing behind a request under way."""
        if (transport := self._transport) is None:
            return
        while self._held and not self._is_full and not self._is_busy():
            transport.resume_reading()  # so that it shows when uvicorn pauses it
            piece = bytes(self._held[:_SLICE])
            del self._held[:_SLICE]
            self._pass_on(piece)
        if transport.is_closing():
            return
        if self._held or self._is_busy():
            transport.pause_reading()
        elif not self._is_full:
            transport.resume_reading()
            if self._at_end and not self._under_way:
                transport.close()

    def _pass_on(self, data: bytes) -> None:
        parser, transport = self.parser, cast("asyncio.Transport", self._transport)
        before = parser.progress
        parser.data_received(data)
        self._time_client()
        self._endless = 0 if parser.progress > before else self._endless + len(data)
        if self._endless > _MAX_HEAD:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            parser.refuse(status, "The head of the request is too large")
        if parser.is_lost or transport.is_closing():
            self._held.clear()
        elif not transport.is_reading():
            self._is_full = True

    def _time_client(self) -> None:
        """Know since when the client is waited for, if it is."""
        if self._is_busy():
            self._receives_since = None
        elif self._receives_since is None:
            self._receives_since = self._time()

    def _refuse_again(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._refused_at + _RETRY_AFTER and not self._is_resting:
            self._is_resting = True
            # Not all of them at once.
            loop.call_later(random.uniform(*_REST), self._listen_again)  # noqa: S311
        self._refused_at = loop.time()

    def _listen_again(self) -> None:
        self._is_resting = False
        if self._transport is not None:
            self._time_client()
            self._feed()
