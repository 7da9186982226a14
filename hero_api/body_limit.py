"""How large the body of a request may be."""

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimitMiddleware:
    """Answers a request whose body is over `max_body_size` bytes with a 413.

    FastAPI's own limit answers in text/plain where the request declares its Content-Length, and
    leaves the rest of the body unread, for which the server closes the connection.
    """

    def __init__(self, app: ASGIApp, max_body_size: int) -> None:
        self.app = app
        self.max_body_size = max_body_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] not in {"POST", "PATCH"}:
            await self.app(scope, receive, send)
            return
        request = _Request(receive, send, self.max_body_size)
        if _declared_size(scope) > self.max_body_size:
            error = request.too_large()
            refusal = JSONResponse({"detail": error.detail}, error.status_code)
            await refusal(scope, receive, request.send)
        else:
            await self.app(scope, request.receive, request.send)
        if request.is_too_large:
            await request.end()


class _Request:
    """Counts what is received; what is sent ends only when all of a large body has arrived."""

    def __init__(self, receive: Receive, send: Send, max_body_size: int) -> None:
        self.is_too_large = False
        self._receive = receive
        self._send = send
        self._max_body_size = max_body_size
        self._size = 0
        self._more_body = True

    async def receive(self) -> Message:
        message = await self._receive()
        self._more_body = message.get("more_body", False)
        self._size += len(message.get("body", b""))
        if self._size > self._max_body_size:
            raise self.too_large()
        return message

    async def send(self, message: Message) -> None:
        if self.is_too_large and message["type"] == "http.response.body":
            # A server stops receiving when it has sent the end of the answer.
            message = {**message, "more_body": True}
        await self._send(message)

    async def end(self) -> None:
        """Read the body to its end, so that the connection can be used again."""
        while self._more_body:
            self._more_body = (await self._receive()).get("more_body", False)
        await self._send({"type": "http.response.body"})

    def too_large(self) -> HTTPException:
        self.is_too_large = True
        return HTTPException(413, f"The body is larger than {self._max_body_size} bytes")


def _declared_size(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            # The server has refused what is no number of 64 bits, but not thousands of zeros.
            return int(value.lstrip(b"0") or b"0")
    return 0
