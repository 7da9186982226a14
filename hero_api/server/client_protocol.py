"""The protocol of a client's connection: when its requests begin, and how long the client may take.

uvicorn begins all requests at once, has no deadline for receiving one, no bound on its head, and
none on what a client sends behind it. This protocol wraps uvicorn's, and asks it how far a request
has arrived.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import cast

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from hero_api.server.admission import AdmissionLimiter
from hero_api.server.buffered_transport import BufferedTransport
from hero_api.server.http_protocol import HTTPProtocol, ParseState

_SAFE_METHODS = b"GET ", b"HEAD ", b"OPTIONS "
_SLICE = 2_048  # bytes that uvicorn gets at a time: it makes objects of all requests in them
_READ = 8_192  # bytes that are read at a time: many connections may hold as many
_MAX_WAITING = 8_192  # bytes of a request that waits, until its connection is not read any more
_MAX_HEAD = 65_536  # bytes


class ProtocolFactory:
    """Makes the protocol of each connection, in place of uvicorn's, and knows those that are open.

    A client may take `timeout` seconds to send a request, as long to read an answer, and as long
    until it asks again. Requests of `safe` methods are admitted by a limiter of their own, so that
    no read waits for writes. Those whose path begins with one of `exempt` are begun at once.
    """

    def __init__(
        self,
        timeout: float,
        safe: AdmissionLimiter,
        unsafe: AdmissionLimiter,
        exempt: Sequence[str] = (),
    ) -> None:
        self.open: set[ClientProtocol] = set()
        self.is_draining = False
        self.buffer = memoryview(bytearray(_READ))  # of all connections: what is read is copied
        self._all_lost = asyncio.Event()
        self._safe = safe
        self._unsafe = unsafe
        self._exempt = tuple(b"%s%s" % (m, path.encode()) for m in _SAFE_METHODS for path in exempt)
        self._timeout = timeout
        self._time = asyncio.get_running_loop().time

    def __call__(self, config: Config, server_state: ServerState) -> "ClientProtocol":
        """Make the protocol of a new connection."""
        return ClientProtocol(self, partial(HTTPProtocol, config, server_state))

    def limiter(self, data: bytes | bytearray) -> AdmissionLimiter | None:
        """Return the limiter of a request that begins with `data`; None where it need not wait."""
        if data.startswith(self._exempt):
            return None
        return self._safe if data.startswith(_SAFE_METHODS) else self._unsafe

    def lost(self, protocol: "ClientProtocol") -> None:
        """Forget a connection that is closed."""
        self.open.discard(protocol)
        if self.is_draining and not self.open:
            self._all_lost.set()

    async def sweep(self) -> None:
        """Close the connections of late clients, until cancelled."""
        # A look at all of them now and then costs less than a timer for each request. We count
        # looks, not seconds: while this process was stopped, no client was late.
        looks = deque([self._time()], maxlen=9)  # eight whole intervals
        while True:
            await asyncio.sleep(self._timeout / 8)
            await asyncio.sleep(0)  # what has arrived meanwhile is read first
            for protocol in [*self.open]:
                protocol.close_if_late(looks[0])
            looks.append(self._time())

    async def drain(self, patience: float) -> None:
        """Serve on for up to `patience` seconds, until each client was told to reconnect.

        A client, most of all a proxy, may send a request just when its idle connection is closed,
        and cannot know whether it may repeat it. So a connection is closed after an answer that
        says `Connection: close`.
        """
        self.is_draining = True
        for protocol in self.open:
            protocol.announce_close()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience if self.open else 0):
                await self._all_lost.wait()
        self._safe.admit_all()
        self._unsafe.admit_all()

    def abort_waiting(self) -> None:
        """Close the connections that wait for their clients."""
        for protocol in [*self.open]:
            protocol.close_if_late(float("inf"))


class ClientProtocol(asyncio.BufferedProtocol):
    """Passes on to uvicorn's protocol what arrives, and times how long the client is waited for.

    `arrived` is when the request under way arrived, if it had to wait before it was begun.
    """

    def __init__(self, factory: ProtocolFactory, make_http: Callable[..., HTTPProtocol]) -> None:
        self.arrived: float | None = None
        # Made on first use: many clients may leave before their request is begun.
        self.http: HTTPProtocol | None = None
        self._make_http = make_http
        self._factory = factory
        self._limiter: AdmissionLimiter | None = None
        self._is_waiting = False  # to be admitted
        self._time = asyncio.get_running_loop().time
        self._transport: BufferedTransport | None = None
        self._held = bytearray()
        self._is_full = False  # whether uvicorn wants no more for now
        self._is_half_closed = False
        self._receives_since: float | None = None
        self._sends_since: float | None = None

    @property
    def is_receiving(self) -> bool:
        """Whether the rest of a request is waited for."""
        return self._receives_since is not None

    @property
    def _under_way(self) -> int:
        return self.http.under_way if self.http else 0

    @property
    def _is_lost(self) -> bool:
        return self.http is not None and self.http.is_lost

    @property
    def _state(self) -> ParseState:
        return self.http.state if self.http else ParseState.IDLE

    def _is_busy(self) -> bool:
        """Say whether what arrives has to wait: for admission, or for the request before it."""
        if self._is_waiting:
            return True
        return self._under_way > 0 and self._state is not ParseState.BODY

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = BufferedTransport(cast("asyncio.Transport", transport))
        self._receives_since = self._time()
        self._factory.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._factory.lost(self)
        if self._limiter:
            self._limiter.release(self)
        self._transport = None
        self._held.clear()
        if self.http:
            self.http.connection_lost(exc)
            # The two refer to each other: free them now, and not when the collector runs.
            self.http = None

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        return self._factory.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._factory.buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        if self._is_lost:
            return
        is_small = len(data) <= _SLICE and not self._held
        if is_small and not self._is_busy() and self._is_admitted(data):
            self._pass_on(data)
        else:
            self._held += data
            self._feed()

    def begin(self, arrived: float) -> None:
        """Parse what has waited since `arrived`."""
        self._is_waiting = False
        self.arrived = arrived
        self._feed()

    def close(self) -> None:
        """Close the connection when all is sent."""
        if self._transport:
            self._transport.close()

    def eof_received(self) -> bool:
        # The client may have closed its own side only: what has arrived is answered.
        self._is_half_closed = self._is_busy()
        if self._is_waiting and self._limiter:
            self._limiter.half_closed(self)
        elif not self._is_half_closed:
            self.close()
        # TLS has no half-closed connections: there it is over.
        return self._transport is not None and not self._transport.get_extra_info("ssl_object")

    def pause_writing(self) -> None:
        self._sends_since = self._time()
        if self.http:
            self.http.pause_writing()

    def resume_writing(self) -> None:
        self._sends_since = None
        if self._receives_since is not None and self._state is ParseState.IDLE:
            self._receives_since = self._time()
        if self.http:
            self.http.resume_writing()

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

    def announce_close(self) -> None:
        """Let the answer to the last request that was read say that the connection closes."""
        if self.http and self._under_way and not self._held:
            self.http.shutdown()

    def pause_reading(self) -> None:
        """Pass nothing on: uvicorn has more of a body than was taken, or another request."""
        self._is_full = True
        if self._transport:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Pass on what was held back meanwhile."""
        self._is_full = False
        self._feed()

    def request_ended(self) -> None:
        """Go on after an answer, which may come before the whole request has arrived."""
        http, transport = self.http, self._transport
        if http is None or transport is None:
            return
        http.under_way -= 1
        self._receives_since = None
        self._time_client()
        if not self._under_way:
            self.arrived = None
            if self._limiter:
                self._limiter.release(self)
            if http.state is ParseState.IDLE:
                http.forget()
        if http.is_lost and not self._under_way:
            transport.close()
        elif self._held or self._is_half_closed or self._is_busy() or not transport.is_reading():
            self._feed()

    def _is_admitted(self, data: bytes | bytearray) -> bool:
        """Say whether `data` may be parsed: a request that begins with it may have to wait."""
        if not self._under_way and self._state is ParseState.IDLE and not data.isspace():
            self._receives_since = None
            self._limiter = self._factory.limiter(data)
            self._is_waiting = self._limiter is not None and not self._limiter.acquire(self)
        return not self._is_waiting

    def _feed(self) -> None:
        """Parse what was held back, in slices; nothing behind a request under way."""
        if (transport := self._transport) is None:
            return
        while self._held and not self._is_full and not self._is_busy():
            if not self._is_admitted(self._held):
                break
            piece = bytes(self._held[:_SLICE])
            del self._held[:_SLICE]
            self._pass_on(piece)
        if transport.is_closing():
            return
        if self._is_waiting and len(self._held) <= _MAX_WAITING:
            transport.resume_reading()  # so that we learn if the client leaves
        elif self._held or self._is_busy():
            transport.pause_reading()
        elif not self._is_full:
            transport.resume_reading()
            if self._is_half_closed and not self._under_way:
                transport.close()

    def _pass_on(self, data: bytes) -> None:
        transport = cast(BufferedTransport, self._transport)
        http = self.http or self._open_http(transport)
        http.endless += len(data)
        http.data_received(data)
        self._time_client()
        if http.endless > _MAX_HEAD:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            http.refuse(status, "The head of the request is too large")
        if self._factory.is_draining:
            self.announce_close()
        if http.is_lost or transport.is_closing():
            self._held.clear()

    def _open_http(self, transport: BufferedTransport) -> HTTPProtocol:
        self.http = self._make_http({"connection": self})
        self.http.connection_made(cast(asyncio.Transport, transport))
        self.http.flow = FlowControl(cast(asyncio.Transport, self))
        return self.http

    def _time_client(self) -> None:
        """Start or stop the clock of the client."""
        if self._is_busy():
            self._receives_since = None
        elif self._receives_since is None:
            self._receives_since = self._time()
