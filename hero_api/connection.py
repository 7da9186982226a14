"""A client's connection: closed when the client takes too long, or sends too long a head.

uvicorn has no deadline for receiving a request and no bound on its head. This protocol wraps
uvicorn's, and learns from `arrival` which requests have arrived.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any, cast

from hero_api.head import TOO_LARGE, Head

_SLICE = 2_048  # bytes that uvicorn gets at a time: it makes objects of all requests in them
_RETRY_AFTER = 1.0  # seconds, as an overloaded service says it
_LOOK_EVERY = 0.01  # seconds
_REST = 0.3, 0.6  # seconds that a client is not listened to when it came back sooner, in vain


class Connections:
    """The open connections of a server: what makes its protocols, as uvicorn has it.

    A client may take `timeout` seconds to send a request, and as long to read an answer.
    """

    def __init__(self, protocol: Callable[..., asyncio.Protocol], timeout: float) -> None:
        self.open: set[Connection] = set()
        self._protocol = protocol
        self._timeout = timeout

    def __call__(self, *, app_state: dict[str, Any], **options: Any) -> asyncio.Protocol:  # noqa: ANN401
        """Make the protocol of a new connection."""
        connection = Connection(self.open)
        connection.inner = self._protocol(
            app_state=app_state | {"connection": connection}, **options
        )
        return connection

    async def sweep(self) -> None:
        """Close the connections of late clients, until cancelled."""
        # One look at all of them now and then costs less than a timer for each request.
        while True:
            await asyncio.sleep(self._timeout / 8)
            latest = asyncio.get_running_loop().time() - self._timeout
            for connection in [*self.open]:
                connection.close_if_late(latest)

    async def catch_up(self, patience: float) -> None:
        """Wait until no request waits behind another on its connection, for so many seconds."""
        for _ in range(int(patience / _LOOK_EVERY)):
            if not any(connection.is_behind for connection in self.open):
                return
            await asyncio.sleep(_LOOK_EVERY)


class Connection(asyncio.Protocol):
    """Passes everything on to uvicorn's protocol, and knows since when it waits for the client."""

    inner: asyncio.Protocol

    def __init__(self, connections: "set[Connection]") -> None:
        self._connections = connections
        self._time = asyncio.get_running_loop().time
        self._soon = asyncio.get_running_loop().call_soon
        self._transport: asyncio.Transport | None = None
        self._held = bytearray()
        self._feeding: asyncio.Handle | None = None
        self._is_full = False  # uvicorn has paused the reading
        self._is_ahead = False  # uvicorn may have requests that have not begun
        self._at_end = False
        self._head = Head()
        self._body_misses = False
        self._under_way = 0
        self._refused_at = 0.0
        self._is_resting = False
        self._receives_since: float | None = None
        self._sends_since: float | None = None

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return self._transport is None or self._transport.is_closing()

    @property
    def is_behind(self) -> bool:
        """Whether requests were read that have not begun."""
        return bool(self._held) or self._is_ahead

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._receives_since = self._time()
        self._connections.add(self)
        self.inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._transport = None
        self._held.clear()
        if self._feeding:
            self._feeding.cancel()
            self._feeding = None
        self.inner.connection_lost(exc)
        # It refers to this one too: let both go now, not when the collector finds them.
        del self.inner

    def data_received(self, data: bytes) -> None:
        if len(data) > _SLICE or self._held or self._is_busy():
            self._held += data
            self._feed()
        else:
            self._pass_on(data)

    def eof_received(self) -> bool | None:
        # What has arrived is answered, for a client that has only ended its own side.
        self._at_end = self._is_busy()
        return self._at_end or self.inner.eof_received()

    def _feed(self) -> None:
        """Pass on what was held back, in slices; nothing behind a request under way."""
        transport = self._transport
        if transport is None:
            return
        while self._held and not self._is_full and not self._is_busy():
            transport.resume_reading()  # so that it shows when uvicorn pauses it
            ended = self._head.has_ended
            piece = bytes(self._held[:_SLICE])
            del self._held[:_SLICE]
            self._pass_on(piece)
            if self._held and self._head.has_ended and not ended:
                # The request begins first: then it is known what may follow.
                self._feed_soon()
                break
        if self._held or self._is_busy():
            transport.pause_reading()
        elif not self._is_full:
            transport.resume_reading()
            self._is_ahead = self._under_way > 0
            if self._at_end and not self._under_way:
                transport.close()

    def _feed_soon(self) -> None:
        if self._feeding:
            self._feeding.cancel()
        self._feeding = self._soon(self._feed)

    def _is_busy(self) -> bool:
        """Say whether what arrives has to wait: behind a request, or because the client rests."""
        return self._is_resting or (self._under_way > 0 and not self._body_misses)

    def _pass_on(self, data: bytes) -> None:
        # While a request is under way, what follows its body is the head of the next.
        if not (self._head.has_ended or (self._under_way and self._body_misses)):
            if self._receives_since is None and not self._under_way:
                self._receives_since = self._time()
            passed = self._head.add(data, is_rest=self._body_misses)
            if passed is None:
                self._refuse()
                return
            data = passed
        self.inner.data_received(data)
        if self._transport and not self._transport.is_reading():
            self._is_full = self._is_ahead = True

    def pause_writing(self) -> None:
        self._sends_since = self._time()
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self._sends_since = None
        self.inner.resume_writing()

    def _refuse(self) -> None:
        if self._transport:
            self._transport.write(TOO_LARGE)
            self._transport.close()

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

    def request_begun(self, *, has_body: bool) -> None:
        """Take note that the head of a request has arrived, and whether a body follows."""
        self._head.begin()
        self._under_way += 1
        self._body_misses = has_body
        self._receives_since = (self._receives_since or self._time()) if has_body else None

    def body_received(self, *, more: bool) -> None:
        """Take note that some of a request's body has arrived, and whether more is to come."""
        if not more:
            self._body_misses = False
            self._receives_since = None
        self._is_full = False
        if self._held or self._is_ahead:
            self._feed()

    def request_ended(self, *, overloaded: bool) -> None:
        """Take note that the request was answered, maybe before the whole of it has arrived.

        Where the answer was that the service is overloaded, a client that does not wait as it is
        told is made to: else clients in a loop could keep the service busy with refusals.
        """
        self._under_way -= 1
        self._receives_since = self._time() if self._body_misses else None
        self._is_full = False
        if overloaded:
            self._refuse_again()
        if self._transport and (self._held or self._is_ahead or self._at_end or self._is_resting):
            self._transport.pause_reading()
            # The next request that uvicorn has, if any, begins first.
            self._feed_soon()

    def _refuse_again(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._refused_at + _RETRY_AFTER and not self._is_resting:
            self._is_resting = True
            # Not all of them at once.
            loop.call_later(random.uniform(*_REST), self._listen_again)  # noqa: S311
        self._refused_at = loop.time()

    def _listen_again(self) -> None:
        self._is_resting = False
        self._feed()
