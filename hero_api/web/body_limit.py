"""How large the body of a request may be."""

from collections.abc import Awaitable

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimitMiddleware:
    """Answers a request whose body is over `max_body_size` bytes with a 413, in JSON.

    FastAPI's own limit answers in text/plain where the request declares its Content-Length.
    """

    def __init__(self, app: ASGIApp, max_body_size: int) -> None:
        self.app = app
        self.max_body_size = max_body_size
        self._detail = f"The body is larger than {max_body_size} bytes"

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        declared = _declared_size(scope) if scope["type"] == "http" else None
        if declared is None:
            return self.app(scope, receive, send)
        if declared > self.max_body_size:
            return JSONResponse({"detail": self._detail}, 413)(scope, receive, send)
        size = 0

        async def receive_within_limit() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_body_size:
                raise HTTPException(413, self._detail)
            return message

        return self.app(scope, receive_within_limit, send)


def _declared_size(scope: Scope) -> int | None:
    """Return how many bytes are announced, 0 if none are, and None if there will be no body."""
    # HTTP/1 has a header for a body of unknown size too.
    size = None if scope["http_version"] in {"1.0", "1.1"} else 0
    for name, value in scope["headers"]:
        if name == b"content-length":
            # The server has refused what is no number of 64 bits, but not thousands of zeros.
            return int(value.lstrip(b"0") or b"0")
        if name == b"transfer-encoding":
            size = 0
    return size
