"""The work: what is asked, as Lua scripts for wrk."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .servers import Routes

HEROES = 10_000
# The hero that a client creates: its number, twice, and its age.
_BODY = '{"name":"Hero %d","age":%d,"secret_name":"Secret name %d"}'

_SCRIPT = """\
local create_headers = {{["Content-Type"] = "application/json"}}
{requests}
function request()
  local draw = math.random(100)
  {choice}
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{{"requests": %d, "microseconds": %d, "bytes": %d, "p50": %f, "p99": %f, '
    .. '"socket_errors": %d, "bad_answers": %d}}\\n',
    summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end
"""


@dataclass(frozen=True)
class Work:
    """A kind of load: the share, in per cent, of each kind of request."""

    name: str
    description: str
    shares: Mapping[str, int]

    def script(self, routes: Routes) -> str:
        """Return the script that asks a server with these routes."""
        requests = (f"local function {kind}()\n  return {_LUA[kind](routes)}\nend" for kind in _LUA)
        choice, least = [], 0
        for kind, share in self.shares.items():
            least += share
            choice.append(f"if draw <= {least} then return {kind}() end")
        return _SCRIPT.format(requests="\n".join(requests), choice="\n  ".join(choice))


def _quoted(text: str) -> str:
    return json.dumps(text)  # a string of Lua too


def _get(routes: Routes) -> str:
    return f'wrk.format("GET", string.format({_quoted(routes.hero)}, math.random({HEROES})))'


def _first(routes: Routes) -> str:
    return f'wrk.format("GET", {_quoted(routes.first)})'


def _page(routes: Routes) -> str:
    least, greatest = routes.page_range
    path = f"string.format({_quoted(routes.page)}, math.random({least}, {greatest}))"
    return f'wrk.format("GET", {path})'


def _create(routes: Routes) -> str:
    number = f"math.random({HEROES})"
    body = f"string.format({_quoted(_BODY)}, {number}, math.random(0, 99), {number})"
    return f'wrk.format("POST", {_quoted(routes.collection)}, create_headers, {body})'


_LUA: Mapping[str, Callable[[Routes], str]] = {
    "get": _get,
    "first": _first,
    "page": _page,
    "create": _create,
}

WORKS = {
    work.name: work
    for work in (
        Work("get", "a hero by random id", {"get": 100}),
        Work("first", "the first page of 100", {"first": 100}),
        Work("pages", "pages of 100 at random offsets", {"page": 100}),
        Work("create", "create a hero", {"create": 100}),
        Work("mix", "70 % gets, 10 % pages, 20 % creates", {"get": 70, "page": 10, "create": 20}),
    )
}


def example(routes: Routes) -> Mapping[str, tuple[str, str, str | None]]:
    """Return one request of each kind: method, path and body."""
    return {
        "get": ("GET", routes.hero % 5_000, None),
        "first": ("GET", routes.first, None),
        "page": ("GET", routes.page % routes.page_range[1], None),
        "create": ("POST", routes.collection, _BODY % (1, 1, 1)),
    }
