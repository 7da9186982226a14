"""The head of a request, its line and headers: looked at while it arrives, before the parser is."""

import re

_MAX_HEAD = 65_536  # bytes
_MAX_REST = 1_048_576  # bytes of a body that nobody wanted, and the head after it
_BODY = b'{"detail":"The head of the request is too large"}'
_OFFER = re.compile(rb"\nupgrade:", re.IGNORECASE)

TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


class Head:
    """What has arrived of the head of a connection's next request."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin anew: the one before it has arrived."""
        self.has_ended = False
        self._size = 0
        self._tail = b""

    def add(self, data: bytes, *, is_rest: bool) -> bytes | None:
        """Return what has arrived as the parser is to have it; None when that is too large.

        `is_rest` says that the rest of a body comes first, which is no head.
        """
        if self._size > (_MAX_REST if is_rest else _MAX_HEAD):
            return None
        self._size += len(data)
        if is_rest:
            return data
        # The parser passes over empty lines before a head.
        seen = self._tail + data if self._tail else data.lstrip()
        end = seen.find(b"\r\n\r\n")
        self.has_ended = end >= 0
        # Enough of it for whatever the next piece ends, and no more: nothing is found twice.
        self._tail = seen[1 - len(b"\nupgrade:") :]
        offer = _OFFER.search(seen, 0, end) if self.has_ended else _OFFER.search(seen)
        return _decline(data, offer.end() - len(seen)) if offer else data


def _decline(data: bytes, end: int) -> bytes:
    """Rename the header `Upgrade`, which ends there, counted from the end of `data`.

    Nothing is offered that the service takes. The parser would not parse the body of a request with
    that header, which Java's client sends with each of its own (HTTP/2 without TLS).
    """
    return data[: end - 1] + b"d" + data[end - 1 :]
