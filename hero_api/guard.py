"""What stands around the application: the size of a body, and errors that nobody foresaw."""

import traceback

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hero_api.exception_handlers import fault_response


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
        request = _Request(receive, send, self.max_body_size)
        try:
            if scope["method"] not in {"POST", "PATCH"}:
                await self.app(scope, receive, request.send)
            elif _declared_size(scope) > self.max_body_size:
                error = request.too_large()
                refusal = JSONResponse({"detail": error.detail}, error.status_code)
                await refusal(scope, receive, request.send)
            else:
                await self.app(scope, request.receive, request.send)
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception as error:
            if request.is_cut:
                raise  # the server knows why
            answer = fault_response(scope, "Internal Server Error", _describe(error))
            if request.is_answered:
                return  # the server closes the connection of an answer without an end
            await answer(scope, receive, send)
        if request.is_too_large:
            await request.end()


class _Request:
    """What is received and sent of one request; the answer to one that is too large comes first."""

    def __init__(self, receive: Receive, send: Send, max_body_size: int) -> None:
        self.is_answered = False
        self.is_cut = False
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
        self.is_answered = True
        if self.is_too_large and message["type"] == "http.response.body":
            # Not its end yet: at that the server would stop to receive.
            message = {**message, "more_body": True}
        try:
            await self._send(message)
        except Exception:
            self.is_cut = True
            raise

    async def end(self) -> None:
        """Read the body to its end, so that the connection can be used again."""
        while self._more_body:
            self._more_body = (await self._receive()).get("more_body", False)
        await self._send({"type": "http.response.body"})

    def too_large(self) -> HTTPException:
        self.is_too_large = True
        return HTTPException(413, f"The body is larger than {self._max_body_size} bytes")


def _describe(error: Exception) -> str:
    """Return an error that nobody foresaw, and where it came from, as one line."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    where = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames)
    # Again: what an exception makes of itself may have any characters.
    return f"{repr(error)!r} in {where}"


def _declared_size(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            # The server has refused what is no number of 64 bits, but not thousands of zeros.
            return int(value.lstrip(b"0") or b"0")
    return 0
