"""Ports for programs that have to be told theirs."""

import random
import socket
from contextlib import suppress
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")  # where the system has its own choices from


def free_port() -> int:
    """Return a port of the loopback that is free.

    It is none that a connection, or a server on port 0, may get until the program listens on it.
    """
    lowest = int(_RANGE.read_text(encoding="ascii").split()[0])
    while True:
        port = random.SystemRandom().randrange(lowest // 2, lowest)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
