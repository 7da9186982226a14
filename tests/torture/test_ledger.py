"""What the ledger must not accept: the torture tests would show nothing otherwise."""

from .ledger import Change, Hero, Ledger

A, B = Hero("a", None, "?"), Hero("b", None, "?")


def ledger_of(*changes: Change) -> Ledger:
    """Return a ledger in which hero 1 is A, and some changes were begun."""
    ledger = Ledger()
    create = Change(None, A)
    ledger.begin(create)
    ledger.acknowledge(create, 1)
    for change in changes:
        ledger.begin(change)
    return ledger


def test_what_was_acknowledged_is_lost_when_it_is_not_stored() -> None:
    assert len(ledger_of().check({}).lost) == 1


def test_what_was_acknowledged_is_lost_when_something_else_is_stored() -> None:
    assert len(ledger_of().check({1: B}).lost) == 1


def test_a_delete_that_was_acknowledged_is_lost_when_the_hero_is_still_stored() -> None:
    delete = Change(1, None)
    ledger = ledger_of(delete)
    ledger.acknowledge(delete, 1)
    assert len(ledger.check({1: A}).lost) == 1


def test_a_patch_that_was_refused_must_not_be_stored() -> None:
    patch = Change(1, B)
    ledger = ledger_of(patch)
    ledger.refuse(patch)
    assert len(ledger.check({1: B}).lost) == 1


def test_a_create_that_was_refused_must_not_be_stored() -> None:
    create = Change(None, B)
    ledger = ledger_of(create)
    ledger.refuse(create)
    assert len(ledger.check({1: A, 2: B}).strays) == 1


def test_a_hero_that_nobody_asked_for_must_not_be_stored() -> None:
    assert len(ledger_of().check({1: A, 2: B}).strays) == 1


def test_a_hero_that_was_forgotten_must_not_be_stored() -> None:
    delete = Change(1, None)
    ledger = ledger_of(delete)
    ledger.acknowledge(delete, 1)
    ledger.forget(1)
    assert len(ledger.check({1: A}).strays) == 1


def test_a_change_that_was_not_answered_may_be_stored_or_not() -> None:
    assert ledger_of(Change(1, B)).check({1: A}) == ([], [])
    assert ledger_of(Change(1, B)).check({1: B}) == ([], [])
    assert ledger_of(Change(None, B)).check({1: A}) == ([], [])
    assert ledger_of(Change(None, B)).check({1: A, 2: B}) == ([], [])


def test_a_create_that_was_not_answered_must_not_be_stored_twice() -> None:
    assert len(ledger_of(Change(None, B)).check({1: A, 2: B, 3: B}).strays) == 2


def test_a_create_that_was_acknowledged_must_not_be_stored_again() -> None:
    assert len(ledger_of().check({1: A, 2: A}).strays) == 1


def test_a_change_that_was_not_answered_cannot_turn_into_something_else() -> None:
    assert len(ledger_of(Change(1, B)).check({1: B._replace(age=1)}).lost) == 1


def test_what_was_unknown_is_known_after_a_check() -> None:
    ledger = ledger_of(Change(1, B))
    ledger.check({1: B})
    assert len(ledger.check({1: A}).lost) == 1
