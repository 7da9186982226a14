"""Routes that call a simple handler directly, without FastAPI's dependency solver.

The solver, and what FastAPI opens around each request, take a large part of a get (README.md has
the figures), and a simple handler needs neither. FastAPI serves everything else: every other
handler, and every request that is not plainly good. So FastAPI alone says what is refused, and how.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from inspect import Parameter, iscoroutinefunction, signature
from types import UnionType
from typing import Annotated, Any, TypeGuard, Union, get_args, get_origin

from fastapi import Request, Response, params
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from pydantic import BaseModel
from pydantic_core import from_json
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hero_api.web.declared_query import DeclaredQuery

_ERROR = "hero_api.error"  # in the scope


class FastRoutesMiddleware:
    """Serves the requests of fast routes, and leaves all others to the application.

    It is to be the innermost middleware: below it are FastAPI's own layers and its router.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        if scope["type"] == "http" and not scope["app"].dependency_overrides:
            for route in scope["app"].routes:
                methods = getattr(route, "methods", None)
                if methods and scope["method"] not in methods:
                    continue  # before its path is looked at, which takes longer
                match, found = route.matches(scope)
                if match is Match.FULL:
                    if isinstance(route, FastRoute) and route.is_fast:
                        scope.update(found)
                        return route.serve(scope, receive, send, self.app)
                    break
        return self.app(scope, receive, send)


class FastRoute(APIRoute):
    """A route that is fast if its handler is simple, and FastAPI's own if it is not.

    A simple handler is an `async` function that is annotated to return a `Response`. It takes only

    - path parameters,
    - a model of scalars as the query,
    - a model as the JSON body,
    - dependencies, each an `async` function of the request or of nothing, without `yield`.

    This is decided once, when the route is made: see `is_fast`. Routes of a router that is included
    are always FastAPI's.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401
        super().__init__(path, endpoint, **options)
        self.is_fast = _is_simple(self)
        if self.is_fast:
            only = self.dependant
            self._path = [(each.name, each.alias, each.validate) for each in only.path_params]
            self._query = [(field.name, field.validate) for field in only.query_params]
            self._body = [(field.name, field.validate) for field in only.body_params]
            self._checks = _checks(only)
            self._dependencies = [
                (each.name, _call(each)) for each in only.dependencies if not _is_check(each)
            ]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, which would read the body before it checks the token."""
        handle, checks = super().get_route_handler(), _checks(self.dependant)

        async def check_and_handle(request: Request) -> Response:
            if not request.app.dependency_overrides:
                for check in checks:
                    await check(request)
            return await handle(request)

        return check_and_handle

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise the error of a request that was served already; serve any other as FastAPI does."""
        error: Exception | None = scope.pop(_ERROR, None)
        if error is not None:
            raise error
        await super().handle(scope, receive, send)

    async def serve(self, scope: Scope, receive: Receive, send: Send, otherwise: ASGIApp) -> None:
        """Serve one request; what is refused, or fails, is left to FastAPI (`otherwise`)."""
        request = Request(scope, receive, send)
        try:
            response = await self._respond(request)
        except Exception as error:  # noqa: BLE001 - the exception handlers are asked
            scope[_ERROR] = error
            response = None
        if response is None:
            if self._body:
                receive = _again(request)
            await otherwise(scope, receive, send)
        else:
            await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response | None:
        """Return the handler's response; None to a request that FastAPI is to judge."""
        # Before the body is read: a client without the token learns nothing else.
        for check in self._checks:
            await check(request)
        values = self._read(request, await request.body() if self._body else b"")
        if values is None:
            return None
        for name, call in self._dependencies:
            value = await call(request)
            if name is not None:
                values[name] = value
        response: Response = await self.endpoint(**values)
        return response

    def _read(self, request: Request, body: bytes) -> dict[str, Any] | None:
        """Return the handler's parameters; None of a request that FastAPI is to judge."""
        values: dict[str, Any] = {}
        for name, alias, validate in self._path:
            values[name], errors = validate(request.path_params[alias])
            if errors:
                return None
        for name, validate in self._query:
            sent = request.query_params.multi_items()
            values[name], errors = validate(query := dict(sent))
            if errors or len(query) < len(sent):  # FastAPI may make a list of what comes twice
                return None
        for name, validate in self._body:
            if request.headers.get("content-type") != "application/json":
                return None
            try:
                # Twice as fast as the standard library; what only that one takes, FastAPI reads.
                values[name], errors = validate(from_json(body))
            except ValueError:
                return None
            if errors:
                return None
        return values


def _call(dependency: Dependant) -> Callable[[Request], Awaitable[Any]]:
    """Return the dependency as a function of the request."""
    call: Any = dependency.call
    name = dependency.request_param_name or dependency.http_connection_param_name
    if name is None:
        return lambda _: call()
    if signature(call).parameters[name].kind is Parameter.KEYWORD_ONLY:
        return lambda request: call(**{name: request})
    only: Callable[[Request], Awaitable[Any]] = call
    return only


def _again(request: Request) -> Receive:
    """Return what receives the whole body of `request`, read or not, and then goes on."""
    is_read = False

    async def receive_again() -> Message:
        nonlocal is_read
        if is_read:
            return await request.receive()
        is_read = True
        return {"type": "http.request", "body": await request.body()}

    return receive_again


def _is_simple(route: APIRoute) -> bool:
    dependant = route.dependant
    returns = signature(route.endpoint).return_annotation
    calls = [each.call for each in dependant.dependencies]
    asks = "path_params", "query_params", "body_params", "dependencies"
    return (
        _has_only(dependant, "call", "path", "scope", *asks)
        and _is_async(dependant.call)
        and isinstance(returns, type)
        and issubclass(returns, Response)
        and route.max_body_size is None
        and {each.alias for each in dependant.path_params} <= route.param_convertors.keys()
        and len(dependant.query_params) <= 1
        and all(_is_model_of_scalars(each.field_info.annotation) for each in dependant.query_params)
        and all(
            each is route.body_field
            and type(each.field_info) is params.Body
            and _is_model(each.field_info.annotation)
            for each in dependant.body_params
        )
        and all(map(_is_simple_dependency, dependant.dependencies))
        and len(calls) == len(set(calls))  # FastAPI calls once what is depended on twice
    )


def _is_simple_dependency(dependant: Dependant) -> bool:
    asks = "request_param_name", "http_connection_param_name"
    has = "call", "name", "path", "scope", "own_oauth_scopes", "parent_oauth_scopes"
    return _has_only(dependant, *has, *asks) and _is_async(dependant.call)


def _has_only(dependant: Dependant, *names: str) -> bool:
    """Say whether it has nothing else: what a later FastAPI lets it ask for shows too."""
    return dependant == Dependant(**{name: getattr(dependant, name) for name in names})


def _checks(of: Dependant) -> list[Callable[[Request], Awaitable[Any]]]:
    return [_call(e) for e in of.dependencies if _is_check(e) and _is_simple_dependency(e)]


def _is_check(dependant: Dependant) -> bool:
    """Say whether a dependency only looks at the request: it may look twice at one."""
    checks = (SecurityBase, DeclaredQuery)
    return dependant.name is None and isinstance(dependant.call, checks)


def _is_async(call: Any) -> bool:  # noqa: ANN401 - any callable
    functions = (call, type(call).__call__)
    # What wraps another function is what FastAPI takes it for.
    return not hasattr(call, "__wrapped__") and any(map(iscoroutinefunction, functions))


def _is_model(kind: Any) -> TypeGuard[type[BaseModel]]:  # noqa: ANN401 - any annotation
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _is_model_of_scalars(kind: Any) -> bool:  # noqa: ANN401 - any annotation
    return _is_model(kind) and all(_is_scalar(i.annotation) for i in kind.model_fields.values())


def _is_scalar(kind: Any) -> bool:  # noqa: ANN401 - any annotation
    """Say whether FastAPI takes one text for it, and not a list, from the URL."""
    if get_origin(kind) is Annotated:
        return _is_scalar(get_args(kind)[0])
    if get_origin(kind) in {Union, UnionType}:
        return all(map(_is_scalar, get_args(kind)))
    return isinstance(kind, type) and (issubclass(kind, str) or not issubclass(kind, Iterable))
