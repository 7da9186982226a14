"""`hero-api serve` in a process of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hero_api.settings import PREFIX

from .forked import ForkedProcess

ROOT = Path(__file__).parents[1]
SERVE = ("-m", "hero_api", "serve", "--port", "0")

Process = subprocess.Popen[str] | ForkedProcess

UNPRIVILEGED = """
import os, sys
import hero_api.app, hero_api.commands.check, hero_api.cli, hero_api.server.server
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
hero_api.cli.main()
"""


@dataclass(frozen=True)
class Server:
    """A server that listens on the loopback; `file` is its database, `log` what it complains."""

    process: Process
    host: str
    port: int
    file: Path
    log: Path

    def kill(self) -> None:
        """End the process at once, as `kill -9` does."""
        self.process.kill()
        self.process.wait()

    def descriptors(self) -> int:
        """Return how many files and connections it has open.

        Without SQLite's temporary files, which are deleted while they are used.
        """
        return sum(not name.endswith("(deleted)") for name in open_files(self.process))

    def threads(self) -> int:
        """Return how many threads it has."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def memory(self) -> float:
        """Return the memory that it has now, in megabytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        [kilobytes] = re.findall(r"VmRSS:\s+(\d+) kB", status)
        return int(kilobytes) / 1024


@contextmanager
def launching(
    directory: Path,
    *,
    prefix: Sequence[str] = (),
    options: Sequence[str] = (),
    program: Sequence[str] = SERVE,
    **settings: object,
) -> Iterator[Process]:
    """Launch a server on the heroes of `directory`; at the end it is gone, whatever happened.

    `settings` are named as the fields of `Settings`; `prefix` is a command that runs the server,
    `options` are more of its own, and `program` says what Python is to run in its place.
    """
    settings = {"database_url": f"sqlite:///{directory}/heroes.db"} | settings
    environment = {name: os.environ[name] for name in os.environ if not name.startswith(PREFIX)}
    environment |= {PREFIX + name.upper(): str(value) for name, value in settings.items()}
    if not prefix:
        log = directory / "stderr"
        with closing(ForkedProcess([*program, *options], environment, ROOT, log)) as forked:
            yield forked
        return
    with (
        (directory / "stderr").open("ab") as stderr,
        subprocess.Popen(
            [*prefix, sys.executable, *program, *options],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def listening(process: Process, directory: Path) -> Server:
    """Wait until a server that was launched on `directory` listens."""
    log = directory / "stderr"
    assert process.stdout is not None
    address = re.search(r"http://([\d.]+):(\d+)", process.stdout.readline())
    assert address is not None, log.read_text(errors="replace")
    return Server(process, address[1], int(address[2]), directory / "heroes.db", log)


@contextmanager
def serving(
    directory: Path,
    *,
    prefix: Sequence[str] = (),
    options: Sequence[str] = (),
    program: Sequence[str] = SERVE,
    **settings: object,
) -> Iterator[Server]:
    """Serve the heroes of `directory`, as `launching` does, and wait until the server listens."""
    with launching(
        directory, prefix=prefix, options=options, program=program, **settings
    ) as process:
        yield listening(process, directory)


def open_files(process: Process) -> list[str]:
    """Return the names of the files and connections that a process has open."""
    return [_target(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()]


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:  # it was closed meanwhile
        return "(deleted)"
