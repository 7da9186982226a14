"""Closes what a handler has opened by its session: the ORM's transaction, and its connection."""

from contextlib import AsyncExitStack

from starlette.types import ASGIApp, Receive, Scope, Send

from hero_api.database.sessions import OPENED


class CloseSessionsMiddleware:
    """Closes the sessions that the handler of a request has used, when its response was sent."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            await self.app(scope, receive, send)
        finally:
            if OPENED in scope:
                async with AsyncExitStack() as opened:  # each is closed, whatever the others do
                    for session in scope.pop(OPENED):
                        await opened.enter_async_context(session)
