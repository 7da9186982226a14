"""Database URLs, as people write them and as SQLAlchemy takes them."""

import re
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

_ASYNC_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
}
_EXAMPLES = "sqlite:///heroes.db or postgresql://user:password@host/database"
_SHOWN = {"host", "port"}  # of the parameters of a URL
_NO_URL = f"is not a database URL; use for example {_EXAMPLES}"
# Up to the hosts, much as SQLAlchemy splits a URL; the hosts; the database; the query.
_PARTS = re.compile(r"(\w+(?:\+\w+)?://(?:[^:/?]*(?::([^@]*))?@)?)([^/?]*)([^?]*)\??(.*)")
_PARAMETERS = re.compile(r"[^=&]+=[^&]*(?:&[^=&]+=[^&]*)*")
_HOST_AND_PORT = re.compile(r"(?:\[([^\]]*)\]|([^:]*))(?::(\d+))?|([\da-fA-F:.]+)")


def shown(url: URL) -> str:
    """Return a URL as anybody may see it: without its passwords, and what else a driver is told."""
    return str(url.set(query={name: url.query[name] for name in url.query.keys() & _SHOWN}))


def reason(error: BaseException) -> str:
    """Return what a driver says, in one line."""
    said = (error.orig or error) if isinstance(error, DBAPIError) else error
    return " ".join(str(said).split())


def _normal_url(given: str) -> str:
    """Give a database URL as people write it its async driver, and refuse what cannot work.

    No message repeats what was given: a part of a password can be anywhere in it.
    """
    scheme, separator, rest = given.strip().partition("://")
    text = scheme.lower() + separator + rest
    is_file = text.startswith("sqlite")
    _check_escapes(text)
    if not is_file:
        text = _as_sqlalchemy_has_it(text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError(_NO_URL) from None
    url = url.set(drivername=_ASYNC_DRIVERS.get(url.drivername, url.drivername))
    if url.drivername not in _ASYNC_DRIVERS.values():
        message = f"names {url.drivername}, which is not supported; use for example {_EXAMPLES}"
        raise ValueError(message)
    if is_file:
        _check_file_url(text, url)
    else:
        url = _with_ports_apart(_with_credentials_apart(url))
        _check_parameters(url)
    return url.render_as_string(hide_password=False)


def _as_sqlalchemy_has_it(text: str) -> str:
    """Move hosts that SQLAlchemy cannot parse into the query: several, or a socket's directory."""
    match = _PARTS.fullmatch(text)
    if not match:
        raise ValueError(_NO_URL)
    before, password, hosts, database, query = match.groups()
    # A query with an @ could be what follows an @ in the password, and a password with a query
    # what stands before an @ in a parameter.
    is_clear = (
        "@" not in query and not re.search(r"\?\w+=", password)
        if password
        else "@" not in query or _PARAMETERS.fullmatch(query)
    )
    if "@" in hosts + database or not is_clear:
        message = (
            "has an @ too many: in a user, a password or a parameter, write @ as %40, / as %2F, "
            ": as %3A, ? as %3F"
        )
        raise ValueError(message)
    query = query.replace("@", "%40")
    if "," in hosts or "%" in hosts:
        return f"{before}{database or '/'}?host={hosts}{query and '&' + query}"
    return f"{before}{hosts}{database}{query and '?' + query}"


def _check_escapes(text: str) -> None:
    """Refuse what SQLAlchemy would replace, and what would end a string for SQLite or libpq."""
    try:
        unquote(text.replace("%00", "%FF"), errors="strict").encode()
    except UnicodeError:
        message = (
            "has an escape that is not UTF-8, or NUL; write the character itself, and a % as %25"
        )
        raise ValueError(message) from None


def _check_file_url(text: str, url: URL) -> None:
    """Refuse the URL of a SQLite file that would open another one, or none."""
    if ":memory:" in (url.database or ":memory:") or url.query.get("mode") == "memory":
        message = (
            "is an in-memory SQLite database, of which each connection would see one of its own; "
            "use a file, for example sqlite:///heroes.db"
        )
        raise ValueError(message)
    if url.host or url.username or "?" in text:
        message = (
            "has more than the path of a SQLite file; write sqlite:/// and the path, for example "
            "sqlite:///heroes.db, or sqlite:////var/lib/heroes.db (and a ? in the path as %3F)"
        )
        raise ValueError(message)
    if url.database and url.database.startswith("file:"):
        message = "is a SQLite URI; give the plain path, for example sqlite:///heroes.db"
        raise ValueError(message)


def _with_credentials_apart(url: URL) -> URL:
    """Move `?user=a&password=b` to where SQLAlchemy hides a password."""
    given = {name: values[-1] for name, values in url.normalized_query.items()}
    return url.difference_update_query(("user", "password")).set(
        username=url.username or given.get("user"), password=url.password or given.get("password")
    )


def _with_ports_apart(url: URL) -> URL:
    """Write `host=a:1,b:2` as libpq does: `host=a,b&port=1,2`."""
    hosts = ",".join(url.normalized_query.get("host", ())).split(",")
    parts = [_HOST_AND_PORT.fullmatch(host) for host in hosts]
    if "port" in url.query or all(part and not part[3] for part in parts):
        # In several `host` parameters SQLAlchemy would take each ":" for a port's.
        return url.update_query_dict({"host": ",".join(hosts)} if any(hosts) else {})
    if not all(parts):
        raise ValueError(_NO_URL)
    names = [part[1] or part[2] or part[4] or "" for part in parts if part]
    ports = [part[3] or "" for part in parts if part]
    return url.update_query_dict({"host": ",".join(names), "port": ",".join(ports)})


def _check_parameters(url: URL) -> None:
    """Refuse a parameter that libpq does not know, and ports that do not fit the hosts.

    SQLAlchemy and the driver have options of their own, which no URL can set.
    """
    try:
        url.get_dialect()().create_connect_args(url)
    except ArgumentError:
        message = "has a port that is no number, or not one for each host: host=a,b&port=5432,5433"
        raise ValueError(message) from None
    try:
        from psycopg.pq import Conninfo  # noqa: PLC0415 - an extra; who connects says so
    except ImportError:
        return
    if url.query.keys() - {option.keyword.decode() for option in Conninfo.get_defaults()}:
        message = "has a parameter that libpq does not know; write & as %26 in a value"
        raise ValueError(message)


DatabaseURL = Annotated[str, AfterValidator(_normal_url)]
