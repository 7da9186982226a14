"""Counts the requests of an application by route, method and status, and how long they took."""

from collections import Counter
from collections.abc import Awaitable, Iterable
from functools import partial
from time import perf_counter

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hero_api import errors
from hero_api.errors import OverloadedError, ServiceError, UnavailableError
from hero_api.histogram import SECONDS, Histogram
from hero_api.web.overload import OverloadLog

# A client can make up a method or a path, and each would be a series of its own.
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "other")
_NO_ROUTE = "none"
_UNAVAILABLE = {503, 507}
_ERRORS = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, ServiceError) and each.status in _UNAVAILABLE
]


class _Counts:
    """The requests of one route and method."""

    __slots__ = ("durations", "statuses")

    def __init__(self, expected: Iterable[int]) -> None:
        self.statuses = dict.fromkeys(expected, 0)
        self.durations = Histogram(SECONDS)


class RequestCounts:
    """Plain integers, which cost a request next to nothing."""

    def __init__(self) -> None:
        self.by_route: dict[tuple[str, str], _Counts] = {}
        self.unavailable = Counter[type[ServiceError]](dict.fromkeys(_ERRORS, 0))
        self._overload_log = OverloadLog()
        self._paths: dict[object, str] = {}

    def expect(self, routes: Iterable[BaseRoute]) -> None:
        """Let what can be foreseen be there, with zeros."""
        known = [route for route in routes if isinstance(route, Route)]
        self._paths = {route.endpoint: route.path for route in known}
        for method in _METHODS:
            # A declared body that is too large is refused before its route is looked for.
            self.by_route[_NO_ROUTE, method] = _Counts((307, 404, 413))
            self.by_route |= {(route.path, method): _Counts((405,)) for route in known}
        for route in known:
            methods = route.methods or set()
            for method in {*methods, *({"HEAD"} if "GET" in methods else ())}:
                self.by_route[route.path, method] = _Counts(_statuses(route))

    def count(self, scope: Scope, status: int) -> Histogram:
        """Take note of a request that is answered; return where its time is to be noted."""
        path = self._paths.get(scope.get("endpoint"))
        if path is None:
            path = getattr(scope.get("route"), "path", _NO_ROUTE)
        counts = self.by_route.get((path, scope["method"]))
        if counts is None:
            counts = self.by_route.setdefault((path, "other"), _Counts(()))
        statuses = counts.statuses
        statuses[status] = statuses.get(status, 0) + 1
        if status > 500 and status in _UNAVAILABLE:  # noqa: PLR2004
            error = scope.get("state", {}).get("error", UnavailableError)
            self.unavailable[error] += 1
            if error is OverloadedError:
                self._overload_log.refused()
        return counts.durations


class RequestCountsMiddleware:
    """Counts each request when its answer begins.

    It is no coroutine and makes no closure: each would cost a get another percent.
    """

    def __init__(self, app: ASGIApp, counts: RequestCounts) -> None:
        self.app = app
        self.count = counts.count

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        return self.app(scope, receive, partial(self._send, scope, send, perf_counter()))

    def _send(self, scope: Scope, send: Send, begun: float, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.count(scope, message["status"]).observe(perf_counter() - begun)
        return send(message)


def _statuses(route: Route) -> set[int]:
    """Return what a route answers, as far as its documentation says."""
    if not isinstance(route, APIRoute):
        return {200}
    documented = {int(status) for status in route.responses if str(status).isdecimal()}
    return documented | {route.status_code or 200, 422}
