"""A primary and two hot standbys that follow whichever of them is the primary, on the loopback."""

import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .clusters import Cluster, new_cluster, run

NAMES = ("a", "b", "c")
SOON = 60.0  # seconds: far more than anything here takes
# A commit is answered when one standby has it on disk, whoever is the primary.
_SETTINGS = {
    "synchronous_standby_names": f"ANY 1 ({', '.join(NAMES)})",
    "wal_receiver_timeout": "1s",
    "wal_retrieve_retry_interval": "100ms",
    "wal_keep_size": "128MB",
    # In files that go with the server's directory, since it may be killed.
    "dynamic_shared_memory_type": "mmap",
}


class Group:
    """The three servers; `primary` is the one that takes writes, the others are its standbys."""

    def __init__(self, members: dict[str, Cluster]) -> None:
        self.members = members
        self.primary = members[NAMES[0]]
        self._down = {member for member in members.values() if member is not self.primary}
        self._frozen: set[Cluster] = set()

    @property
    def standbys(self) -> list[Cluster]:
        """Those that follow the primary, or would."""
        return [
            member
            for member in self.members.values()
            if member is not self.primary and member not in self._down
        ]

    def url(self, last: Cluster | None = None, **query: str) -> str:
        """Return the URL of all three, for who wants the one that takes writes."""
        members = sorted(self.members.values(), key=lambda member: member is last)
        hosts = ",".join(f"127.0.0.1:{member.port}" for member in members)
        options = {"target_session_attrs": "read-write"} | query
        pairs = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://postgres@{hosts}/postgres?{pairs}"

    def lose_primary(self, *, frozen: bool = False) -> Cluster:
        """Kill the primary, or freeze it; return it."""
        lost = self.primary
        self._down.add(lost)
        if frozen:
            self._frozen.add(lost)
            lost.freeze()
        else:
            lost.kill()
        return lost

    def thaw(self) -> None:
        """Let primaries that were frozen go on; what they were told meanwhile, they do not know."""
        for member in self._frozen:
            member.thaw()

    @contextmanager
    def frozen_primary(self) -> Iterator[None]:
        """Let the primary stand still, until the end; nobody takes its place."""
        self.primary.freeze()
        try:
            yield
        finally:
            self.primary.thaw()

    def most_advanced(self) -> Cluster:
        """Return the standby that has received most, when neither receives any more."""
        for standby in self.standbys:
            wait_until(
                standby, "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE pid <> 0)"
            )
        return max(self.standbys, key=_received)

    def promote(self, standby: Cluster) -> None:
        """Make `standby` the primary; return when it takes writes."""
        self.primary = standby
        with standby.connect() as connection:
            assert connection.execute("SELECT pg_promote()").fetchone() == (True,)

    def look_for_primary_at(self, hosts: Collection[Cluster]) -> None:
        """Let the standbys look for the primary at these hosts only.

        They would wait for a frozen one: a standby heeds no connect_timeout.
        """
        for standby in self.standbys:
            with standby.connect() as connection:
                connection.execute(f"ALTER SYSTEM SET primary_conninfo = '{_conninfo(hosts)}'")
                connection.execute("SELECT pg_reload_conf()")

    @contextmanager
    def waiting_until_shown(self, standby: Cluster) -> Iterator[None]:
        """Let every commit be answered after `standby` shows it, until the end."""
        [name] = [name for name, member in self.members.items() if member is standby]
        values = {
            "synchronous_standby_names": f"FIRST 1 ({name})",
            "synchronous_commit": "remote_apply",
        }
        is_in_force = (
            "SELECT EXISTS (SELECT FROM pg_stat_replication "
            f"WHERE sync_state = 'sync' AND application_name = '{name}')"
        )
        with self.primary.connect() as connection:
            for key, value in values.items():
                connection.execute(f"ALTER SYSTEM SET {key} = '{value}'")
            connection.execute("SELECT pg_reload_conf()")
            try:
                wait_until(self.primary, is_in_force)
                yield
            finally:
                for key in values:
                    connection.execute(f"ALTER SYSTEM RESET {key}")
                connection.execute("SELECT pg_reload_conf()")

    def heal(self) -> None:
        """Make those that are down standbys of the primary; return when all standbys follow it."""
        self.look_for_primary_at(self.members.values())
        for name, member in self.members.items():
            if member in self._down:
                self._join(name, member)
        query = "SELECT count(*) = 2 FROM pg_stat_replication WHERE sync_state = 'quorum'"
        wait_until(self.primary, query)

    def stop(self) -> None:
        """Stop all of them."""
        for member in self.members.values():
            if member in self._frozen:
                member.kill()
            elif member not in self._down:
                member.stop()

    def _join(self, name: str, member: Cluster) -> None:
        if member in self._frozen:
            self._frozen.discard(member)
            member.kill()
        shutil.rmtree(member.data, ignore_errors=True)
        run(
            *("pg_basebackup", "--pgdata", member.data, "--write-recovery-conf"),
            *("--dbname", _conninfo(self.members.values())),
            *("--checkpoint=fast", "--no-sync"),
            cwd=member.directory,
        )
        member.configure({"cluster_name": name})
        member.start()
        self._down.discard(member)


@contextmanager
def running_group() -> Iterator[Group]:
    """Start a primary and two standbys in directories of their own; at the end all are gone."""
    with ExitStack() as stack:
        directories = {
            name: Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hero-api-")))
            for name in NAMES
        }
        group = Group({name: new_cluster(path) for name, path in directories.items()})
        group.primary.initialize(_SETTINGS | {"cluster_name": NAMES[0]})
        group.primary.start()
        stack.callback(group.stop)
        group.heal()
        yield group


def ask(server: Cluster, query: str) -> object:
    """Return the one value that a server answers."""
    with server.connect() as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]


def wait_until(server: Cluster, query: str) -> None:
    """Wait until a server answers yes."""
    deadline = time.monotonic() + SOON
    with server.connect() as connection:
        while connection.execute(query).fetchone() != (True,):
            assert time.monotonic() < deadline, query
            time.sleep(0.01)


def _received(standby: Cluster) -> int:
    received = ask(standby, "SELECT pg_last_wal_receive_lsn() - '0/0'")
    return int(str(received))


def _conninfo(hosts: Collection[Cluster]) -> str:
    # A standby adds its cluster_name, by which its primary knows it.
    parts = {
        "host": ",".join("127.0.0.1" for _ in hosts),
        "port": ",".join(str(host.port) for host in hosts),
        "user": "postgres",
        "target_session_attrs": "read-write",
    }
    return " ".join(f"{key}={value}" for key, value in parts.items())
