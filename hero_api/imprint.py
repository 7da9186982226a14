"""The imprint of a SQLite file in WAL mode, which tells whether only SQLite wrote into the file.

Nothing but a checkpoint changes such a file, and a checkpoint copies pages out of the log. So each
page is what it was when it was last looked at, or what the log holds: as long as the log was not
begun anew meanwhile. Where it was, by another process or during a transaction, only the header of
the file is left to compare.
"""

import fcntl
import os
import time
from pathlib import Path

from hero_api.wal import Generation, committed, generation_of, holds, page_size_of, wal_of

# The bytes of which SQLite holds a lock as long as it has a file open in WAL mode.
_SHARED_FIRST, _SHARED_SIZE = 0x4000_0002, 510
_PAGES = 16  # that are compared; the first and the last are among them
_TICK = 50_000_000  # nanoseconds in which a file may change twice and show one time of change


class Imprint:
    """Some pages of a file, and the generation of the log that the next changes come from."""

    def __init__(self, path: Path) -> None:
        self._wal = wal_of(path)
        # Open until SQLite is closed: to close any descriptor of a file gives up its locks. And
        # open to be written, for a file system in layers to show here what is written elsewhere.
        self._file = os.open(path, os.O_RDWR)
        self._status: object = None
        self._is_settled = self._may_begin_anew = False
        self._size = self._page_size = 0
        self._pages: dict[int, bytes] = {}
        self._generation: Generation | None = None

    def take(self) -> None:
        """Remember the file as it is now."""
        self._page_size = page_size_of(self._read_header())
        self._remember(generation_of(self._wal), os.fstat(self._file))

    def fits(self) -> bool:
        """Say whether SQLite alone can have made the file what it is; call it in a transaction.

        Before the first `take` every file fits, and so does what cannot be read now.
        """
        status = os.fstat(self._file)
        if not self._pages or _signature(status) == self._status:
            return True
        try:
            generation = generation_of(self._wal)
            # Twice, as another process may be writing what is read.
            if not any(self._is_explained(generation, status) for _ in range(2)):
                return False
            self._remember(generation, status)
        except OSError:
            pass  # no descriptor is left: the next transaction looks again
        return True

    def follow(self) -> None:
        """Take note of a transaction that ended: it may have begun the log anew.

        That comes after a checkpoint, and so there is nothing to do until the next one.
        """
        if not self._may_begin_anew:
            return
        try:
            generation = generation_of(self._wal)
            if generation == self._generation:
                return
            status = os.fstat(self._file)
            if self._is_settled and _signature(status) == self._status:
                self._generation = generation
            elif self._is_explained(generation, status):
                self._remember(generation, status)
            else:
                return
            self._may_begin_anew = False
        except OSError:
            self._generation = None

    def lock_out(self) -> bool:
        """Keep others from opening the database until `close`; say whether none has it open."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the file, and so give up what locks this process has on it."""
        os.close(self._file)

    def _remember(self, generation: Generation | None, status: os.stat_result) -> None:
        self._generation = generation
        self._may_begin_anew = True
        self._status = _signature(status)
        self._is_settled = time.time_ns() - status.st_ctime_ns > _TICK
        self._size = status.st_size
        last = status.st_size // self._page_size - 1
        numbers = {1 + last * step // (_PAGES - 1) for step in range(_PAGES)}
        self._pages = {number: self._read(number) for number in numbers}

    def _is_explained(self, generation: Generation | None, status: os.stat_result) -> bool:
        header = self._read_header()
        is_continued = self._is_continued(generation, status)
        if status.st_size < self._size and not self._is_whole(
            header, status.st_size, may_grow=not is_continued
        ):
            return False
        if not is_continued:
            return _can_follow(header, self._pages[1])
        changed = {
            number: content
            for number, before in self._pages.items()
            if (content := self._read(number)) != before
            and len(content) == self._page_size  # the file may have become shorter
        }
        return not changed or holds(self._wal, self._page_size, changed)

    def _is_continued(self, generation: Generation | None, status: os.stat_result) -> bool:
        """Say whether the log still holds all that was checkpointed since the last look."""
        return (
            generation is not None
            and generation == self._generation
            # One that is empty again looks as before only within a tick of the clock.
            and status.st_ctime_ns > generation.emptied + _TICK
        )

    def _is_whole(self, header: bytes, size: int, *, may_grow: bool) -> bool:
        """Say whether a file that became shorter has all that its header says.

        One that another process compacted `may_grow` again by a checkpoint that is under way.
        """
        if 0 < int.from_bytes(header[28:32], "big") * self._page_size <= size:
            return True
        log = committed(self._wal) if may_grow else None
        return log is not None and log.completes(size)

    def _read_header(self) -> bytes:
        return os.pread(self._file, 100, 0)

    def _read(self, number: int) -> bytes:
        return os.pread(self._file, self._page_size, (number - 1) * self._page_size)


def _signature(status: os.stat_result) -> object:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _can_follow(header: bytes, before: bytes) -> bool:
    """Say whether a header can be a later one of the same database (sqlite.org/fileformat.html)."""
    changes = int.from_bytes(header[24:28], "big") - int.from_bytes(before[24:28], "big")
    return (
        header[:20] == before[:20]  # the size of a page, and that it is in WAL mode
        and changes % 2**32 < 2**31  # the number of changes never becomes less
    )
