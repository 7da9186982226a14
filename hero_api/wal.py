"""The write-ahead log beside a SQLite file, read as it lies there.

Its form is that of https://sqlite.org/fileformat2.html#walformat. Checksums are not verified: what
a power cut tore off the end of the log counts as part of it.
"""

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_HEADER = 32
_FRAME_HEADER = 24
_MAGIC = (0x377F0682).to_bytes(4, "big"), (0x377F0683).to_bytes(4, "big")


class Committed(NamedTuple):
    """What the commits in a log made of the database: its pages, and those that the log holds."""

    page_size: int
    pages: int
    held: frozenset[int]

    def completes(self, size: int) -> bool:
        """Say whether a file of `size` bytes has every page that the log does not hold."""
        missing = range(size // self.page_size + 1, self.pages + 1)
        return all(page in self.held for page in missing)


class _Frame(NamedTuple):
    page: int
    pages: int  # of the database after the commit that ends here; otherwise 0
    salts: bytes


def has_wal_reset_fault(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Say whether two processes at work can corrupt a WAL database (sqlite.org/wal.html)."""
    return (3, 7, 0) <= version < (3, 51, 3) and not any(
        fixed <= version < (fixed[0], fixed[1] + 1) for fixed in ((3, 44, 6), (3, 50, 7))
    )


def page_size_of(header: bytes) -> int:
    """Return the size of a database's pages, as the header of its file says it."""
    size = int.from_bytes(header[16:18], "big")
    return 65536 if size == 1 else size


def beside(path: Path, suffix: str) -> Path:
    """Return where SQLite's own file of that suffix is: beside the file, not a link to it."""
    real = path.resolve()
    return real.with_name(real.name + suffix)


def wal_of(path: Path) -> Path:
    """Return where the log of a database is."""
    return beside(path, "-wal")


def committed(wal: Path) -> Committed | None:
    """Return what the commits in the log made of the database; nothing where it has none."""
    with _opened(wal) as file:
        return _committed(file) if file is not None else None


class Generation(NamedTuple):
    """What tells a log from the one that is begun anew in its place."""

    header: bytes
    emptied: int  # when, in nanoseconds, where it is empty; otherwise 0


def generation_of(wal: Path) -> Generation | None:
    """Return the generation of the log; nothing where there is no log."""
    with _opened(wal) as file:
        if file is None:
            return None
        header = os.pread(file, _HEADER, 0)
        return Generation(header, 0 if len(header) == _HEADER else os.fstat(file).st_ctime_ns)


def holds(wal: Path, page_size: int, pages: Mapping[int, bytes]) -> bool:
    """Say whether the log holds each of these pages, by their numbers, with this content."""
    with _opened(wal) as file:
        return file is not None and _holds(file, page_size, pages)


def set_aside(wal: Path) -> Path:
    """Empty the log, so that nothing of it is checkpointed; return where its content is now."""
    kept = wal.with_name(f"{wal.name}.{time.strftime('%Y%m%dT%H%M%S')}")
    shutil.copyfile(wal, kept)
    os.truncate(wal, 0)
    return kept


@contextmanager
def _opened(wal: Path) -> Iterator[int | None]:
    try:
        file = os.open(wal, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield file
    finally:
        os.close(file)


def _committed(file: int) -> Committed | None:
    header = os.pread(file, _HEADER, 0)
    if len(header) < _HEADER or not header.startswith(_MAGIC):
        return None
    page_size = int.from_bytes(header[8:12], "big")
    pages, held, begun = 0, set[int](), set[int]()
    for frame in _frames(file, page_size):
        if frame.salts != header[16:24]:  # it is left from before the log was begun anew
            break
        begun.add(frame.page)
        if frame.pages:
            pages = frame.pages
            held |= begun
            begun.clear()
    return Committed(page_size, pages, frozenset(held)) if pages else None


def _holds(file: int, page_size: int, pages: Mapping[int, bytes]) -> bool:
    missing = dict(pages)
    # From the end, where the newest are; what is left from before counts as well.
    for place in reversed(_places(file, page_size)):
        number = int.from_bytes(os.pread(file, 4, place), "big")
        if number in missing:
            content = os.pread(file, page_size, place + _FRAME_HEADER)
            if content == missing[number]:
                del missing[number]
                if not missing:
                    break
    return not missing


def _frames(file: int, page_size: int) -> Iterator[_Frame]:
    """Yield the headers of the frames that are there as a whole."""
    for place in _places(file, page_size):
        header = os.pread(file, _FRAME_HEADER, place)
        page, pages = (int.from_bytes(header[start : start + 4], "big") for start in (0, 4))
        yield _Frame(page, pages, header[8:16])


def _places(file: int, page_size: int) -> range:
    length = _FRAME_HEADER + page_size
    return range(_HEADER, os.fstat(file).st_size - length + 1, length)
