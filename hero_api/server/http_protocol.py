"""uvicorn's protocol, and where in a message its parser is."""

import json
import re
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

# The name of the header that offers to go on in another protocol; its colon is not of the match.
_OFFER = re.compile(rb"\nupgrade(?=:)", re.IGNORECASE)
_LONGEST = len(b"\nupgrade")


class ParseState(Enum):
    """Where the next byte that arrives belongs."""

    IDLE = auto()  # to no message that has begun
    HEADERS = auto()
    BODY = auto()


class HTTPProtocol(HttpToolsProtocol):
    """Follows httptools' callbacks: only the parser knows for sure where a message ends."""

    # So many more in the instance's dict would make it larger and slower.
    __slots__ = ("_cycles", "_tail", "endless", "is_lost", "state", "under_way")

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        self.state = ParseState.IDLE
        self.under_way = 0  # requests whose heads have arrived, and that are not answered
        self.endless = 0  # bytes that came since the end of a head, or some of a body, was parsed
        self.is_lost = False  # what follows on the connection is no HTTP, or cannot be parsed
        self._tail = b""
        self._cycles: list[RequestResponseCycle] = []

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, with a header `Upgrade` renamed to `Upgraded`.

        The service takes no such offer, and httptools would drop the body of a request that makes
        one, as each of Java's client does.
        """
        seen, passed = self._tail + data, len(self._tail)
        self._tail = seen[-_LONGEST:]
        if _OFFER.search(seen) is None:
            super().data_received(data)
            return
        for offer in _OFFER.finditer(seen):
            self._parse(seen[passed : offer.end()])
            passed = offer.end()
            # The parser knows whether it stands in a head now, or in a body that looks like one.
            if self.state is ParseState.HEADERS:
                self._parse(b"d")
        self._parse(seen[passed:])

    def _parse(self, data: bytes) -> None:
        if data and not self.is_lost and not self.transport.is_closing():
            super().data_received(data)

    def on_message_begin(self) -> None:
        """Record that a head begins."""
        self.state = ParseState.HEADERS
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Record that a head has arrived.

        Raises `ValueError`, which is answered 400, unless HTTP/1.1 has exactly one `Host`: proxies
        and servers may read any other number differently.
        """
        hosts = 0
        for place, (name, value) in enumerate(self.headers):
            hosts += name == b"host"
            if value.endswith((b" ", b"\t")):  # which httptools keeps
                self.on_header(name, value.rstrip(b" \t"))  # uvicorn heeds some by their values
                self.headers[place] = self.headers.pop()
        if hosts != 1 and self.parser.get_http_version() == "1.1":
            raise ValueError("Host")
        super().on_headers_complete()
        self.state = ParseState.BODY
        self.under_way += 1
        self.endless = 0
        self.is_lost = self.parser.should_upgrade()
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        self._cycles.append(self.cycle)
        # Or uvicorn would add a body's trailers to the headers that the application sees.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """Record that some of a body has arrived."""
        self.endless = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Record that a request has arrived."""
        self.state = ParseState.IDLE
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on without uvicorn's keep-alive timer: the sweep closes idle connections."""
        if self.pipeline or self.transport.is_closing():  # where it starts none
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.flow.resume_reading()

    def forget(self) -> None:
        """Let go of the last request: of a thousand idle connections each would keep its own."""
        self._cycles.clear()
        # As before the first one.
        self.cycle = None  # type: ignore[assignment]
        self.scope = None  # type: ignore[assignment]
        self.headers = []

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in JSON as everything else.

        Behind other requests there is no 400, and the connection closes after their answers: the
        client would take it for the answer to the first of them, which may be stored.
        """
        whole = [each for each in self._cycles if not (each.response_complete or each.more_body)]
        if whole:
            whole[-1].keep_alive = False
            self.is_lost = True
        else:
            self.refuse(HTTPStatus.BAD_REQUEST, msg)

    def refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer in place of the application, and close the connection.

        A request that it has begun to answer, while its body arrives, gets no second answer.
        """
        if self.state is ParseState.BODY and self.cycle.response_started:
            self.transport.close()
            return
        body = json.dumps({"detail": detail})
        head = (
            f"HTTP/1.1 {status} {status.phrase}",
            "content-type: application/json",
            "connection: close",
            f"content-length: {len(body)}",
        )
        self.transport.write("\r\n".join([*head, "", body]).encode())
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request that the client has left: uvicorn tells the last of several alone."""
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)
