"""The path under which the service is mounted or proxied: ASGI's `root_path`.

Whatever leads to another page is relative to the host, so that neither its name nor the scheme is
needed from anybody.
"""

from urllib.parse import quote

from starlette.responses import RedirectResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send


def prefix_of(scope: Scope) -> str:
    """Return the prefix as part of a URL, such as `/api`, or nothing.

    A part of it may be a parameter of the path, and so of the client's making.
    """
    path: str = scope.get("root_path", "").strip("/")
    return f"/{quote(path)}" if path else ""


class RedirectSlashes:
    """What a router does with a path that it has not: lead to the one with, or without, a slash.

    Starlette's own redirect names the host and the scheme as the service sees them.
    """

    def __init__(self, not_found: ASGIApp) -> None:
        self._not_found = not_found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that no route matches."""
        path = scope["path"]
        other = path.rstrip("/") if path.endswith("/") else f"{path}/"
        matching = (each.matches({**scope, "path": other})[0] for each in scope["app"].routes)
        if scope["type"] == "http" and any(match is not Match.NONE for match in matching):
            prefix, query = prefix_of(scope), scope["query_string"].decode("latin-1")
            # One slash: two would begin the name of another host.
            target = f"{prefix}/{quote(other.removeprefix(scope.get('root_path', '')).lstrip('/'))}"
            response = RedirectResponse(f"{target}?{query}" if query else target)
            await response(scope, receive, send)
        else:
            await self._not_found(scope, receive, send)


class PrefixMiddleware:
    """Puts every request under `prefix`, unless the server or another application did already."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope.get("path", "")
        # The lifespan has no path, and that of `OPTIONS *` is none.
        if path.startswith("/") and not scope.get("root_path"):
            scope = {**scope, "root_path": self._prefix, "path": self._prefix + path}
        await self.app(scope, receive, send)
