"""A response that a client may have already: see RFC 9110, section 13.1.2."""

from collections.abc import Coroutine, Mapping
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from hero_api.etags import ANY, tag_of, tags_in


class TaggedJSON(Response):
    """A row as JSON, with its `ETag`; 304 for who asks for it and sends that tag."""

    media_type = "application/json"

    def __init__(self, content: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content, headers=headers)
        self.raw_headers.append((b"etag", tag_of(content).encode()))

    # It returns the coroutine, and is none itself: every get comes through here.
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Send the response, or that nothing has changed."""
        known = [value for name, value in scope["headers"] if name == b"if-none-match"]
        if known and scope["method"] in {"GET", "HEAD"}:
            name, tag = self.raw_headers[-1]
            tags = tags_in((value.decode("latin-1") for value in known), weak=True)
            if {ANY, tag.decode()} & tags:
                self.status_code, self.body, self.raw_headers = 304, b"", [(name, tag)]
        return super().__call__(scope, receive, send)
