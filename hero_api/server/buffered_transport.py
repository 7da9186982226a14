"""A transport that sends the head and the body of an answer together."""

import asyncio
from typing import Any


class BufferedTransport(asyncio.Transport):
    """Sends in one piece what is written in one turn of the event loop.

    uvicorn writes the head of an answer and then its body, and uvloop sends at once what it is
    given: two segments, each of which wakes the client. All answers of a batch are written in one
    turn too, and are then sent one after the other.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []

    def write(self, data: Any) -> None:  # noqa: ANN401 - bytes of any kind
        """Send `data` with the next turn; not to a client that will have left by then."""
        if not self._pieces:
            self._loop.call_soon(self._send)
        self._pieces.append(data)

    def close(self) -> None:
        """Close the transport when all is sent."""
        self._send()
        self._transport.close()

    def abort(self) -> None:
        """Close the transport now."""
        self._pieces.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        """Say whether the transport is closing, or closed."""
        return self._transport.is_closing()

    def is_reading(self) -> bool:
        """Say whether the transport is receiving."""
        return self._transport.is_reading()

    def pause_reading(self) -> None:
        """Receive nothing for a while."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Receive again."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401
        """Return what the transport knows under this name."""
        return self._transport.get_extra_info(name, default)

    def _send(self) -> None:
        if self._pieces and not self._transport.is_closing():
            self._transport.write(b"".join(self._pieces))
        self._pieces.clear()
