"""The head of a request, its line and headers: counted while it arrives, so that it has a bound."""

_MAX_HEAD = 65_536  # bytes
_MAX_REST = 1_048_576  # bytes of a body that nobody wanted, and the head after it
_BODY = b'{"detail":"The head of the request is too large"}'

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

    def add(self, data: bytes, *, is_rest: bool) -> bool:
        """Count what has arrived, unless that was too large already; say whether it was not.

        `is_rest` says that the rest of a body comes first, which is no head.
        """
        if self._size > (_MAX_REST if is_rest else _MAX_HEAD):
            return False
        self._size += len(data)
        if not is_rest:
            # The parser passes over empty lines before a head.
            tail = self._tail + data if self._tail else data.lstrip()
            self.has_ended = b"\r\n\r\n" in tail
            self._tail = tail[-3:]
        return True
