"""A query parameter that nothing declares is refused: it must not look as if it had filtered."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant, get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.security import APIKeyQuery
from pydantic import AliasChoices, AliasPath
from starlette.requests import HTTPConnection

_Overrides = Mapping[Callable[..., Any], Callable[..., Any]]


class DeclaredQuery:
    """A dependency of every route: each query parameter is one that its dependency tree declares.

    A handler that takes the request itself may read what it likes.
    """

    def __init__(self) -> None:
        self._known: dict[int, Sequence[str] | None] = {}  # by the identity of the route

    async def __call__(self, connection: HTTPConnection) -> None:
        """Raise `RequestValidationError`, a 422, which names what is not known and what is."""
        scope = connection.scope
        if not scope["query_string"] or not isinstance(scope.get("route"), APIRoute):
            return
        app: FastAPI = scope["app"]
        route: APIRoute = scope["route"]
        if app.dependency_overrides:
            known = _known_by(app, route)
        else:
            if id(route) not in self._known:
                self._known[id(route)] = _known_by(app, route)
            known = self._known[id(route)]
        if known is None:
            return
        unknown = [name for name in connection.query_params if name not in known]
        if unknown:
            have = f"the known ones are {', '.join(known)}" if known else "there are none"
            message = f"There is no such parameter: {have}"
            raise RequestValidationError(
                [
                    {"type": "extra_forbidden", "loc": ("query", name), "msg": message}
                    for name in unknown
                ]
            )


def _known_by(app: FastAPI, route: APIRoute) -> Sequence[str] | None:
    """Return the parameters of a route, wherever it is included; None where any may be read."""
    # Where a router is included, it may get more dependencies.
    trees: list[Dependant] = [
        context.dependant
        for context in iter_route_contexts(app.routes)
        if context.original_route is route
    ]
    if any(tree.request_param_name or tree.http_connection_param_name for tree in trees):
        return None
    names = [name for tree in trees for name in _declared(tree, app.dependency_overrides)]
    return None if None in names else [*dict.fromkeys(map(str, names))]


def _declared(tree: Dependant, overrides: _Overrides) -> Iterator[str | None]:
    """Yield the names that a dependency and its own declare; None for whatever may be sent."""
    if tree.call is not None and tree.call in overrides:
        tree = get_dependant(path=tree.path or "", call=overrides[tree.call])
    if isinstance(tree.call, APIKeyQuery):
        yield tree.call.model.name
    for field in tree.query_params:
        config = getattr(field.field_info.annotation, "model_config", {})
        if config.get("extra") == "allow":
            yield None
        # FastAPI takes a model apart.
        for each in get_flat_params(Dependant(query_params=[field])):
            yield from _aliases(each.field_info.validation_alias or each.alias)
            if config.get("validate_by_name") or config.get("populate_by_name"):
                yield each.name
    for dependency in tree.dependencies:
        yield from _declared(dependency, overrides)


def _aliases(alias: str | AliasPath | AliasChoices) -> list[str]:
    choices = alias if isinstance(alias, AliasChoices) else AliasChoices(alias)
    return [str(path[0]) for path in choices.convert_to_aliases()]
