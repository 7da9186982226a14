"""Closes what a handler has opened by its session: the ORM's transaction, and its connection."""

from starlette.types import ASGIApp, Receive, Scope, Send

from hero_api.database.sessions import close_opened


class CloseSessionsMiddleware:
    """Closes the sessions of a request that FastAPI serves, when its response was sent."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            await self.app(scope, receive, send)
        finally:
            await close_opened(scope)
