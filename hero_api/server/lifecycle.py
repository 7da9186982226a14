"""Tells a client's connection when a request was answered, and the application since when it waits.

The connection is passed along in ASGI's `state`.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from hero_api.batching.queue import arrived
from hero_api.server.client_protocol import ClientProtocol


class RequestLifecycleMiddleware:
    """The outermost middleware: a connection reads on when its request was answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        connection: ClientProtocol = scope["state"]["connection"]
        # Set anew each time: a transport may hand the context of one request on to the next.
        arrived.set(connection.arrived)

        try:
            await self.app(scope, receive, send)
        except Exception:  # noqa: BLE001 - it was answered and logged, and Starlette raises it again
            return  # uvicorn would log it once more, and close the connection
        finally:
            connection.request_ended()
