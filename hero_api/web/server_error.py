"""What is answered to an error that nobody foresaw."""

import traceback

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hero_api.web.exception_handlers import fault_response


class ServerErrorMiddleware:
    """Answers an unforeseen error with a 500 in JSON, and logs it in one line.

    Starlette's own raises the error again after its 500, and uvicorn then closes the connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_begun = False
        has_failed = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_begun, has_failed
            has_begun = True
            try:
                await send(message)
            except Exception:
                has_failed = True
                raise

        try:
            await self.app(scope, receive, send_and_note)
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception as error:
            if has_failed:
                raise  # the server knows why it could not send
            response = fault_response(scope, "Internal Server Error", _describe(error))
            if not has_begun:  # else the server closes the connection, as the answer has no end
                await response(scope, receive, send)


def _describe(error: Exception) -> str:
    """Return the error, and where it was raised, as one line."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    where = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames)
    # The second repr escapes what an exception's own may contain, such as line breaks.
    return f"{repr(error)!r} in {where}"
