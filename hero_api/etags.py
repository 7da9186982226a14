"""Entity tags, by which a client says what it knows of a row (RFC 9110, sections 8.8.3 and 13)."""

import re
from collections.abc import Iterable
from hashlib import blake2b

# A tag of a list; the weak mark, in upper case alone, stands right before the quotes.
_TAG = re.compile(r'(?:^|,)\s*(W/)?("[^"]*")')
ANY = "*"


def tag_of(content: str) -> str:
    """Return the strong tag of a content; 128 bits, so that nobody can make two of one tag."""
    return f'"{blake2b(content.encode(), digest_size=16).hexdigest()}"'


def tags_in(values: Iterable[str], *, weak: bool) -> frozenset[str]:
    """Return the tags of a header's values: `ANY`, or those in a list, with `weak` ones or not."""
    text = ",".join(values).strip()
    if text == ANY:
        return frozenset({ANY})
    return frozenset(tag for mark, tag in _TAG.findall(text) if weak or not mark)
