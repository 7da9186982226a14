"""Database URLs, as people write them and as SQLAlchemy takes them."""

import re
from typing import Annotated

from pydantic import AfterValidator
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

_ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
_EXAMPLES = "sqlite:///heroes.db or postgresql://user:password@host/database"
# libpq takes several hosts where SQLAlchemy's URLs have one.
_HOSTS = re.compile(r"^(\w+(?:\+\w+)?://(?:[^@/?]*@)?)([^@/?]*,[^@/?]*)(?:/([^?]*))?(?:\?(.*))?$")
_HOST_AND_PORT = re.compile(r"\[?([^/\]]*?)\]?:(\d+)")


def _normal_url(text: str) -> str:
    """Give a database URL as people write it its async driver, and refuse what cannot work."""
    try:
        url = make_url(_HOSTS.sub(_hosts_into_query, text))
    except (ArgumentError, ValueError):
        message = f"is not a database URL; use for example {_EXAMPLES}"
        raise ValueError(message) from None
    url = url.set(drivername=_ASYNC_DRIVERS.get(url.drivername, url.drivername))
    if url.drivername not in _ASYNC_DRIVERS.values():
        message = f"names {url.drivername}, which is not supported; use for example {_EXAMPLES}"
        raise ValueError(message)
    if url.get_backend_name() == "postgresql":
        url = _with_ports_apart(_with_credentials_apart(url))
        return url.render_as_string(hide_password=False)
    if _is_in_memory(url):
        message = (
            "is an in-memory SQLite database, of which each connection would see one of its own; "
            "use a file, for example sqlite:///heroes.db"
        )
        raise ValueError(message)
    if url.host or url.query:
        message = (
            "has more than the path of a SQLite file; write sqlite:/// and the path, for example "
            "sqlite:///heroes.db, or sqlite:////var/lib/heroes.db"
        )
        raise ValueError(message)
    if url.database and url.database.startswith("file:"):
        message = "is a SQLite URI; give the plain path, for example sqlite:///heroes.db"
        raise ValueError(message)
    return url.render_as_string(hide_password=False)


def _hosts_into_query(match: re.Match[str]) -> str:
    before, hosts, database, query = match.groups(default="")
    return f"{before}/{database}?host={hosts}{query and '&' + query}"


def _with_credentials_apart(url: URL) -> URL:
    """Write `?user=a&password=b` as SQLAlchemy does, who hides a password that stands there."""
    given = {name: values[-1] for name, values in url.normalized_query.items()}
    return url.difference_update_query(("user", "password")).set(
        username=url.username or given.get("user"), password=url.password or given.get("password")
    )


def _with_ports_apart(url: URL) -> URL:
    """Write `host=a:1,b:2` as libpq does: `host=a,b&port=1,2`."""
    hosts = ",".join(url.normalized_query.get("host", ())).split(",")
    if not any(_HOST_AND_PORT.fullmatch(host) for host in hosts):
        return url
    parts = [_HOST_AND_PORT.fullmatch(host) or re.fullmatch("(.*)()", host) for host in hosts]
    names, ports = zip(*(part.groups() for part in parts if part), strict=True)
    return url.update_query_dict({"host": ",".join(names), "port": ",".join(ports)})


def _is_in_memory(url: URL) -> bool:
    database = url.database or ":memory:"
    return ":memory:" in database or url.query.get("mode") == "memory"


DatabaseURL = Annotated[str, AfterValidator(_normal_url)]
