"""What a client is told when the database cannot serve: what to do about it."""

import re
from collections.abc import Iterator

import pytest

from hero_api.errors import ServiceError

ADVICE = re.compile(
    r"\b(try again|read it|put it back|restart|make room|run `[^`]+`)", re.IGNORECASE
)
OUTCOME = re.compile(r"nothing was (changed|done)|whether it was stored is unknown")


def kinds(of: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """Yield every kind of error, however deep."""
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def told(status: int) -> list[ServiceError]:
    """Return one error of each kind that is raised with this status."""
    # The base of a kind has no message of its own.
    own = [kind for kind in kinds() if kind.status == status and has_message(kind)]
    return [kind() for kind in own]


def has_message(kind: type[ServiceError]) -> bool:
    return bool({"detail", "__init__"} & vars(kind).keys())


def name(error: ServiceError) -> str:
    return type(error).__name__


each_unavailable = pytest.mark.parametrize("error", [*told(503), *told(507)], ids=name)


@each_unavailable
def test_who_cannot_be_served_is_told_what_to_do(error: ServiceError) -> None:
    assert ADVICE.search(error.detail)


@each_unavailable
def test_who_cannot_be_served_is_told_whether_anything_was_done(error: ServiceError) -> None:
    assert OUTCOME.search(error.detail)


@pytest.mark.parametrize("error", told(503), ids=name)
def test_a_503_says_when_to_come_back(error: ServiceError) -> None:
    assert error.headers is not None
    assert int(error.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind.status in {503, 507}])
def test_an_error_without_a_message_of_its_own_is_only_the_base_of_others(
    kind: type[ServiceError],
) -> None:
    assert has_message(kind) or kind.__subclasses__()
