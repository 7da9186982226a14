"""How large the body of a request may be."""

from collections.abc import Awaitable, Mapping

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimitMiddleware:
    """Answers a request whose body is over `max_body_size` bytes with a 413, in JSON.

    `by_type` is what bodies of other media types may have. FastAPI's own limit answers in
    text/plain where the request declares its Content-Length.
    """

    def __init__(
        self, app: ASGIApp, max_body_size: int, by_type: Mapping[str, int] | None = None
    ) -> None:
        self.app = app
        self.max_body_size = max_body_size
        self._by_type = by_type or {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        declared = _declared_size(scope) if scope["type"] == "http" else None
        if declared is None:
            return self.app(scope, receive, send)
        if declared > self.max_body_size and declared > self._limit(scope):
            return JSONResponse({"detail": _detail(self._limit(scope))}, 413)(scope, receive, send)
        size = 0

        async def receive_within_limit() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_body_size and size > self._limit(scope):
                raise HTTPException(413, _detail(self._limit(scope)))
            return message

        return self.app(scope, receive_within_limit, send)

    def _limit(self, scope: Scope) -> int:
        """Return how large the body may be."""
        media_type = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
        return self._by_type.get(media_type, self.max_body_size)


def _detail(limit: int) -> str:
    return f"The body is larger than {limit} bytes"


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
