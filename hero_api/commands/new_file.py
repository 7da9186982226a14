"""A file that a command writes: it has its name only when it is whole, and on the disk."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hero_api.errors import StartError


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """Give the path to write; what is there at the end becomes `file`.

    Raises `StartError`, one line, where there is one already, or none can be.
    """
    _check_new(file)
    its_own = None
    try:
        with file_beside(file) as part:
            yield part
            _sync(part)
            its_own = part.stat()
            try:
                # It replaces nothing that was made meanwhile, as a rename would.
                os.link(part, file)
            except OSError:
                _check_new(file)
                part.rename(file)  # on a disk without links, such as a stick
            _sync(file.absolute().parent)
    except BaseException:  # as Ctrl-C, after which there is to be no file
        if its_own and os.path.lexists(file) and os.path.samestat(its_own, file.lstat()):
            file.unlink()
        raise


@contextmanager
def file_beside(file: Path) -> Iterator[Path]:
    """Give the path of an empty file on the same disk, which is deleted at the end.

    Raises `StartError`, one line, for an error of the system.
    """
    try:
        with ExitStack() as stack:
            directory = tempfile.TemporaryDirectory(prefix=".hero-api-", dir=file.absolute().parent)
            for _ in range(2):  # Ctrl-C may stop the first
                stack.callback(directory.cleanup)
            # As relative as `file` is: the name of the working directory may be no text.
            part = file.parent / Path(directory.name).name / file.name
            part.touch()
            yield part
    except OSError as error:
        raise StartError(f"{file}: {error.strerror or error}") from error


def _check_new(file: Path) -> None:
    if os.path.lexists(file):
        raise StartError(f"{file} is there already; name a new file")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
