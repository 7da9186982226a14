import sqlite3

import pytest

from .faults import Faults


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Return the faults of every database that the test opens from now on."""
    faults = Faults()
    monkeypatch.setattr(sqlite3, "connect", faults.connect)
    return faults
