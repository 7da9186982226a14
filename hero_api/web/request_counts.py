"""Counts the requests of an application by route, method and status, and how long they took."""

from collections import Counter
from collections.abc import Awaitable, Iterable
from time import perf_counter

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hero_api import errors
from hero_api.errors import OverloadedError, ServiceError, UnavailableError
from hero_api.histogram import SECONDS, Histogram
from hero_api.web.head import ASKED_METHOD
from hero_api.web.overload import OverloadLog

# A client can make up a method or a path, and each would be a series of its own.
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "other")
_NO_ROUTE = "none"
# Of no route are preflights, declared bodies that are too large, and files of the documentation.
_STATUSES_OF_NONE = (200, 304, 307, 400, 404, 405, 413)
_UNAVAILABLE = {503, 507}
_ERRORS = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, ServiceError) and each.status in _UNAVAILABLE
]


class _Counts:
    """The requests of one route and method."""

    def __init__(self, expected: Iterable[int]) -> None:
        self.statuses = dict.fromkeys(expected, 0)
        self.durations = Histogram(SECONDS)


class RequestCounts:
    """Plain integers, which cost a request next to nothing."""

    def __init__(self) -> None:
        self.by_route: dict[tuple[str, str], _Counts] = {}
        self.unavailable = Counter[type[ServiceError]](dict.fromkeys(_ERRORS, 0))
        self._overload_log = OverloadLog()

    def expect(self, routes: Iterable[BaseRoute]) -> None:
        """Let what can be foreseen be there, with zeros."""
        known = [route for route in routes if isinstance(route, Route)]
        for method in _METHODS:
            self.by_route[_NO_ROUTE, method] = _Counts(_STATUSES_OF_NONE)
            self.by_route |= {(route.path, method): _Counts((405,)) for route in known}
        for route in known:
            methods = route.methods or set()
            for method in methods | ({"HEAD"} if "GET" in methods else set()):
                self.by_route[route.path, method] = _Counts(_statuses(route))

    def count(self, scope: Scope, status: int) -> Histogram:
        """Take note of a request that is answered; return where its time is to be noted."""
        route = scope.get("route")
        path = route.path if isinstance(route, Route) else _NO_ROUTE
        counts = self.by_route.get((path, scope.get(ASKED_METHOD) or scope["method"]))
        if counts is None:
            counts = self.by_route.setdefault((path, "other"), _Counts(()))
        statuses = counts.statuses
        statuses[status] = statuses.get(status, 0) + 1
        if status in _UNAVAILABLE:
            error = scope.get("state", {}).get("error", UnavailableError)
            self.unavailable[error] += 1
            if error is OverloadedError:
                self._overload_log.refused()
        return counts.durations


class RequestCountsMiddleware:
    """Counts each request when its answer begins, and one that ends in an error as a 500."""

    def __init__(self, app: ASGIApp, counts: RequestCounts) -> None:
        self.app = app
        self._count = counts.count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = perf_counter()
        is_answered = False

        def count_and_send(message: Message) -> Awaitable[None]:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                self._count(scope, message["status"]).observe(perf_counter() - begun)
            return send(message)

        try:
            await self.app(scope, receive, count_and_send)
        except Exception:
            if not is_answered:
                self._count(scope, 500)
            raise


def _statuses(route: Route) -> set[int]:
    """Return what a route answers, as far as its documentation says."""
    if not isinstance(route, APIRoute):
        return {200}
    documented = {int(status) for status in route.responses if str(status).isdecimal()}
    return documented | {route.status_code or 200, 422}
