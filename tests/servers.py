"""`hero-api serve` in a process of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hero_api.settings import PREFIX

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Server:
    """A server that listens on the loopback; `file` is its database, `log` what it complains."""

    process: subprocess.Popen[str]
    host: str
    port: int
    file: Path
    log: Path

    @property
    def address(self) -> str:
        """The start of its URLs."""
        return f"http://{self.host}:{self.port}"

    def kill(self) -> None:
        """End the process at once, as `kill -9` does."""
        self.process.kill()
        self.process.wait()

    def descriptors(self) -> int:
        """Return how many files and connections it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        """Return how many threads it has."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def memory(self) -> float:
        """Return the memory that it has now, in megabytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        [kilobytes] = re.findall(r"VmRSS:\s+(\d+) kB", status)
        return int(kilobytes) / 1024


@contextmanager
def serving(directory: Path, *, prefix: Sequence[str] = (), **settings: object) -> Iterator[Server]:
    """Serve the heroes of `directory`; at the end the process is gone, whatever happened.

    `settings` are named as the fields of `Settings`; `prefix` is a command that runs the server.
    """
    file, log = directory / "heroes.db", directory / "stderr"
    environment = {name: os.environ[name] for name in os.environ if not name.startswith(PREFIX)}
    environment |= {PREFIX + name.upper(): str(value) for name, value in settings.items()}
    environment[f"{PREFIX}DATABASE_URL"] = f"sqlite:///{file}"
    with (
        log.open("ab") as stderr,
        subprocess.Popen(
            [*prefix, sys.executable, "-m", "hero_api", "serve", "--port", "0"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            listening = re.search(r"http://([\d.]+):(\d+)", process.stdout.readline())
            assert listening is not None, log.read_text(errors="replace")
            yield Server(process, listening[1], int(listening[2]), file, log)
        finally:
            process.kill()
