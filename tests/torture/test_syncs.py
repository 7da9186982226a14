"""The sync before the answer: these tests fail on a service that answers too early."""

from pathlib import Path

import pytest

from . import syncs

CREATES = 100
REASON = syncs.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")


async def test_every_answer_leaves_after_its_hero_was_synced(tmp_path: Path) -> None:
    counted = await syncs.count_early(tmp_path, CREATES, synchronous="FULL")
    assert counted == (CREATES, 0)


async def test_answers_leave_before_a_sync_where_the_setting_says_so(tmp_path: Path) -> None:
    counted = await syncs.count_early(tmp_path, CREATES, synchronous="NORMAL")
    assert counted == (CREATES, CREATES)
