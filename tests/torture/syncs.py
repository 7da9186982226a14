"""Whether each answer leaves after what it says was synced to the disk, as strace sees it."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.servers import serving

from .wire import Connection

_CALLS = "fsync,fdatasync,pwrite64,write,writev,sendto,sendmsg"
_CALL = re.compile(r"(\d+) +(\w+)\(\d+<([^>]*)>(.*)")
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>.*= 0$")
_ENDED = re.compile(r"\+\+\+ exited with")
HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}


class Syncs(NamedTuple):
    """How many creates were answered, and how many of the answers left too early."""

    answers: int
    early: int


def missing() -> str | None:
    """Return in one line why nothing can be traced here, if so."""
    if shutil.which("strace") is None:
        return "strace is not installed; on Debian: apt install strace"
    command = ["strace", "-D", "-f", "-o", "/dev/null", "true"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    if done.returncode:
        return "strace may not trace here; in a container, add --cap-add=SYS_PTRACE"
    return None


async def count_early(directory: Path, creates: int, *, synchronous: str) -> Syncs:
    """Create heroes one after the other, and count the answers that left before their sync."""
    trace = directory / "trace"
    # -D: the server is the child of this process, and not strace's.
    strace = ["strace", "-D", "-f", "-y", "-s", "16", "-e", f"trace={_CALLS}", "-o", str(trace)]
    with serving(directory, prefix=strace, synchronous=synchronous) as server:
        async with Connection(server.host, server.port) as connection:
            for _ in range(creates):
                answer = await connection.request("POST", "/heroes/", HERO)
                assert answer.status == 200
        server.process.terminate()
        assert server.process.wait(60) == 0
        return _count(_lines(trace, server.process.pid))


def _lines(trace: Path, pid: int) -> Iterator[str]:
    """Yield the lines of a trace, up to the one that says that the process has ended."""
    end = time.monotonic() + 60
    with trace.open(encoding="utf-8", errors="replace") as file:
        line = ""
        while time.monotonic() < end:
            line += file.readline()
            if not line.endswith("\n"):
                continue  # strace has not written the rest yet
            if _ENDED.search(line) and line.split()[0] == str(pid):
                return
            yield line.rstrip()
            line = ""
    message = "strace did not end"
    raise TimeoutError(message)


def _count(lines: Iterable[str]) -> Syncs:
    """Count the answers of 200, and those that nothing was written for, or that was not synced."""
    answers = early = 0
    written, synced = False, True
    syncing = ""
    for line in lines:
        call = _CALL.match(line)
        if call is None:
            resumed = _RESUMED.match(line)
            if resumed is not None and resumed[1] == syncing:
                synced, syncing = True, ""
            continue
        pid, name, path, rest = call.groups()
        if path.endswith("-wal"):
            if name == "pwrite64":
                written, synced = True, False
            elif name in {"fsync", "fdatasync"}:
                if rest.endswith("= 0"):
                    synced = True
                else:
                    syncing = pid
        elif "HTTP/1.1 200" in rest:
            answers += 1
            early += not (written and synced)
            written = False
    return Syncs(answers, early)
