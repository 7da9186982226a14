"""HEAD wherever GET is."""

from collections.abc import Awaitable

from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

ASKED_METHOD = "hero_api.asked_method"  # in the scope


class HeadMiddleware:
    """Serves HEAD by the handler of GET, where there is none of its own; servers omit the body.

    A route of both methods would have its operation id twice in the OpenAPI document.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        if scope.get("method") == "HEAD" and not any(
            route.matches(scope)[0] is Match.FULL for route in scope["app"].routes
        ):
            # A copy: the server knows that it was HEAD.
            scope = {**scope, "method": "GET", ASKED_METHOD: "HEAD"}
        return self.app(scope, receive, send)
