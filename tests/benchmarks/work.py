"""The work: what is asked, as Lua scripts for wrk."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .servers import Routes

HEROES = 10_000
# The hero that a client creates: its number, twice, and its age.
_BODY = '{"name":"Hero %d","age":%d,"secret_name":"Secret name %d"}'
_CHANGES = '{"secret_name":"Secret name %d"}'

_SCRIPT = """\
local json_headers = {{["Content-Type"] = "application/json"}}
local newest, connections  -- the greatest id when the run began, and how many clients there are
local created, deleted = 0, 0
local threads = {{}}
bad_answers = 0  -- no local: `done` runs elsewhere, and asks the thread for it

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  newest, connections = tonumber(arguments[1]), tonumber(arguments[2])
  math.randomseed(os.time())  -- or each run would ask the same again, and send the same keys
end

{requests}
function request()
  local draw = math.random(100)
  {choice}
end

{response}
function done(summary, latency, requests)
  local errors = summary.errors
  local bad_answers = {bad_answers}
  io.write(string.format(
    '\\n{{"requests": %d, "microseconds": %d, "bytes": %d, "p50": %f, "p99": %f, "longest": %f, '
    .. '"socket_errors": %d, "bad_answers": %d}}\\n',
    summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect + errors.read + errors.write + errors.timeout, bad_answers))
end
"""
# To look at each answer costs wrk time, which only works that delete pay: there a 404 is no error.
_RESPONSE = """
function response(status)
  if status >= 400 and status ~= 404 then bad_answers = bad_answers + 1 end
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
        requests = (f"local function {kind}()\n  {_LUA[kind](routes)}\nend" for kind in _LUA)
        choice, least = [], 0
        for kind, share in self.shares.items():
            least += share
            choice.append(f"if draw <= {least} then return {kind}() end")
        return _SCRIPT.format(
            requests="\n".join(requests),
            choice="\n  ".join(choice),
            response=_RESPONSE if self.changes else "",
            bad_answers='threads[1]:get("bad_answers")' if self.changes else "errors.status",
        )

    @property
    def changes(self) -> bool:
        """Whether it patches and deletes."""
        return not self.shares.keys().isdisjoint({"patch", "delete"})

    @property
    def is_ours(self) -> bool:
        """Whether it asks for what only some of the servers can do."""
        return self.changes or "keyed" in self.shares


def _quoted(text: str) -> str:
    return json.dumps(text)  # a string of Lua too


def _get(routes: Routes) -> str:
    return f'return wrk.format("GET", {_path(routes, f"math.random({HEROES})")})'


def _first(routes: Routes) -> str:
    return f'return wrk.format("GET", {_quoted(routes.first)})'


def _page(routes: Routes) -> str:
    least, greatest = routes.page_range
    path = f"string.format({_quoted(routes.page)}, math.random({least}, {greatest}))"
    return f'return wrk.format("GET", {path})'


def _create(routes: Routes) -> str:
    number = f"math.random({HEROES})"
    body = f"string.format({_quoted(_BODY)}, {number}, math.random(0, 99), {number})"
    asked = f'wrk.format("POST", {_quoted(routes.collection)}, json_headers, {body})'
    return f"created = created + 1\n  return {asked}"


def _keyed(routes: Routes) -> str:
    # In no order, as the keys of real clients are.
    key = 'string.format("%08x-%x", math.random(0, 2^31 - 1), created)'
    return f'json_headers["Idempotency-Key"] = {key}\n  {_create(routes)}'


def _patch(routes: Routes) -> str:
    # Not the last hero, which was deleted to see whether the server can do that.
    path = _path(routes, f"math.random({HEROES - 1})")
    body = f"string.format({_quoted(_CHANGES)}, math.random({HEROES}))"
    return f'return wrk.format("PATCH", {path}, json_headers, {body})'


def _delete(routes: Routes) -> str:
    # The oldest that the run has created: new ids go up one by one, and those of creates that are
    # under way are left out. As many as are created last longer than the heroes that are patched.
    return f"""if deleted >= created - 2 * connections then return create() end
  deleted = deleted + 1
  return wrk.format("DELETE", {_path(routes, "newest + deleted")})"""


def _path(routes: Routes, number: str) -> str:
    return f"string.format({_quoted(routes.hero)}, {number})"


_LUA: Mapping[str, Callable[[Routes], str]] = {
    "get": _get,
    "first": _first,
    "page": _page,
    "create": _create,
    "keyed": _keyed,
    "patch": _patch,
    "delete": _delete,
}

WORKS = {
    work.name: work
    for work in (
        Work("get", "a hero by random id", {"get": 100}),
        Work("first", "the first page of 100", {"first": 100}),
        Work("pages", "pages of 100 at random offsets", {"page": 100}),
        Work("create", "create a hero", {"create": 100}),
        Work("mix", "70 % gets, 10 % pages, 20 % creates", {"get": 70, "page": 10, "create": 20}),
        Work(
            "writes",
            "60 % creates, 25 % patches, 15 % deletes",
            {"create": 60, "patch": 25, "delete": 15},
        ),
        Work("keyed", "create a hero, with an Idempotency-Key", {"keyed": 100}),
    )
}


def example(routes: Routes) -> Mapping[str, tuple[str, str, str | None]]:
    """Return one request of each kind: method, path and body."""
    return {
        "get": ("GET", routes.hero % 5_000, None),
        "first": ("GET", routes.first, None),
        "page": ("GET", routes.page % routes.page_range[1], None),
        "create": ("POST", routes.collection, _BODY % (1, 1, 1)),
        "keyed": ("POST", routes.collection, _BODY % (1, 1, 1)),
        "patch": ("PATCH", routes.hero % 5_000, _CHANGES % 1),
        "delete": ("DELETE", routes.hero % HEROES, None),
    }
