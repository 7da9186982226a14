"""Takes new connections in, as many at once as have come.

uvloop's server takes one in a turn of the event loop, and a turn is long under load: the last of
a thousand clients that came together waited for seconds.
"""

import asyncio
import socket
from collections.abc import Callable

_AT_ONCE = 256  # so that requests under way are not kept waiting for long
_PAUSE = 0.1  # seconds, when there is no descriptor left for another connection


class Acceptor:
    """Accepts the connections of `listener`; `protocol` makes what serves each of them."""

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._listener = listener
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[object]] = set()
        listener.settimeout(0)
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Accept no more; connections that were accepted stay."""
        if self._pause:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                client, _address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:
                # They wait in the queue meanwhile.
                self._loop.remove_reader(self._listener)
                self._pause = self._loop.call_later(_PAUSE, self._resume)
                return
            client.settimeout(0)
            opening = self._loop.connect_accepted_socket(self._protocol, client)
            task = self._loop.create_task(opening)
            # The loop itself keeps a task by a weak reference only.
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._accept)
