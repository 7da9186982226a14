"""The socket that the service listens on: of an address, of a path, or one that was handed over."""

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from hero_api.errors import StartError

_BACKLOG = 2048
_EVERYBODY = 0o666  # a proxy often runs as another user; the directory says who may come


class Listener:
    """A socket that listens, and its `name` for people.

    On a path the socket is a file, which the process that made it removes.
    """

    def __init__(self, sock: socket.socket, path: Path | None = None) -> None:
        self.socket = sock
        self._path = path
        self._file = path.stat() if path else None
        self._process = os.getpid()

    def name(self, scheme: str) -> str:
        """Return the URL of an address, or the path."""
        if self.socket.family == socket.AF_UNIX:
            return f"unix:{self._path or self.socket.getsockname()}"
        host, port = self.socket.getsockname()[:2]
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def stop(self) -> None:
        """Remove the socket's file, unless it is a successor's by now."""
        if self._path and self._file and os.getpid() == self._process:
            with suppress(FileNotFoundError):
                if os.path.samestat(self._path.stat(), self._file):
                    self._path.unlink()
            self._path = None

    def close(self) -> None:
        """Stop listening."""
        self.stop()
        self.socket.close()


def listen(host: str, port: int) -> Listener:
    """Listen on an address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return Listener(socket.create_server((host, port), family=family, backlog=_BACKLOG))
    except OSError as error:
        reason = error.strerror or error
        option = "--port" if error.errno in {errno.EADDRINUSE, errno.EACCES} else "--host"
        message = f"Cannot listen on {host} port {port}: {reason}; try another {option}"
        raise StartError(message) from error


def listen_on_path(path: Path) -> Listener:
    """Listen on a path of the file system; a socket that is there already gives way.

    The path always has a socket, so that a service can replace another and refuse nobody.
    """
    sock = socket.socket(socket.AF_UNIX)
    new = Path(f"{path}.{os.getpid()}")
    try:
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is no socket")
        sock.bind(str(new))
        new.chmod(_EVERYBODY)
        sock.listen(_BACKLOG)
        new.rename(path)
        return Listener(sock, path)
    except OSError as error:
        sock.close()
        with suppress(OSError):
            new.unlink()
        reason = error.strerror or error
        raise StartError(f"Cannot listen on {path}: {reason}; try another --uds") from error


def listen_on_descriptor(number: int) -> Listener:
    """Take over a socket that listens already, such as the 3 of systemd's socket activation."""
    try:
        sock = socket.socket(fileno=number)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(f"Cannot use --fd {number}: {error.strerror}") from error
    if not listens:
        sock.detach()
        raise StartError(f"Cannot use --fd {number}: it is no socket that listens")
    return Listener(sock)
