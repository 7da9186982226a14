"""HEAD wherever GET is."""

from collections.abc import Awaitable

from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ROUTE = ("endpoint", "route", "state")  # what is found while a request is served


class HeadMiddleware:
    """Serves HEAD by the handler of GET, where there is none of its own; servers omit the body.

    A route of both methods would have its operation id twice in the OpenAPI document.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        if scope.get("method") != "HEAD" or any(
            route.matches(scope)[0] is Match.FULL for route in scope["app"].routes
        ):
            return self.app(scope, receive, send)
        as_get = {**scope, "method": "GET"}  # a copy: the server knows that it was HEAD

        def send_for_head(message: Message) -> Awaitable[None]:
            # The metrics look for the route in the scope of HEAD.
            scope.update((name, as_get[name]) for name in _ROUTE if name in as_get)
            return send(message)

        return self.app(as_get, receive, send_for_head)
