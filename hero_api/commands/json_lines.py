"""`hero-api export` and `hero-api import`: rows as JSON Lines."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import BinaryIO, NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError

from hero_api.commands.endpoints import open_to_read
from hero_api.commands.progress import Progress
from hero_api.database.sessions import ReadWriteSession, connect, open_database
from hero_api.database.sqlite.engine import check_alone
from hero_api.database.transfer import columns_in_order
from hero_api.database.verdicts import describe, judge
from hero_api.errors import ServiceError, StartError
from hero_api.lines import read_line, reason
from hero_api.settings import Settings
from hero_api.storage import AnyStorage

_CHUNK = 1_000  # rows that a statement stores
_LARGE = 2_000_000  # bytes: of large rows a chunk has fewer
_LONGEST = 1_000_000  # bytes of a line
_PATIENCE = 86_400.0  # seconds: a large file takes longer than a request may
_UNKNOWN = "It is not known whether all is"

Numbered = tuple[int, BaseModel]


class Imported(NamedTuple):
    """How many rows were stored, and how many lines were passed over."""

    stored: int
    skipped: int


def export_lines(
    settings: Settings,
    storage: AnyStorage,
    public: type[BaseModel],
    target: BinaryIO,
    progress: Progress,
) -> int:
    """Write each row as `public` shows it, from one snapshot; return how many there are.

    Raises `StartError`, one line.
    """
    names = [column.name for column in columns_in_order(storage.table)]
    adapter = TypeAdapter(public)
    count = 0
    with closing(open_to_read(settings, storage.table)) as source:
        if not source.has_table():
            raise StartError(f"{source.name} has no table {storage.table.name}")
        progress.begin("exported", source.count())
        rows = source.rows()
        while chunk := list(islice(rows, _CHUNK)):
            for row in chunk:
                try:
                    answer = adapter.validate_python(dict(zip(names, row, strict=True)))
                except ValidationError:
                    problem = f"{storage.table.name} {row[0]} holds values of the wrong type"
                    raise StartError(f"{source.name}: {problem}; mend or delete it") from None
                target.write(adapter.dump_json(answer) + b"\n")
            count += len(chunk)
            progress.advance(len(chunk))
    return count


def import_lines(  # noqa: PLR0913 - two ends, what a line is, and how
    settings: Settings,
    storage: AnyStorage,
    create: type[BaseModel],
    source: BinaryIO,
    progress: Progress,
    *,
    skips_bad: bool,
) -> Imported:
    """Store a row for each line, all or none; `skips_bad` passes over those that cannot be.

    Raises `StartError`, in one line: it names the first line of the file that cannot be stored.
    """
    check_alone(settings)
    each = _Import(settings, storage, progress, skips_bad)
    try:
        return asyncio.run(each.run(create, source))
    except KeyboardInterrupt:
        if each.is_committing:
            where = settings.database_name
            raise StartError(f"Stopped. {_UNKNOWN} stored in {where}") from None
        raise


@dataclass
class _Import:
    settings: Settings
    storage: AnyStorage
    progress: Progress
    skips_bad: bool
    is_committing: bool = False
    stored: int = 0
    skipped: int = 0
    size: int = 0  # bytes of the chunk that is read

    async def run(self, create: type[BaseModel], source: BinaryIO) -> Imported:
        self.progress.begin("read", None)
        settings = self.settings.model_copy(update={"request_timeout": _PATIENCE})
        async with open_database(settings, {}, [self.storage.table]) as database:
            session = database.write_session()
            try:
                await connect(session)
                for chunk in self._chunks(create, source):
                    await self._store(session, chunk)
                self.is_committing = True
                await session.commit()
            except StartError:
                raise
            except Exception as error:
                is_known = not self.is_committing or judge(error).is_undone
                outcome = "Nothing was" if is_known else _UNKNOWN
                raise StartError(
                    f"{outcome} stored in {self.settings.database_name}: {describe(error)}"
                ) from error
            finally:
                await session.rollback()
                await session.close()
        return Imported(self.stored, self.skipped)

    def _chunks(self, create: type[BaseModel], source: BinaryIO) -> Iterator[Sequence[Numbered]]:
        chunk: list[Numbered] = []
        for number, line in self._lines(source):
            row = read_line(create, line)
            if isinstance(row, ValidationError):
                self._pass_over(number, reason(row))
            elif row is not None:
                chunk.append((number, row))
            if len(chunk) == _CHUNK or self.size >= _LARGE:
                yield chunk
                chunk, self.size = [], 0
        if chunk:
            yield chunk

    def _lines(self, source: BinaryIO) -> Iterator[tuple[int, bytes]]:
        # One byte more than a line may have: its end, which does not count, or what is too much.
        for number, line in enumerate(iter(partial(source.readline, _LONGEST + 1), b""), 1):
            if len(line) <= _LONGEST or line.endswith(b"\n"):
                self.size += len(line)
                yield number, line
                continue
            self._pass_over(number, f"is longer than {_LONGEST:,} bytes")
            while (rest := source.readline(_LONGEST)) and not rest.endswith(b"\n"):
                pass

    async def _store(self, session: ReadWriteSession, rows: Sequence[Numbered]) -> None:
        results = await self.storage.rows.create_all(session, [row for _, row in rows])
        for (number, _), result in zip(rows, results, strict=True):
            if isinstance(result, ServiceError):
                self._pass_over(number, result.detail)
            else:
                self.stored += 1
        self.progress.advance(len(rows))

    def _pass_over(self, number: int, reason: str) -> None:
        if not self.skips_bad:
            raise StartError(
                f"Nothing was stored in {self.settings.database_name}: line {number}: {reason}"
            )
        self.skipped += 1
        self.progress.say(f"line {number} was passed over: {reason}")
