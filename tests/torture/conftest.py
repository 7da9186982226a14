import sqlite3

import pytest

from hero_api.web import health

from .faults import Faults


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Return the faults of every database that the test opens from now on."""
    faults = Faults()
    monkeypatch.setattr(sqlite3, "connect", faults.connect)
    return faults


@pytest.fixture
def unhurried_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `/readyz` have as long as the machine may need for a few syncs beside other programs."""
    monkeypatch.setattr(health, "READY_WITHIN", 30.0)
