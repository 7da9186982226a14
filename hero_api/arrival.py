"""What becomes of each request, as its connection is told.

ASGI's `state` leads from the one to the other.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hero_api.connection import Connection


class ArrivalNotice:
    """Middleware, the outermost: tells a request's connection what was taken and answered of it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        connection: Connection = scope["state"]["connection"]

        async def receive_and_note() -> Message:
            message = await receive()
            connection.body_taken()
            return message

        has_body = scope["method"] in {"POST", "PATCH"}  # that is read
        try:
            await self.app(scope, receive_and_note if has_body else receive, send)
        finally:
            connection.request_ended(overloaded="overloaded" in scope["state"])
