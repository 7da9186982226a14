"""What stands around the application: the size of a body, and errors that nobody foresaw."""

import logging
import traceback
import uuid

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("hero_api")


class Guard:
    """Middleware: a body over `max_body_size` bytes is a 413; an unforeseen error a logged 500.

    FastAPI's own limit answers text/plain where a Content-Length was declared, and Starlette
    raises an error again after its 500, for which uvicorn closes the connection.
    """

    def __init__(self, app: ASGIApp, max_body_size: int) -> None:
        self.app = app
        self.max_body_size = max_body_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] in {"POST", "PATCH"}:
            if _declared_size(scope) > self.max_body_size:
                await _discard(receive)
                error = self._too_large()
                response = JSONResponse({"detail": error.detail}, error.status_code)
                await response(scope, receive, send)
                return
            receive = self._counted(receive)
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception as error:
            if started:
                raise  # so that the server closes the connection
            await _fault(scope, error)(scope, receive, send)

    def _counted(self, receive: Receive) -> Receive:
        size = 0

        async def receive_counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_body_size:
                if message.get("more_body"):
                    await _discard(receive)
                raise self._too_large()
            return message

        return receive_counted

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"The body is larger than {self.max_body_size} bytes")


async def _discard(receive: Receive) -> None:
    """Read a body to its end, so that the connection can be used again."""
    while (await receive()).get("more_body"):
        pass


def _fault(scope: Scope, error: Exception) -> JSONResponse:
    """Log an error that nobody foresaw, in one line, and return its answer."""
    request_id = uuid.uuid4().hex
    frames = reversed(traceback.extract_tb(error.__traceback__))
    where = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames)
    logger.error(
        "request %s: %s %r: %r in %s", request_id, scope["method"], scope["path"], error, where
    )
    detail = f"Internal Server Error; the log has it as request {request_id}"
    return JSONResponse({"detail": detail}, 500, {"X-Request-ID": request_id})


def _declared_size(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)  # the server has refused what is not a number
    return 0
