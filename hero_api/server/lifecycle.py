"""Tells a client's connection how its requests go on, and the application since when they wait.

The connection paces what it reads from the client by what the application has taken and answered.
It is passed along in ASGI's `state`.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hero_api.batching.queue import arrived
from hero_api.server.client_protocol import ClientProtocol


class RequestLifecycleMiddleware:
    """The outermost middleware: tells the connection when a body is read and a request answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        connection: ClientProtocol = scope["state"]["connection"]
        # Set anew each time: a transport may hand the context of one request on to the next.
        arrived.set(connection.arrived)

        async def receive_and_note() -> Message:
            message = await receive()
            connection.body_taken()
            return message

        try:
            await self.app(scope, receive_and_note, send)
        except Exception:  # noqa: BLE001 - it was answered and logged, and Starlette raises it again
            return  # uvicorn would log it once more, and close the connection
        finally:
            connection.request_ended()
