"""The head of a request, its line and headers: its bound, and what is taken out of it."""

import re

MAX_HEAD = 65_536  # bytes
# An offer to go on in another protocol; its colon is found, but stands outside of the match.
_OFFER = re.compile(rb"\nupgrade(?=:)", re.IGNORECASE)
_LONGEST = len(b"\nupgrade")
_BODY = b'{"detail":"The head of the request is too large"}'

TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


def without_offer(tail: bytes, data: bytes) -> bytes:
    """Return `data`, which goes on with a head, with its header `Upgrade` renamed to `Upgraded`.

    `tail` is what `tail_of` said of the pieces before it. The service takes no such offer, and
    uvicorn's parser would drop the body of a request that makes one, as each of Java's client does.
    """
    seen = tail + data
    end = seen.find(b"\r\n\r\n")
    end = len(seen) if end < 0 else end
    if _OFFER.search(seen, 0, end) is None:
        return data
    return _OFFER.sub(rb"\g<0>d", seen[:end] + b":")[len(tail) : -1] + seen[end:]


def tail_of(tail: bytes, data: bytes) -> bytes:
    """Return the end of what was passed on of a head: a name may go on in the next piece."""
    return (tail + data)[-_LONGEST:]
