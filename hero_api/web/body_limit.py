"""How large the body of a request may be."""

from collections.abc import Awaitable, Mapping

from fastapi.responses import JSONResponse
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
        self._by_type = {name.encode(): size for name, size in (by_type or {}).items()}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        declared, limit = self._sizes(scope)
        if declared > limit:
            return JSONResponse({"detail": _detail(limit)}, 413)(scope, receive, send)
        size = 0

        async def receive_within_limit() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise HTTPException(413, _detail(limit))
            return message

        return self.app(scope, receive_within_limit, send)

    def _sizes(self, scope: Scope) -> tuple[int, int]:
        """Return how large the body is said to be, and how large it may be."""
        headers = dict(scope["headers"])
        # The server has refused what is no number of 64 bits, but not thousands of zeros.
        declared = int(headers.get(b"content-length", b"").lstrip(b"0") or b"0")
        media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        return declared, self._by_type.get(media_type, self.max_body_size)


def _detail(limit: int) -> str:
    return f"The body is larger than {limit} bytes"
