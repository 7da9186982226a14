"""The write-ahead log beside a SQLite file, read as it lies there.

Its form is that of https://sqlite.org/fileformat2.html#walformat. Checksums are not verified: what
a power cut tore off the end of the log counts as part of it.
"""

import os
from collections.abc import Iterator
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


def beside(path: Path, suffix: str) -> Path:
    """Return where SQLite's own file of that suffix is: beside the file, not a link to it."""
    real = path.resolve()
    return real.with_name(real.name + suffix)


def wal_of(path: Path) -> Path:
    """Return where the log of a database is."""
    return beside(path, "-wal")


def committed(wal: Path) -> Committed | None:
    """Return what the commits in the log made of the database; nothing where it has none."""
    try:
        file = os.open(wal, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return _committed(file)
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


def _frames(file: int, page_size: int) -> Iterator[_Frame]:
    """Yield the headers of the frames that are there as a whole."""
    length = _FRAME_HEADER + page_size
    size = os.fstat(file).st_size
    for place in range(_HEADER, size - length + 1, length):
        header = os.pread(file, _FRAME_HEADER, place)
        page, pages = (int.from_bytes(header[start : start + 4], "big") for start in (0, 4))
        yield _Frame(page, pages, header[8:16])
