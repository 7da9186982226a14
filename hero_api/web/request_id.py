"""The id of a request: the one that it came with, or one of its own."""

import re
import uuid

from starlette.types import Scope

# Whatever else a client sends could forge a line of the log.
_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACE = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def request_id(scope: Scope) -> str:
    """Return `X-Request-ID`, or the trace of W3C's `traceparent`, or a new id; always the same."""
    state = scope.setdefault("state", {})
    if "request_id" not in state:
        headers = dict(scope["headers"])
        given = _ID.fullmatch(headers.get(b"x-request-id", b""))
        trace = _TRACE.fullmatch(headers.get(b"traceparent", b""))
        found = (given and given[0]) or (trace and trace[1])
        state["request_id"] = found.decode() if found else uuid.uuid4().hex
    identity: str = state["request_id"]
    return identity
