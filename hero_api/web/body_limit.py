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
        self._taken_of_any_type = min([max_body_size, *self._by_type.values()])

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        declared, is_all = _declared_size(scope)
        if refusal := self._refusal(scope, declared):
            return JSONResponse({"detail": refusal}, 413)(scope, receive, send)
        if is_all:
            return self.app(scope, receive, send)
        size = 0

        async def receive_within_limit() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if refusal := self._refusal(scope, size):
                raise HTTPException(413, refusal)
            return message

        return self.app(scope, receive_within_limit, send)

    def _refusal(self, scope: Scope, size: int) -> str | None:
        """Say why a body of this size is refused, if it is."""
        if size <= self._taken_of_any_type:
            return None
        media_type = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
        limit = self._by_type.get(media_type, self.max_body_size)
        return f"The body is larger than {limit} bytes" if size > limit else None


def _declared_size(scope: Scope) -> tuple[int, bool]:
    """Return how many bytes are announced, and whether no more can come."""
    size = 0
    # HTTP/1 has a header for a body of unknown size too.
    is_all = scope["http_version"] in {"1.0", "1.1"}
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return 0, False
        if name == b"content-length":
            # The server has refused what is no number of 64 bits, but not thousands of zeros.
            size, is_all = int(value.lstrip(b"0") or b"0"), True
    return size, is_all
