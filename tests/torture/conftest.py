import random
import sqlite3

import pytest

from .faults import Faults


@pytest.fixture
def seed() -> int:
    """Return a number that random choices start from; pytest shows it when the test fails."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    return seed


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Return the faults of every database that the test opens from now on."""
    faults = Faults()
    monkeypatch.setattr(sqlite3, "connect", faults.connect)
    return faults
