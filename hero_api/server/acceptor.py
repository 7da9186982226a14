"""Takes new connections in, as many at once as have come.

uvloop's server takes one in a turn of the event loop, and a turn is long under load: the last of
a thousand clients that came together waited for seconds.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable

_AT_ONCE = 256  # so that requests under way are not kept waiting for long
_RECEIVES = 32_768  # bytes that the system takes of a client that is not read
_PAUSE = 0.1  # seconds, when there is no descriptor left for another connection


class Acceptor:
    """Accepts the connections of `listener`; `protocol` makes what serves each of them.

    With a `tls` context they are encrypted; a client may take `timeout` seconds for its handshake.
    """

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.BaseProtocol],
        tls: ssl.SSLContext | None = None,
        timeout: float = 60.0,
    ) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._tls = tls
        self._handshake = timeout if tls else None
        self._pause: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[object]] = set()
        listener.settimeout(0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVES)
        self._loop.add_reader(listener, self._accept)

    async def close(self) -> None:
        """Accept those who have connected until now, and nobody else; connections stay."""
        self._loop.remove_reader(self._listener)
        while self._accept():
            pass
        if self._pause:
            self._pause.cancel()
        self._listener.close()
        if self._opening:
            await asyncio.wait(self._opening, timeout=_PAUSE)

    def _accept(self) -> bool:
        """Accept some of those who have connected; say whether there may be more."""
        for _ in range(_AT_ONCE):
            try:
                client, _address = self._listener.accept()
            except ConnectionAbortedError:
                continue
            except BlockingIOError:
                return False
            except OSError:
                # The clients wait in the system's queue meanwhile.
                self._loop.remove_reader(self._listener)
                self._pause = self._loop.call_later(_PAUSE, self._resume)
                return False
            client.settimeout(0)
            opening = self._loop.connect_accepted_socket(
                self._protocol, client, ssl=self._tls, ssl_handshake_timeout=self._handshake
            )
            task = self._loop.create_task(opening)
            # The loop itself keeps a task by a weak reference only.
            self._opening.add(task)
            task.add_done_callback(self._opened)
        return True

    def _opened(self, task: asyncio.Task[object]) -> None:
        self._opening.discard(task)
        if not task.cancelled():
            task.exception()  # such as that of a handshake, which is no matter for the log

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._accept)
