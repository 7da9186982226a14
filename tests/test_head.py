"""The head of a request as the parser gets it."""

import pytest

from hero_api.head import Head

BEFORE = b"POST /heroes/ HTTP/1.1\r\nHost: hero-api"
OFFER = b"\r\nConnection: Upgrade, HTTP2-Settings\r\n%s: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"
END = b"\r\nContent-Length: 12\r\n\r\n"


def through(pieces: list[bytes]) -> bytes:
    """Return what the parser gets of a head that arrives in pieces."""
    head = Head()
    passed = [head.add(piece, is_rest=False) for piece in pieces]
    assert head.has_ended
    return b"".join(piece for piece in passed if piece is not None)


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade", b"UPGRADE"])
def test_an_offer_to_upgrade_is_declined_wherever_the_head_is_cut(name: bytes) -> None:
    head = BEFORE + OFFER % name + END
    declined = BEFORE + OFFER % (name + b"d") + END
    for cut in range(1, len(head)):
        assert through([head[:cut], head[cut:]]) == declined


def test_an_offer_to_upgrade_is_declined_in_the_smallest_pieces() -> None:
    head = BEFORE + OFFER % b"Upgrade" + END
    pieces = [head[index : index + 1] for index in range(len(head))]
    assert through(pieces) == BEFORE + OFFER % b"Upgraded" + END


@pytest.mark.parametrize(
    "content",
    [
        BEFORE + END,
        BEFORE + b"\r\nUpgrade-Insecure-Requests: 1" + END,
        BEFORE + b"\r\nX: upgrade: h2c" + END,
        BEFORE + END + b"\r\nUpgrade: h2c",
        b"\r\n\r\n" + BEFORE + END,
    ],
)
def test_what_offers_nothing_is_passed_on_as_it_is(content: bytes) -> None:
    assert through([content]) == content
