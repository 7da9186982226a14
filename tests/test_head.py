"""The head of a request as the parser gets it."""

import pytest

from hero_api.head import tail_of, without_offer

LINE = b"POST /heroes/ HTTP/1.1\r\nHost: hero-api"
OFFER = b"\r\nConnection: Upgrade, HTTP2-Settings\r\n%s: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"
END = b"\r\nContent-Length: 12\r\n\r\n"


def through(pieces: list[bytes]) -> bytes:
    """Return what the parser gets of a head that arrives in pieces."""
    passed, tail = b"", b""
    for piece in pieces:
        changed = without_offer(tail, piece)
        passed += changed
        tail = tail_of(tail, changed)
    return passed


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade", b"UPGRADE"])
def test_an_offer_to_upgrade_is_declined_wherever_the_head_is_cut(name: bytes) -> None:
    head = LINE + OFFER % name + END
    declined = LINE + OFFER % (name + b"d") + END
    for cut in range(len(head)):
        assert through([head[:cut], head[cut:]]) == declined


def test_every_offer_is_declined_in_the_smallest_pieces() -> None:
    head = LINE + 2 * (OFFER % b"Upgrade") + END
    pieces = [head[index : index + 1] for index in range(len(head))]
    assert through(pieces) == LINE + 2 * (OFFER % b"Upgraded") + END


@pytest.mark.parametrize(
    "content",
    [
        LINE + END,
        LINE + b"\r\nUpgrade-Insecure-Requests: 1" + END,
        LINE + b"\r\nX: upgrade: h2c" + END,
        LINE + END + b"\r\nUpgrade: h2c",
        LINE + END[:-1],
    ],
)
def test_what_offers_nothing_is_passed_on_as_it_is(content: bytes) -> None:
    assert through([content]) == content
